"""Log lines on their way out: a thread writes them, so that a slow disk or pipe holds up the log and nothing else.

The handlers stay in charge of where lines go and how they look; each gets a `Relay` in front, which queues. The queue
is bounded: what it has no room for is dropped, counted, and told of in the log once that flows again.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol

from outrider.log_errors import handlers_of
from outrider.log_relay import Relay

MOST_BYTES = 4 * 1024 * 1024
MOST_LINES = 20_000
"""What may wait to be written."""
GATHER = 0.05
"""Seconds that a line may wait for others to be written with it."""
PIECE = 4096
"""Bytes that are written at once: PIPE_BUF of pipe(7), so that lines of several workers in one pipe are not torn."""
REPORT_PERIOD = 10.0
"""Seconds that at least pass between two lines about dropped ones."""
LAST_WORDS_PATIENCE = 0.15
"""Seconds that whoever logs at CRITICAL waits for it to be written: the process may be killed for what it is about."""
EXIT_PATIENCE = 1.0
LEAST_EXIT_PATIENCE = 0.25
"""Seconds that the end of a process waits for its log: the latter if the process is over its time."""

_FORK_PATIENCE = 0.1

_running: weakref.WeakSet[LogWriter] = weakref.WeakSet()


class Log(Protocol):
    """The methods of a logger that the writer calls itself, in its thread."""

    def warning(self, msg: str, *args: object) -> None:
        """Log at WARNING."""

    def exception(self, msg: str, *args: object) -> None:
        """Log at ERROR with the traceback of the current exception."""


_Item = tuple[Relay | None, str | Callable[[], object], int]


class LogWriter:
    """The queue and its thread. Until `start`, and in processes that are forked off, handlers write by themselves.

    `drops` counts the lines that were dropped. Logging through it is safe in signal handlers: nothing here takes a
    lock that the interrupted code may hold.
    """

    def __init__(
        self,
        loggers: Iterable[logging.Logger],
        log: Log,
        clock: Callable[[], float] = time.monotonic,
        gather: float = GATHER,
    ) -> None:
        """Take what is needed to write.

        Args:
            loggers: whose handlers, inherited ones included, write in the thread.
            log: for what the writer itself has to say.
            clock: monotonic seconds.
            gather: seconds that a line waits for others to be written with it, unless one of them is a warning.
        """
        self._loggers = tuple(loggers)
        self._log = log
        self._clock = clock
        self._gather = gather
        self._relays: list[Relay] = []
        # Its put() may interrupt itself, as in a signal handler.
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._hurry: SimpleQueue[None] = SimpleQueue()
        # What waits. Threads may put these a little off; they are right again as soon as nothing waits.
        self._lines = 0
        self._bytes = 0
        self._writing = threading.Lock()
        self._is_held = False
        self._busy_with: Relay | None = None
        self._is_held_up = False
        self._told_drops = 0
        self._tell_at = float("-inf")
        self._exit_status = 0
        self._end_by = float("inf")
        self._thread: threading.Thread | None = None
        self.is_running = False
        self.drops = 0

    def start(self) -> None:
        """Begin to write in the thread, for the handlers there are now. After the fork, which no thread survives.

        Where no thread can be started the handlers go on by themselves.
        """
        self._thread = threading.Thread(target=self._run, name="outrider-log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the user, or the control group, has as many as it may have
            self._thread = None
            self._log.warning("The log is written without a thread, so a slow disk holds up more than that: %s", error)
            return
        self.is_running = True
        self.attach()
        _running.add(self)

    def attach(self) -> None:
        """Stand in front of the handlers that there are now. One with `never_waits` set is left alone."""
        for handler in handlers_of(self._loggers):
            if not isinstance(handler.handle, Relay) and not getattr(handler, "never_waits", False):
                relay = Relay(handler, self)
                handler.handle = relay  # type: ignore[method-assign]  # of this one handler
                self._relays.append(relay)

    def stop(self, patience: float) -> bool:
        """Write what waits, end the thread, and leave the handlers as they were. False: it could not all be written."""
        is_flushed = self.flush(patience)
        _running.discard(self)
        self.is_running = False
        self.call(self._end_thread)
        for relay in self._relays:
            relay.detach()
        self._relays.clear()
        return is_flushed

    def put(self, relay: Relay, payload: str | Callable[[], object], size: int, *, is_urgent: bool) -> None:
        """Queue something to write, or drop it."""
        if not self._enqueue(relay, payload, size):
            self.drops += 1
        elif is_urgent:
            self._hurry.put(None)

    def _enqueue(self, relay: Relay, payload: str | Callable[[], object], size: int) -> bool:
        """Whether there was room."""
        if self._lines and (self._lines >= MOST_LINES or self._bytes + size > MOST_BYTES):
            return False
        self._lines += 1
        self._bytes += size
        self._queue.put((relay, payload, size))
        return True

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the thread, when all that was logged before is written; here if there is no thread."""
        if self._thread is None:
            function()
        else:
            self._queue.put((None, function, 0))
            self._hurry.put(None)

    def flush(self, patience: float) -> bool:
        """Wait until all that was logged before is written. False: `patience` seconds were not enough."""
        if not self.is_running or threading.current_thread() is self._thread:
            return True
        written: SimpleQueue[None] = SimpleQueue()
        self.call(partial(written.put, None))
        try:
            written.get(timeout=patience)
        except Empty:
            self._is_held_up = True
            return False
        return True

    def write_last_words(self, relay: Relay, write: Callable[[], object], size: int) -> None:
        """Write in the thread, and wait for that. If the thread is stuck in another handler, write here."""
        claim = threading.Lock()

        def write_once() -> None:
            if claim.acquire(blocking=False):
                write()

        is_queued = self._enqueue(relay, write_once, size)
        is_written = is_queued and not self._is_held_up and self.flush(LAST_WORDS_PATIENCE)
        if not is_written and self._busy_with is not relay:
            write_once()
        elif not is_queued:
            self.drops += 1

    def expect_exit(self, status: int, end_by: float = 0.0) -> None:
        """The process is about to end with this status, and has until `end_by` (of the clock), if that is not 0.

        What waits is written, as far as there is time.
        """
        self._exit_status = status
        self._end_by = end_by or float("inf")
        self.flush(self._exit_patience())

    def finish(self) -> None:
        """At the exit of the process: write what waits. Where the log is stuck, end the process at once.

        An interpreter that shuts down flushes its streams: that would hang, or crash, while the thread is stuck in one.
        """
        if not self.flush(0.0 if self._is_held_up else self._exit_patience()):
            os._exit(self._exit_status)

    def _exit_patience(self) -> float:
        return max(LEAST_EXIT_PATIENCE, min(EXIT_PATIENCE, self._end_by - self._clock()))

    # -- around a fork

    def hold(self) -> None:
        """Before a fork: let no stream be in the middle of a write, which would never end in the child."""
        self._is_held = self._writing.acquire(timeout=_FORK_PATIENCE)

    def release(self) -> None:
        """After a fork: go on."""
        if self._is_held:
            self._is_held = False
            self._writing.release()

    def forget_thread(self) -> None:
        """In the child of a fork, which has no thread: handlers write by themselves; what waits is the parent's."""
        self._thread = None
        self.is_running = False
        _running.discard(self)

    # -- in the thread

    def _run(self) -> None:
        while self._thread is not None:
            items = self._take()
            try:
                with self._writing:
                    self._write_out(items)
                self._tell_of_drops()
            except BaseException:  # noqa: BLE001, S112  # a handler's SystemExit: the log goes on without these lines
                continue

    def _take(self) -> list[_Item]:
        """Wait for something to write, then a moment more for what comes behind it, unless it is urgent."""
        queue, hurry = self._queue, self._hurry
        if queue.empty():
            self._lines = self._bytes = 0
        pause = None if self.drops == self._told_drops else max(0.0, self._tell_at - self._clock())
        try:
            first = queue.get(timeout=pause)
        except Empty:
            return []
        with suppress(Empty):
            hurry.get(timeout=self._gather)
        while not hurry.empty():
            hurry.get_nowait()
        return [first, *(queue.get_nowait() for _ in range(queue.qsize()))]

    def _write_out(self, items: list[_Item]) -> None:
        texts: list[str] = []
        length = 0
        writing: Relay | None = None
        for relay, payload, size in items:
            is_text = isinstance(payload, str)
            if texts and (relay is not writing or not is_text or length + size > PIECE):
                self._write(writing, texts, length)
                texts, length = [], 0
            writing = relay
            if isinstance(payload, str):
                texts.append(payload)
                length += size
            else:
                self._write(relay, payload, size)
        if texts:
            self._write(writing, texts, length)

    def _write(self, relay: Relay | None, payload: list[str] | Callable[[], object], size: int) -> None:
        self._busy_with = relay
        try:
            if relay is not None and isinstance(payload, list):
                relay.write_lines(payload)
            elif callable(payload):
                payload()
        except Exception:  # noqa: BLE001  # whatever a handler does, the log goes on
            self._log.exception("A log handler raised")
        finally:
            self._busy_with = None
            self._is_held_up = False
            self._bytes -= size
            self._lines -= len(payload) if isinstance(payload, list) else bool(size)

    def _tell_of_drops(self) -> None:
        drops, now = self.drops, self._clock()
        has_room = self._lines < MOST_LINES / 2 and self._bytes < MOST_BYTES / 2
        if drops != self._told_drops and now >= self._tell_at and has_room:
            since, self._told_drops, self._tell_at = self._told_drops, drops, now + REPORT_PERIOD
            self._log.warning(
                "The log did not keep up (a slow disk, or a pipe that is not read): %d lines dropped", drops - since
            )

    def _end_thread(self) -> None:
        self._thread = None


def _each(act: Callable[[LogWriter], None]) -> Callable[[], None]:
    def act_on_each() -> None:
        for writer in list(_running):
            act(writer)

    return act_on_each


atexit.register(_each(LogWriter.finish))
os.register_at_fork(
    before=_each(LogWriter.hold),
    after_in_parent=_each(LogWriter.release),
    after_in_child=_each(LogWriter.forget_thread),
)
