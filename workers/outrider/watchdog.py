"""A thread that notices when the event loop stops, says who stops it, and enforces a hard deadline.

Three parts: `StallDetector` decides (pure: clock values in, events out), `DeadManSwitch` covers the case in
which no Python code can run at all, `Watchdog` is the thread around them.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

WARNING_PERIOD = 10.0
"""Seconds that at least pass between two warnings about different stalls."""
HARD_EXIT_GRACE = 1.0
"""Seconds after a deadline at which the process is ended without the help of Python code."""

_LONGEST_INTERVAL = 0.25
_SHORTEST_INTERVAL = 0.01
_STOP_PATIENCE = 1.0
_REARM_PERIOD = 1.0  # each re-arming of faulthandler starts a C thread
_GUARD_PERIOD = 1.0


class Log(Protocol):
    """The methods of a logger that the watchdog calls."""

    def warning(self, msg: str, *args: object) -> None:
        """Log at WARNING."""

    def critical(self, msg: str, *args: object) -> None:
        """Log at CRITICAL."""

    def exception(self, msg: str, *args: object) -> None:
        """Log at ERROR with the traceback of the current exception."""


@dataclass(frozen=True, slots=True)
class StallStarted:
    """The loop has not beaten for `seconds`; since the last warning, `suppressed` stalls went unreported.

    `starved` says that the watchdog's thread could not run either while the process used the processor:
    something held the interpreter lock, such as one long call into C.
    """

    seconds: float
    suppressed: int
    starved: bool


@dataclass(frozen=True, slots=True)
class KillImminent:
    """The loop has not beaten for `seconds` and the master is about to kill the process for it."""

    seconds: float


@dataclass(frozen=True, slots=True)
class StallEnded:
    """A stall that was reported is over; it took `seconds`."""

    seconds: float


StallEvent = StallStarted | KillImminent | StallEnded


def kill_margin(timeout: float) -> float:
    """Return how many seconds before gunicorn's `timeout` the last words are written."""
    return max(0.2, min(1.0, 0.2 * timeout))


class StallDetector:
    """Decides from successive observations when to report a stall.

    A stall is the time between two beats. It is blamed on the loop only if the observer itself came in time,
    or was late while the process was using the processor. Time in which the process was stopped (SIGSTOP, a
    suspended machine) or got no processor does not count.
    """

    def __init__(self, stall_warning: float, timeout: float) -> None:
        """Take the limits in seconds; 0 turns off the warning or the last words before the kill."""
        self._stall_warning = stall_warning
        self._kill_after = timeout - kill_margin(timeout) if timeout else 0.0
        limits = [limit / 4 for limit in (stall_warning, self._kill_after) if limit]
        self.interval: float | None = None
        """Seconds between observations; None if there is nothing to watch."""
        if limits:
            self.interval = max(_SHORTEST_INTERVAL, min(_LONGEST_INTERVAL, *limits))
        self._observed_at: float | None = None
        self._cpu = 0.0
        self._beat: float | None = None
        self._forgiven = 0.0  # seconds since the beat that do not count
        self._is_reported = False
        self._is_muted = False
        self._is_doomed = False
        self._warned_at = float("-inf")
        self._suppressed = 0

    def observe(self, now: float, last_beat: float, cpu: float) -> list[StallEvent]:
        """Return what to report at time `now`.

        Args:
            now: seconds of a monotonic clock.
            last_beat: when the loop ran last, on the same clock and not after `now`.
            cpu: processor seconds that the process has used.
        """
        lost, starved = self._check_own_lateness(now, cpu)
        events: list[StallEvent] = []
        if last_beat == self._beat:
            self._forgiven += lost
        else:
            lost_after = min(lost, now - last_beat)
            if self._beat is not None:
                events.extend(self._end_stall(last_beat - self._beat - self._forgiven - (lost - lost_after)))
            self._beat = last_beat
            self._forgiven = lost_after
        age = now - last_beat - self._forgiven
        if 0 < self._kill_after <= age and not self._is_doomed:
            self._is_doomed = self._is_reported = True
            events.append(KillImminent(age))
        elif 0 < self._stall_warning <= age and not self._is_reported:
            self._is_muted = now - self._warned_at < WARNING_PERIOD
            if not self._is_muted:
                events.append(StallStarted(age, self._suppressed, starved))
                self._is_reported = True
                self._warned_at = now
                self._suppressed = 0
        return events

    def _check_own_lateness(self, now: float, cpu: float) -> tuple[float, bool]:
        """Return the seconds in which nothing ran, and whether the process itself held the observer up."""
        gap = 0.0 if self._observed_at is None else now - self._observed_at
        used = cpu - self._cpu
        self._observed_at = now
        self._cpu = cpu
        if self.interval is None or gap <= 2 * self.interval:
            return 0.0, False
        starved = used >= gap / 2
        return (0.0 if starved else gap), starved

    def _end_stall(self, seconds: float) -> list[StallEvent]:
        events: list[StallEvent] = [StallEnded(seconds)] if self._is_reported else []
        if self._is_muted and not self._is_reported:
            self._suppressed += 1
        self._is_reported = self._is_muted = self._is_doomed = False
        return events


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


class Watchdog:
    """The thread. Make it at any time, start it after the fork.

    The loop calls `beat` several times a second, in the same callback that calls the worker's `notify`: the
    kill to foresee is counted from the latter.
    """

    def __init__(
        self,
        log: Log,
        describe_requests: Callable[[], str | list[str]],
        stall_warning: float,
        timeout: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
        dead_man: DeadManSwitch | None = None,
    ) -> None:
        """Take what is needed to watch and to report.

        Args:
            log: where reports go.
            describe_requests: the requests in flight, a line each; called in the watchdog's thread.
            stall_warning: seconds without a beat before a warning, 0 for never; above two beats' period.
            timeout: gunicorn's `timeout` in seconds, 0 if the master does not kill.
            clock: monotonic seconds.
            cpu_clock: processor seconds that the process has used.
            dead_man: dumps the stacks when the watchdog cannot; by default to the log or standard error.
        """
        self._log = log
        self._describe_requests = describe_requests
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._dead_man = dead_man or DeadManSwitch(lambda: log_descriptor(log))
        self._guard: Callable[[float], None] | None = None
        self._detector = StallDetector(stall_warning, timeout)
        self._fuse = timeout - kill_margin(timeout) if timeout else None
        self._rearm_at = float("-inf")
        self._last_beat = clock()
        self._watched = threading.get_ident()
        self._frames_at_start: list[FrameType] = []
        self._expiry: tuple[float, Callable[[], object]] | None = None
        self._hard_exit_at: float | None = None
        # Its put() may interrupt itself, as in a signal handler; that of an Event may not.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def start(self, guard: Callable[[float], None] | None = None) -> None:
        """Watch the calling thread, the loop's. Once, and after the fork, which no thread survives.

        Args:
            guard: called at each wake, at least once a second, with the seconds since the last beat.
        """
        self._guard = guard
        self._watched = threading.get_ident()
        self._frames_at_start = list(_frames_down_from(sys._getframe()))  # noqa: SLF001  # documented as well
        self.beat()
        self._thread = threading.Thread(target=self._run, name="outrider-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and disarm the dead man's switch. An expiry that is set will not come."""
        self._is_stopping = True
        self._wake.put(None)
        if self._thread is not None:
            # It may hang in a log that blocks, which must not hang the caller too.
            self._thread.join(timeout=_STOP_PATIENCE)
        self._frames_at_start.clear()
        self._dead_man.disarm()

    def beat(self) -> None:
        """Say that the loop runs."""
        self._last_beat = self._clock()

    def expire_at(self, deadline: float, action: Callable[[], object]) -> None:
        """Run `action` once in the watchdog's thread at `deadline` (of the clock) if the process still lives.

        An earlier deadline that is still to come stays in place. Where no Python code can run, the process
        ends with status 1 and a dump of the stacks `HARD_EXIT_GRACE` seconds after the deadline. Safe in a
        signal handler.
        """
        expiry = self._expiry
        if expiry is None or deadline < expiry[0]:
            self._expiry = (deadline, action)
            self._hard_exit_at = deadline + HARD_EXIT_GRACE
            self._rearm_at = float("-inf")
            self._wake.put(None)

    def check(self) -> None:
        """Do what is due now; the thread calls it at each wake."""
        # In this order: a beat in between must not be later than now.
        last_beat, now = self._last_beat, self._clock()
        if now >= self._rearm_at:
            self._rearm(now)
        expiry = self._expiry
        if expiry is not None and now >= expiry[0]:
            self._expiry = None
            expiry[1]()
        if self._guard is not None:
            self._guard(now - last_beat)
        if self._detector.interval is not None:
            for event in self._detector.observe(now, last_beat, self._cpu_clock()):
                self._report(event)

    def _run(self) -> None:
        while not self._is_stopping:
            try:
                self.check()
            except Exception:  # noqa: BLE001  # whatever failed, the watch goes on
                self._log.exception("Watchdog failed in one of its checks and goes on")
            try:
                self._wake.get(timeout=self._pause())
            except Empty:
                continue

    def _pause(self) -> float | None:
        """Return for how many seconds nothing is due; None: until woken."""
        interval, expiry = self._detector.interval, self._expiry
        if interval is None and self._guard is not None:
            interval = _GUARD_PERIOD
        if expiry is None:
            return interval
        left = max(0.0, expiry[0] - self._clock())
        return left if interval is None else min(left, interval)

    def _rearm(self, now: float) -> None:
        self._rearm_at = float("inf")
        hard_exit = None if self._hard_exit_at is None else self._hard_exit_at - now
        if hard_exit is not None and (self._fuse is None or hard_exit <= self._fuse):
            self._dead_man.arm(hard_exit, exit=True)
        elif self._fuse is not None:
            self._dead_man.arm(self._fuse, exit=False)
            self._rearm_at = now + min(_REARM_PERIOD, self._fuse / 4)

    def _report(self, event: StallEvent) -> None:
        if isinstance(event, StallStarted):
            self._log.warning("%s", self._describe_stall(event))
        elif isinstance(event, KillImminent):
            self._log.critical(
                "Event loop blocked for %.1f s; the master is about to kill this worker (timeout)\n%s",
                event.seconds,
                self._describe_culprit(),
            )
        else:
            self._log.warning("Event loop runs again after %.1f s", event.seconds)

    def _describe_stall(self, event: StallStarted) -> str:
        lines = [
            f"Event loop blocked for {event.seconds:.1f} s and with it every other request",
            "Move blocking calls to a thread, as with asyncio.to_thread()",
        ]
        if event.starved:
            lines.append("No other thread could run either: one call held the interpreter lock")
        if event.suppressed:
            lines.append(f"Not reported since the last warning: {event.suppressed} more of these")
        return "\n".join([*lines, self._describe_culprit()])

    def _describe_culprit(self) -> str:
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001  # documented; there is no other way
        stack = "".join(self._format_above_loop(frame)) if frame is not None else "  (gone)\n"
        return f"Stack of the event loop's thread:\n{stack}{self._list_requests()}"

    def _format_above_loop(self, frame: FrameType) -> list[str]:
        """Format the stack without the frames that were there at the start: gunicorn's way into the loop."""
        lines = traceback.format_stack(frame)
        known = sum(each in self._frames_at_start for each in _frames_down_from(frame))
        return lines[known:] or lines[-1:]

    def _list_requests(self) -> str:
        try:
            requests = self._describe_requests()
        except Exception as error:  # noqa: BLE001  # the loop may change what is being listed
            return f"Requests in flight: unknown ({error!r})"
        lines = [requests] if isinstance(requests, str) else requests
        return "\n  ".join(["Requests in flight:", *(line for line in lines if line)])


def _frames_down_from(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


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
