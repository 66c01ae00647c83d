"""Lines for systemd's journal: with a priority in front (sd-daemon(3)), without what journald adds itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

# Of syslog(3): critical, error, warning, info, debug.
_PRIORITIES = (
    (logging.CRITICAL, "<2>"),
    (logging.ERROR, "<3>"),
    (logging.WARNING, "<4>"),
    (logging.INFO, "<6>"),
)
_DEBUG = "<7>"


def priority(level: int) -> str:
    """What stands in front of a line of this level, one of `logging`."""
    return next((prefix for least, prefix in _PRIORITIES if level >= least), _DEBUG)


def with_priority(text: str, level: int) -> str:
    """The text with the priority in front of each line, which journald takes for an entry of its own."""
    prefix = priority(level)
    return prefix + text.replace("\n", f"\n{prefix}")


def goes_to_journal(stream: Any, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a stream leads to journald: it is the one that JOURNAL_STREAM names (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):  # none, closed, or no file at all
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def marked_as_error(text: str, stream: Any) -> str:
    """What is written to a stream beside the log: with its priority, if that is the journal."""
    return with_priority(text, logging.ERROR) if goes_to_journal(stream) else text


class JournalFormatter(logging.Formatter):
    """An event, or a line of gunicorn's access log: the message, and the traceback where there is one."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """logging: the lines of a record."""
        return with_priority(super().format(record), record.levelno)
