"""How processes end, in words."""

from __future__ import annotations

import signal


def describe_exit(status: int | None) -> str:
    """Say how a process ended, so that it reads on from "the master ".

    Args:
        status: its exit code, or minus the signal that killed it; None if it was another process's child.
    """
    if status is None:
        return "is gone"
    if status >= 0:
        return f"exited with code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
