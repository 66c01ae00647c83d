"""What still writes the stacks, and ends the process, where no Python code can run."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class DeadManSwitch:
    """Dumps every thread's stack unless it is armed again in time, with no need of the interpreter lock.

    It is faulthandler's timer, of which a process has one: a thread in C. It writes to a duplicate of the
    descriptor, for a log that is reopened must not leave it with a number that by then belongs to a client.
    """

    def __init__(self, find_descriptor: Callable[[], int | None]) -> None:
        """Take a function that returns where to write at the moment; with None there is no switch."""
        self._find_descriptor = find_descriptor
        self._descriptor: int | None = None

    def arm(self, seconds: float, *, exit: bool) -> None:  # noqa: A002  # faulthandler's name for it
        """Dump in `seconds` from now, in place of what was armed before; then end the process, if `exit`."""
        found = self._find_descriptor()
        if found is None:
            return
        try:
            descriptor = os.dup(found)
        except OSError:  # out of descriptors: the last one still serves
            if self._descriptor is None:
                return
            descriptor = self._descriptor
        faulthandler.dump_traceback_later(max(seconds, 0.001), file=descriptor, exit=exit)
        if descriptor != self._descriptor:
            self._close()
        self._descriptor = descriptor

    def disarm(self) -> None:
        """Dump nothing."""
        if self._descriptor is not None:
            faulthandler.cancel_dump_traceback_later()
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def log_descriptor(log: object) -> int | None:
    """Return the descriptor that the error log writes to, else that of standard error, else None.

    Args:
        log: gunicorn's logger, which has the standard library's logger in `error_log`, or a standard logger.
    """
    error_log = getattr(log, "error_log", log)
    handlers = error_log.handlers if isinstance(error_log, logging.Logger) else []
    streams: list[Any] = [getattr(handler, "stream", None) for handler in handlers]
    for stream in (*streams, sys.stderr):
        try:
            return int(stream.fileno())
        except (AttributeError, OSError, ValueError):
            continue  # none, closed, or one in memory
    return None
