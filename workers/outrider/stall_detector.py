"""Decides when an event loop that does not beat is a stall, and what to tell of it. Pure: times in, events out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

WARNING_PERIOD = 10.0
"""Seconds that at least pass between two warnings about different stalls."""

_LONGEST_INTERVAL = 0.25
_SHORTEST_INTERVAL = 0.01


@dataclass(frozen=True, slots=True)
class StallStarted:
    """The loop has not beaten for `seconds`, and this is to be told.

    `starved` says that the watchdog's thread could not run either while the process used the processor:
    something held the interpreter lock, such as one long call into C.
    """

    seconds: float
    starved: bool


@dataclass(frozen=True, slots=True)
class StallMuted:
    """The loop has not beaten for `seconds`, so shortly after the last warning that this one is only counted."""

    seconds: float


@dataclass(frozen=True, slots=True)
class KillImminent:
    """The loop has not beaten for `seconds` and the master is about to kill the process for it."""

    seconds: float


@dataclass(frozen=True, slots=True)
class StallEnded:
    """A stall of which one of the above was the beginning is over; it took `seconds`."""

    seconds: float
    is_muted: bool = False
    """Whether it was only counted."""


@dataclass(frozen=True, slots=True)
class StallsSuppressed:
    """`WARNING_PERIOD` has passed since the last warning, and `count` stalls in it were only counted."""

    count: int


StallEvent = StallStarted | StallMuted | KillImminent | StallEnded | StallsSuppressed


class _Stage(IntEnum):
    """What was told of the stall that goes on; a larger value replaces a smaller one."""

    NONE = 0
    MUTED = 1
    REPORTED = 2
    DOOMED = 3


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
        self._stage = _Stage.NONE
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
        if self._suppressed and now - self._warned_at >= WARNING_PERIOD:
            events.append(StallsSuppressed(self._suppressed))
            self._suppressed = 0
        events.extend(self._judge(now, now - last_beat - self._forgiven, starved))
        return events

    def _judge(self, now: float, age: float, starved: bool) -> list[StallEvent]:
        """Return what is to be told of a loop whose last beat is `age` old."""
        if 0 < self._kill_after <= age and self._stage < _Stage.DOOMED:
            self._stage = _Stage.DOOMED
            return [KillImminent(age)]
        if 0 < self._stall_warning <= age and self._stage < _Stage.REPORTED:
            if now - self._warned_at >= WARNING_PERIOD:
                self._stage = _Stage.REPORTED
                self._warned_at = now
                return [StallStarted(age, starved)]
            if self._stage is _Stage.NONE:
                self._stage = _Stage.MUTED
                return [StallMuted(age)]
        return []

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
        stage, self._stage = self._stage, _Stage.NONE
        if stage is _Stage.NONE:
            return []
        is_muted = stage is _Stage.MUTED
        self._suppressed += is_muted
        return [StallEnded(seconds, is_muted)]
