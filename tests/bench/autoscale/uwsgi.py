"""uWSGI's cheaper algorithms `spare` and `busyness`, with their defaults. A worker is busy while it has a request."""

from __future__ import annotations

from autoscale.model import MAX_WORKERS, View

OVERLOAD = 3
"""cheaper-overload: cycles, of a second each."""
STEP = 1
CHEAPER = 1
"""The fewest workers."""


class Spare:
    """All busy for `OVERLOAD` cycles: one more. More than one idle: one less with each third such cycle."""

    def __init__(self) -> None:
        self._overloaded = 0
        self._idle = 0

    def decide(self, view: View) -> int:
        """See `Rule`."""
        idle = sum(worker.in_flight == 0 for worker in view.workers)
        if idle:
            self._overloaded = max(0, self._overloaded - 1)
        else:
            self._overloaded += 1
            self._idle = 0
        if self._overloaded > OVERLOAD:
            self._overloaded = 0
            return min(MAX_WORKERS, view.target + STEP)
        if idle > 1:
            self._idle += 1
            if view.target > CHEAPER and self._idle % OVERLOAD == 0:
                return view.target - 1
        return view.target


BUSY, QUIET = 0.5, 0.25
MULTIPLIER = 10
PENALTY = 2
BACKLOG_ALERT = 33
EMERGENCY_MULTIPLIER = 3
TOLERATED_CYCLES = 3


class Busyness:
    """The mean share of time in which workers have a request, between `QUIET` and `BUSY`; looked at each 3 s."""

    def __init__(self) -> None:
        self._running: dict[int, float] = {}
        self._seen_busy: set[int] = set()
        self._looked_at = 0.0
        self._multiplier = MULTIPLIER
        self._cheap_after: float = OVERLOAD * MULTIPLIER
        self._cheaped_at = float("-inf")
        self._grew_last = True
        self._tolerated = 0
        self._emergency = 0

    def decide(self, view: View) -> int:
        """See `Rule`."""
        for worker in view.workers:
            self._running[worker.number] = self._running.get(worker.number, 0.0) + worker.running
            if worker.in_flight:
                self._seen_busy.add(worker.number)
        is_alarming = view.backlog > BACKLOG_ALERT and view.target < MAX_WORKERS
        if view.now - self._looked_at < OVERLOAD:
            return self._add_emergency(view) if is_alarming else view.target
        self._looked_at = view.now
        busyness = self._mean(view)
        if busyness > BUSY:
            return self._grow(view)
        if is_alarming:
            return self._add_emergency(view)
        if len(view.workers) == 1:
            return view.target
        if busyness < QUIET:
            return self._shrink(view)
        self._tolerate(view)
        return view.target

    def _mean(self, view: View) -> float:
        shares = []
        for worker in view.workers:
            running = self._running.get(worker.number, 0.0)
            is_long = running == 0 and worker.number in self._seen_busy
            shares.append(1.0 if is_long else min(1.0, running / OVERLOAD))
        self._running.clear()
        self._seen_busy.clear()
        return sum(shares) / len(shares) if shares else 0.0

    def _wait(self, now: float) -> None:
        factor = EMERGENCY_MULTIPLIER if self._emergency else self._multiplier
        self._cheap_after = now + OVERLOAD * factor

    def _grow(self, view: View) -> int:
        self._tolerated = 0
        if view.target >= MAX_WORKERS:
            return view.target
        self._grew_last = True
        if (view.now - self._cheaped_at) / OVERLOAD <= self._multiplier:
            self._multiplier += PENALTY
        else:
            self._multiplier = max(MULTIPLIER, self._multiplier - 1)
        self._wait(view.now)
        return view.target + STEP

    def _add_emergency(self, view: View) -> int:
        self._multiplier = MULTIPLIER
        self._grew_last = True
        self._emergency += 1
        self._wait(view.now)
        return view.target + 1

    def _shrink(self, view: View) -> int:
        self._tolerated = 0
        if view.target <= CHEAPER or view.now < self._cheap_after:
            return view.target
        if not self._grew_last:
            self._multiplier = max(MULTIPLIER, self._multiplier - 1)
        self._wait(view.now)
        self._cheaped_at = view.now
        self._grew_last = False
        self._emergency = max(0, self._emergency - 1)
        return view.target - 1

    def _tolerate(self, view: View) -> None:
        self._emergency = max(0, self._emergency - 1)
        self._tolerated += 1
        if self._tolerated >= TOLERATED_CYCLES:
            self._wait(view.now)
        else:
            self._cheap_after += OVERLOAD
