"""A thread that notices when the event loop stops, says who stops it, and enforces a hard deadline.

`StallDetector` decides when, `CulpritFinder` finds out who, `DeadManSwitch` covers the case in which no Python code
can run at all; this is the thread around them.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from outrider.culprit import Culprit, CulpritFinder
from outrider.dead_man import DeadManSwitch, log_descriptor
from outrider.stall_detector import (
    KillImminent,
    StallDetector,
    StallEnded,
    StallEvent,
    StallMuted,
    StallsSuppressed,
    StallStarted,
    kill_margin,
)
from outrider.stall_report import MutedStalls, Stall, as_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HARD_EXIT_GRACE = 1.0
"""Seconds after a deadline at which the process is ended without the help of Python code."""

_STOP_PATIENCE = 1.0
_REARM_PERIOD = 1.0  # each re-arming of faulthandler starts a C thread
_GUARD_PERIOD = 1.0


class Log(Protocol):
    """The methods of a logger that the watchdog calls."""

    def warning(self, msg: str, *args: object, extra: Mapping[str, Any] | None = None) -> None:
        """Log at WARNING."""

    def critical(self, msg: str, *args: object, extra: Mapping[str, Any] | None = None) -> None:
        """Log at CRITICAL."""

    def exception(self, msg: str, *args: object) -> None:
        """Log at ERROR with the traceback of the current exception."""


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
        self._finder = CulpritFinder()
        self._stall: Stall | None = None
        self._muted = MutedStalls()
        self.stalls = 0
        """How often the loop was blocked for longer than the limit, whether or not that was logged."""
        self._expiry: tuple[float, Callable[[], object]] | None = None
        self._hard_exit_at: float | None = None
        # Its put() may interrupt itself, as in a signal handler; that of an Event may not.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def start(self, guard: Callable[[float], None] | None = None, application: str = "") -> None:
        """Watch the calling thread, the loop's. Once, and after the fork, which no thread survives.

        Args:
            guard: called at each wake, at least once a second, with the seconds since the last beat.
            application: where it is imported from, such as `shop.main:app`; its frames are blamed first.
        """
        self._guard = guard
        self._finder.watch(application)
        self.beat()
        thread = threading.Thread(target=self._run, name="outrider-watchdog", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """End the thread and disarm the dead man's switch. An expiry that is set will not come."""
        self._is_stopping = True
        self._wake.put(None)
        if self._thread is not None:
            # It may hang in a log that blocks, which must not hang the caller too.
            self._thread.join(timeout=_STOP_PATIENCE)
        self._finder.forget()
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
        if isinstance(event, StallEnded):
            self._end_stall(event)
        elif isinstance(event, StallsSuppressed):
            self._log_suppressed(event.count)
        else:
            self._note_stall(event)

    def _note_stall(self, event: StallStarted | StallMuted | KillImminent) -> None:
        culprit = self._finder.find()
        if self._stall is None:
            self.stalls += 1
            self._stall = Stall(culprit)
        if isinstance(event, StallMuted):
            return
        extra = as_extra([self._stall.tell(event.seconds, culprit.stack)])
        if isinstance(event, StallStarted):
            self._log.warning("%s", self._describe_stall(event, culprit), extra=extra)
        else:
            self._log.critical(
                "Event loop blocked for %.1f s; the master is about to kill this worker (timeout)\n%s",
                event.seconds,
                self._describe(culprit),
                extra=extra,
            )

    def _end_stall(self, event: StallEnded) -> None:
        stall, self._stall = self._stall, None
        if stall is None:
            return
        if event.is_muted:
            self._muted.add(stall.tell(event.seconds))
        else:
            extra = as_extra([stall.tell(event.seconds)])
            self._log.warning("Event loop runs again after %.1f s", event.seconds, extra=extra)

    def _log_suppressed(self, count: int) -> None:
        entries = self._muted.take()
        where = "".join(f"\n  {each['count']}, {each['seconds']:.1f} s: {each['frame']}" for each in entries)
        times = "once more" if count == 1 else f"{count} more times"
        self._log.warning("Event loop blocked %s since the last warning%s", times, where, extra=as_extra(entries))

    def _describe_stall(self, event: StallStarted, culprit: Culprit) -> str:
        lines = [
            f"Event loop blocked for {event.seconds:.1f} s and with it every other request",
            "Move blocking calls to a thread, as with asyncio.to_thread()",
        ]
        if event.starved:
            lines.append("No other thread could run either: one call held the interpreter lock")
        return "\n".join([*lines, self._describe(culprit)])

    def _describe(self, culprit: Culprit) -> str:
        return f"Blocked at {culprit}\nStack of the event loop's thread:\n{culprit.stack}{self._list_requests()}"

    def _list_requests(self) -> str:
        try:
            requests = self._describe_requests()
        except Exception as error:  # noqa: BLE001  # the loop may change what is being listed
            return f"Requests in flight: unknown ({error!r})"
        lines = [requests] if isinstance(requests, str) else requests
        return "\n  ".join(["Requests in flight:", *(line for line in lines if line)])
