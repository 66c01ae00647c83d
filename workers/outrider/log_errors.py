"""What a log that cannot be written (full disk, closed pipe) costs: its lines, a few words, no request."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from outrider.log_journal import marked_as_error
from outrider.log_json import JSONFormatter

INTERVAL = 60.0
"""Seconds between two sentences about one handler."""


class _Reporter:
    """Stands in for the `handleError` of one handler."""

    __slots__ = ("_clock", "_handler", "_lost", "_next")

    def __init__(self, handler: logging.Handler, clock: Callable[[], float]) -> None:
        self._handler = handler
        self._clock = clock
        self._lost = 0
        self._next = clock()

    def __call__(self, record: logging.LogRecord) -> None:
        self._lost += getattr(record, "count", 1)  # several that a LogWriter has joined
        now = self._clock()
        if now < self._next or not logging.raiseExceptions:
            return
        self._next = now + INTERVAL
        error = sys.exc_info()[1]
        # A failed write is the disk's or the reader's fault; anything else lies in the call that logged.
        origin = "" if isinstance(error, OSError) else f", logged at {record.pathname}:{record.lineno}"
        sentence = (
            f"outrider: can't write the log {self._handler!r} ({type(error).__name__}: {error}){origin}; "
            f"lines lost since the last such message: {self._lost}. Requests are still served."
        )
        self._lost = 0
        if isinstance(self._handler.formatter, JSONFormatter):  # what reads the log may read this as well
            told = logging.LogRecord("outrider.log", logging.ERROR, "", 0, sentence, None, None)
            sentence = JSONFormatter().format(told)
        try:
            sys.stderr.write(f"{marked_as_error(sentence, sys.stderr)}\n")
            sys.stderr.flush()
        except (AttributeError, OSError, ValueError):
            # stderr is missing, on the same full disk, or closed: nobody is left to tell.
            return


def quiet_handler_errors(loggers: Iterable[logging.Logger], clock: Callable[[], float] = time.monotonic) -> None:
    """Have the handlers of the loggers, inherited ones included, report failures in few words.

    Each handler writes at most one sentence in `INTERVAL` to stderr instead of a traceback for each line.

    Args:
        loggers: such as gunicorn's error and access log.
        clock: seconds, monotonic.
    """
    for handler in handlers_of(loggers):
        if not isinstance(handler.handleError, _Reporter):
            handler.handleError = _Reporter(handler, clock)  # type: ignore[method-assign]  # of this one handler


def handlers_of(loggers: Iterable[logging.Logger]) -> Iterator[logging.Handler]:
    """All handlers that get the records of these loggers, inherited ones included."""
    for logger in loggers:
        current: logging.Logger | None = logger
        while current is not None:
            yield from current.handlers
            current = current.parent if current.propagate else None
