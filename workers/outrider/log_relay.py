"""What stands in front of a log handler whose lines a thread is to write.

The handler, gunicorn's or one of a logconfig, formats and filters where a line is logged, and writes in the thread.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

_RECORD_SIZE = 1024  # what a record is taken for whose handler formats it itself


class Queue(Protocol):
    """What takes the lines to the thread."""

    is_running: bool

    def put(self, relay: Relay, payload: str | Callable[[], object], size: int, *, is_urgent: bool) -> None:
        """Queue a line, or a call that writes one."""

    def write_last_words(self, relay: Relay, write: Callable[[], object], size: int) -> None:
        """Have a line written at once."""


class Lines(logging.LogRecord):
    """Formatted lines, as a record for the `emit` of a handler. `count` is how many."""

    def __init__(self, text: str, count: int) -> None:
        super().__init__("outrider", logging.INFO, "", 0, text, None, None)
        self.text = text
        self.count = count


class Relay:
    """Stands in for the `handle` of one handler."""

    __slots__ = ("_handle", "_has_own_handle", "_own_handle", "_queue", "handler", "is_text")

    def __init__(self, handler: logging.Handler, queue: Queue) -> None:
        self.handler = handler
        self._queue = queue
        self._handle = handler.handle
        self._own_handle = vars(handler).get("handle")
        self._has_own_handle = _is_overridden(handler, "handle", logging.Handler)
        self.is_text = not self._has_own_handle and _writes_text(handler)
        if self.is_text:
            handler.format = self._format  # type: ignore[method-assign]  # of this one handler

    def __call__(self, record: logging.LogRecord) -> bool:
        """logging: handle a record, which it may filter here, where it was logged."""
        queue, handler = self._queue, self.handler
        if not queue.is_running:
            return bool(self._handle(record))
        if not self._has_own_handle:
            kept: Any = handler.filter(record)
            if not kept:
                return False
            if isinstance(kept, logging.LogRecord):  # from Python 3.12 on a filter may replace it
                record = kept
        is_urgent = record.levelno >= logging.WARNING
        text = None
        if self.is_text:
            try:
                text = handler.format(record)
            except Exception as error:  # noqa: BLE001  # as in any handler's emit
                queue.put(self, partial(_tell, handler, record, error), _RECORD_SIZE, is_urgent=True)
                return True
        if record.levelno >= logging.CRITICAL:
            last_words = partial(self._write_record, record) if text is None else partial(self.write_lines, [text])
            queue.write_last_words(self, last_words, _RECORD_SIZE if text is None else _size_of(text))
        elif text is not None:
            self.put(text, is_urgent=is_urgent)
        else:
            write = partial(contextvars.copy_context().run, self._write_record, record)
            queue.put(self, write, _RECORD_SIZE, is_urgent=is_urgent)
        return True

    def put(self, text: str, *, is_urgent: bool = False) -> None:
        """Queue a line that is formatted, for a handler with `is_text`."""
        self._queue.put(self, text, _size_of(text), is_urgent=is_urgent)

    def takes_lines(self) -> bool:
        """Whether `put` comes to the same as a record at INFO would."""
        handler = self.handler
        return self.is_text and self._queue.is_running and not handler.filters and handler.level <= logging.INFO

    def write_lines(self, texts: list[str]) -> None:
        """In the thread: write lines."""
        handler: Any = self.handler
        text = _encodable(handler.terminator.join(texts), handler.stream or handler)
        self._emit_locked(Lines(text, len(texts)))

    def detach(self) -> None:
        """Leave the handler as it was."""
        vars(self.handler).pop("handle", None)
        if self._own_handle is not None:
            self.handler.handle = self._own_handle  # type: ignore[method-assign]  # as it was
        if self.is_text:
            vars(self.handler).pop("format", None)

    def _write_record(self, record: logging.LogRecord) -> None:
        if self._has_own_handle:
            self._handle(record)
        else:
            self._emit_locked(record)

    def _emit_locked(self, record: logging.LogRecord) -> None:
        handler = self.handler
        handler.acquire()
        try:
            handler.emit(record)
        finally:
            handler.release()

    def _format(self, record: logging.LogRecord) -> str:
        return record.text if type(record) is Lines else type(self.handler).format(self.handler, record)


def _is_overridden(handler: logging.Handler, method: str, *stock: type[logging.Handler]) -> bool:
    """Whether what a handler does is other than in each of these classes, by its class or on itself alone."""
    own = getattr(type(handler), method)
    return method in vars(handler) or all(own is not getattr(each, method) for each in stock)


def _writes_text(handler: logging.Handler) -> bool:
    """Whether the handler writes what its `format` returns, and a terminator, to a stream."""
    is_stream = not _is_overridden(handler, "emit", logging.StreamHandler, logging.FileHandler)
    return is_stream and isinstance(handler, logging.StreamHandler) and "format" not in vars(handler)


def _size_of(text: str) -> int:
    """Bytes of a line with its end."""
    return 1 + (len(text) if text.isascii() else len(text.encode(errors="backslashreplace")))


def _encodable(text: str, stream: Any) -> str:
    """The text with what the stream cannot write escaped: one such character would cost all lines that it is among."""
    encoding = getattr(stream, "encoding", None)
    if text.isascii() or not encoding:
        return text
    try:
        text.encode(encoding, getattr(stream, "errors", None) or "strict")
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:  # "locale", of a file that is not open yet
        return text
    return text


def _tell(handler: logging.Handler, record: logging.LogRecord, error: Exception) -> None:
    """In the thread, since standard error may be stuck as well: have the handler say that it can't format a record."""
    try:
        raise error  # noqa: TRY301  # handlers look at the exception that is being handled
    except Exception:  # noqa: BLE001  # whatever it is
        handler.handleError(record)
