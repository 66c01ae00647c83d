"""The signals that the supervisor handles, and what each has it do."""

from __future__ import annotations

import signal
from collections.abc import Mapping

HANDLED_SIGNALS: Mapping[signal.Signals, str] = {
    signal.SIGHUP: "Reload, as `outrider reload` does.",
    signal.SIGTTIN: "One worker more.",
    signal.SIGTTOU: "One worker less; the last one stays.",
    signal.SIGUSR1: "Reopen the log files, in all processes.",
    signal.SIGUSR2: "Replace the supervisor itself, as `outrider upgrade` does.",
    signal.SIGTERM: "Stop when requests are answered, `graceful_timeout` at most; a second one stops at once.",
    signal.SIGINT: "Stop at once.",
    signal.SIGQUIT: "Stop at once.",
    signal.SIGWINCH: "Nothing: terminals send it.",
    signal.SIGCHLD: "Nothing that you would notice: the kernel sends it when a process has ended.",
}
"""Not for masters and workers: what those do with a signal is gunicorn's, and the worker's."""
