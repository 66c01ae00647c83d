"""The supervisor's log: lines like gunicorn's or JSON, the latest for `status`, and what workers last said."""

from __future__ import annotations

import logging
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from outrider.log_errors import quiet_handler_errors
from outrider.log_json import choose_formatter
from outrider.log_writer import EXIT_PATIENCE, LogWriter
from outrider_supervisor.actions import Level
from outrider_supervisor.status import EventStatus

KEPT_EVENTS = 100
KEPT_PROCESSES = 64
KEPT_REPORTS = 5
LONGEST_REPORT = 16384
_LEVELS = {Level.INFO: logging.INFO, Level.WARNING: logging.WARNING, Level.ERROR: logging.ERROR}


class Journal:
    """Writes to stderr, or to gunicorn's error log once its path is known.

    After `start_writer` a thread writes: a disk or pipe that is stuck holds up nobody but the log.
    """

    def __init__(self) -> None:
        self.logger = logging.getLogger("outrider.supervisor")
        self.logger.propagate = False
        self.logger.setLevel(logging.INFO)
        self._path = "-"
        self._format = "auto"
        self._writer = LogWriter((self.logger,), self.logger, gather=0.0)
        self.events: deque[EventStatus] = deque(maxlen=KEPT_EVENTS)
        self.recorded = 0
        """How many events there have been: the number of the last one."""
        self.on_event: Callable[[], None] = _nothing
        self._reports: OrderedDict[int, deque[str]] = OrderedDict()
        self._handler: logging.Handler = logging.NullHandler()
        self._use(logging.StreamHandler(sys.stderr))

    def start_writer(self) -> None:
        """Write in a thread from now on."""
        self._writer.start()

    def flush(self) -> None:
        """Wait a moment for what was logged to be written."""
        self._writer.flush(EXIT_PATIENCE)

    def expect_exit(self, status: int) -> None:
        """The process is about to end with this status, even if its log is stuck."""
        self._writer.expect_exit(status)

    def configure(self, errorlog: str, loglevel: str, log_format: str = "auto") -> None:
        """Log where, as loud and in the format that the workers do.

        Where the file cannot be written, go on as before and say so.
        """
        level = logging.getLevelNamesMapping().get(loglevel.upper(), logging.INFO)
        self.logger.setLevel(level)
        self._format = log_format
        self._handler.setFormatter(self._make_formatter(self._handler))
        if errorlog == self._path:
            return
        try:
            handler = logging.StreamHandler(sys.stderr) if errorlog == "-" else logging.FileHandler(errorlog)
        except OSError as error:
            self.logger.warning(
                "errorlog %s cannot be opened (%s): the log stays where it is", errorlog, error.strerror
            )
            return
        self._path = errorlog
        self._use(handler)

    def reopen(self) -> None:
        """Open the file anew: it has been moved away."""
        if self._path != "-":
            path, self._path = self._path, "-"
            self.configure(path, logging.getLevelName(self.logger.level), self._format)
            self._path = path

    def write(self, level: Level, text: str) -> None:
        """Log one decision, and keep it for `status`."""
        self.logger.log(_LEVELS[level], text)
        self.remember(level, text)

    def remember(self, level: Level, text: str) -> None:
        """Keep for `status` what is in the log already."""
        self.events.append({"at": round(time.time(), 3), "level": level.value, "text": text[:LONGEST_REPORT]})
        self.recorded += 1
        self.on_event()

    def to_state(self) -> dict[str, Any]:
        """What `take_state` needs in the supervisor that replaces this one."""
        return {
            "errorlog": self._path,
            "loglevel": logging.getLevelName(self.logger.level),
            "log_format": self._format,
            "events": list(self.events),
            "recorded": self.recorded,
        }

    def take_state(self, state: dict[str, Any]) -> None:
        """Log on where another supervisor did."""
        self.configure(state["errorlog"], state["loglevel"], state["log_format"])
        self.events.extend(state["events"])
        self.recorded += state.get("recorded", 0)

    def keep_report(self, pid: int, text: str) -> None:
        """Remember what a process has logged: it may be the last thing it says."""
        reports = self._reports.setdefault(pid, deque(maxlen=KEPT_REPORTS))
        self._reports.move_to_end(pid)
        reports.append(text[-LONGEST_REPORT:])
        while len(self._reports) > KEPT_PROCESSES:
            self._reports.popitem(last=False)

    def last_words(self, pid: int) -> str:
        """The last log lines of a process, tracebacks included; empty if it said nothing."""
        return "\n".join(self._reports.get(pid, ()))

    def close(self) -> None:
        """Log no more."""
        self.logger.removeHandler(self._handler)
        self._writer.stop(EXIT_PATIENCE)
        self._drop(self._handler)

    def _use(self, handler: logging.Handler) -> None:
        handler.setFormatter(self._make_formatter(handler))
        before, self._handler = self._handler, handler
        self.logger.addHandler(handler)
        quiet_handler_errors((self.logger,))
        if self._writer.is_running:
            self._writer.attach()
        self._drop(before)

    def _make_formatter(self, handler: logging.Handler) -> logging.Formatter:
        return choose_formatter(self._format, getattr(handler, "stream", None)) or logging.Formatter(
            "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s", "%Y-%m-%d %H:%M:%S %z"
        )

    def _drop(self, handler: logging.Handler) -> None:
        self.logger.removeHandler(handler)
        if isinstance(handler, logging.FileHandler):
            self._writer.call(partial(_close, handler))


def _close(handler: logging.FileHandler) -> None:
    with suppress(OSError, ValueError):  # it writes what it could not write before, to the same full disk
        handler.close()


def _nothing() -> None:
    """Stand in for somebody who wants to know of events."""
