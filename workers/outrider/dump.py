"""What a worker does at the moment, for its log: requests in flight, the stacks of its tasks and of its threads."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from outrider.task_dump import describe_tasks

if TYPE_CHECKING:
    from types import FrameType

# With the 160 KB of task_dump these are 256 KB.
MOST_BYTES_OF_REQUESTS = 32 * 1024
MOST_BYTES_OF_THREADS = 64 * 1024
MOST_FRAMES_OF_A_THREAD = 100


class Dump:
    """Logs what the worker does, in signal handlers: it never raises into what they interrupt.

    The handlers are Python's. faulthandler's would answer even where one call holds the interpreter lock, but it
    walks the stacks of threads that run, without that lock, and a worker that serves must survive its dump. For a
    call that does not return there is the watchdog's dead man's switch.
    """

    def __init__(self, log: Any, describe_requests: Callable[[], Sequence[str]]) -> None:
        """Take gunicorn's logger, and what returns the requests in flight, a line each."""
        self._log = log
        self._describe_requests = describe_requests
        self._is_asked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outside: Collection[FrameType] = ()

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell of the tasks of this loop as well, which the calling function is about to run.

        What has called that function, gunicorn's way to the worker, is left out of the stack of its thread.
        """
        self._loop = loop
        self._outside = list(_frames_down_from(sys._getframe(1).f_back))  # noqa: SLF001  # documented

    def log_on_request(self, pid: int, frame: FrameType | None) -> None:
        """Log a dump that somebody asked for, whatever `loglevel` is. Asked again meanwhile, it is one.

        Args:
            pid: of this process.
            frame: where the signal interrupted this thread.
        """
        if self._is_asked:
            return
        self._is_asked = True
        try:
            is_heard = self._log.error_log.isEnabledFor(logging.WARNING)
            self._write(self._log.warning if is_heard else self._log.critical, f"Worker dump (pid: {pid}).", frame)
        finally:
            self._is_asked = False

    def log_on_abort(self, pid: int, frame: FrameType | None) -> None:
        """Log the last words of a worker that is aborted."""
        self._write(self._log.critical, f"Worker aborted (pid: {pid}).", frame)

    def _write(self, write: Callable[..., None], headline: str, frame: FrameType | None) -> None:
        try:
            # `report` is for handlers that pass dumps on.
            write("%s %s", headline, self._describe(frame), extra={"report": "dump"})
        except Exception:  # noqa: BLE001  # a log that can't be written: nobody is left to tell
            return

    def _describe(self, frame: FrameType | None) -> str:
        requests = _fit([f"{line}\n" for line in self._describe_requests()], MOST_BYTES_OF_REQUESTS, "Requests")
        threads = _fit(describe_threads(frame, self._outside), MOST_BYTES_OF_THREADS, "Threads")
        # What a reader looks for comes first.
        return "".join(("Requests in flight:\n", requests or "none\n", self._describe_tasks(), threads)).rstrip("\n")

    def _describe_tasks(self) -> str:
        if self._loop is None:
            return ""
        try:
            return describe_tasks(asyncio.all_tasks(self._loop))
        except Exception as error:  # noqa: BLE001  # an application's own kind of coroutine may fail in any way
            return f"Tasks: unknown ({error!r})\n"


def describe_threads(interrupted: FrameType | None = None, outside: Collection[FrameType] = ()) -> list[str]:
    """Return the name and the innermost frames of each thread, the caller's first, most recent call last.

    Args:
        interrupted: a frame to show as the caller's in place of its own.
        outside: frames of no interest, outermost of their stack; they are left out.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()  # noqa: SLF001  # documented; there is no other way
    own = threading.get_ident()
    frames = {own: interrupted or frames[own], **{ident: frame for ident, frame in frames.items() if ident != own}}
    parts = []
    for ident, frame in frames.items():
        inside = sum(each not in outside for each in _frames_down_from(frame))
        stack = "".join(traceback.format_stack(frame, max(1, min(inside, MOST_FRAMES_OF_A_THREAD))))
        parts.append(f"Thread {names.get(ident, 'unknown')} ({ident}):\n{stack}")
    return parts


def _frames_down_from(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _fit(parts: Iterable[str], most_bytes: int, kind: str) -> str:
    """Join the parts for which there is room; the last line says how many were left out."""
    kept = []
    left_out = 0
    for part in parts:
        size = len(part.encode(errors="backslashreplace"))
        if size > most_bytes:
            left_out += 1
        else:
            kept.append(part)
            most_bytes -= size
    return "".join([*kept, f"{kind} left out: {left_out}\n"] if left_out else kept)
