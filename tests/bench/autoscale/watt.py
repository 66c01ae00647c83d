"""Platformatic Watt's scaling of workers by event loop utilisation, with its defaults."""

from __future__ import annotations

import math
from collections import deque

from autoscale.model import MAX_WORKERS, View

# -- version 1

UP, UP_SECONDS = 0.8, 10
DOWN, DOWN_SECONDS = 0.2, 60
COOLDOWN = 20
GRACE = 30
"""Seconds in which a new worker is not measured."""
CHECK_PERIOD = 60
"""Seconds between looks; a worker above `UP` has it look at once."""


class WattV1:
    """One worker more above `UP`, one less below `DOWN`."""

    def __init__(self) -> None:
        self._shares: dict[int, deque[float]] = {}
        self._scaled_at = float("-inf")

    def decide(self, view: View) -> int:
        """See `Rule`."""
        measured = [worker for worker in view.workers if worker.age >= GRACE or worker.number == 1]
        known = {worker.number: self._shares.get(worker.number, deque(maxlen=DOWN_SECONDS)) for worker in measured}
        for worker in measured:
            known[worker.number].append(worker.busy)
        self._shares = known
        is_due = view.now % CHECK_PERIOD == 0 or any(worker.busy > UP for worker in measured)
        if not known or not is_due or view.now < self._scaled_at + COOLDOWN:
            return view.target
        target = view.target
        if self._mean(DOWN_SECONDS) < DOWN:
            target = max(1, target - 1)
        elif self._mean(UP_SECONDS) > UP:
            target = min(MAX_WORKERS, target + 1)
        if target != view.target:
            self._scaled_at = view.now
        return target

    def _mean(self, seconds: int) -> float:
        recent = [list(shares)[-seconds:] for shares in self._shares.values()]
        return sum(sum(shares) / len(shares) for shares in recent) / len(recent)


# -- version 2

THRESHOLD = 0.8
PROCESS_PERIOD = 10
UP_MARGIN, DOWN_MARGIN = 0.1, 0.3
REDISTRIBUTION = 30
"""Seconds in which the load of a new worker comes to count in full."""
ALPHA_UP, ALPHA_DOWN = 0.2, 0.1
BETA_UP, BETA_DOWN = 0.2, 0.1
UP_COOLDOWN, DOWN_AFTER_UP, DOWN_AFTER_DOWN = 5, 30, 20
HORIZON = 1.2 * 5
"""Seconds of the forecast: 1.2 times the boot, which is taken to last 5 s at least."""
SATURATED = 0.98
LEVEL_ANGLE = 10
"""Degrees within which a trend is none."""
UP_WEIGHT = 2


class WattV2:
    """Holt's forecast of the sum of all loops' load, to the end of a boot; one worker more at a time."""

    def __init__(self) -> None:
        self._level: float | None = None
        self._trend = 0.0
        self._sum = 0.0
        self._target = 1
        self._up_at = self._down_at = self._started_at = float("-inf")

    def decide(self, view: View) -> int:
        """See `Rule`."""
        count = self._take(view)
        if view.now % PROCESS_PERIOD or self._level is None or not view.workers:
            return view.target
        self._apply(self._wanted(self._level, count), view.now)
        if self._target > view.target:
            self._started_at = view.now
            return view.target + 1
        return self._target

    def _take(self, view: View) -> float:
        """Smooth the load of one second; how many workers count, new ones in part."""
        total = sum(worker.busy for worker in view.workers)
        new = [worker for worker in view.workers if worker.age < REDISTRIBUTION and worker.number != 1]
        stable = [worker for worker in view.workers if worker not in new]
        load, count = sum(worker.busy for worker in stable), float(len(stable))
        if new:
            weights = sum(math.expm1(worker.age / REDISTRIBUTION) / math.expm1(1) for worker in new)
            count += weights
            load += sum(worker.busy for worker in new) * weights / len(new)
            if self._sum > load:
                load = min(total, self._sum)
        self._sum = load
        self._smooth(load, is_saturated=total >= SATURATED * len(view.workers), most=float(len(view.workers)))
        return count

    def _smooth(self, load: float, *, is_saturated: bool, most: float) -> None:
        if self._level is None:
            self._level = load
            return
        before, forecast, trend = self._level, self._level + self._trend, self._trend
        alpha, beta = (ALPHA_UP, BETA_UP) if load > forecast else (ALPHA_DOWN, BETA_DOWN)
        self._level = alpha * load + (1 - alpha) * forecast
        self._trend = beta * (self._level - before) + (1 - beta) * trend
        if is_saturated:
            self._trend = max(trend, self._trend)
            self._level = min(self._level, most)
        elif self._level > load:
            gap = self._level - load
            self._trend *= gap / (gap + abs(self._trend) + 1e-9)

    def _wanted(self, level: float, count: float) -> int:
        predicted = level + self._trend * HORIZON
        angle = math.degrees(math.atan(self._trend / level)) if level else 0.0
        is_overloaded = level / count > THRESHOLD
        if angle > LEVEL_ANGLE or predicted / self._target > THRESHOLD:
            return self._more(level, predicted, is_overloaded=is_overloaded)
        if not is_overloaded:
            return max(1, min(self._target, math.floor((1 + DOWN_MARGIN) * level / THRESHOLD) + 1))
        return self._target

    def _more(self, level: float, predicted: float, *, is_overloaded: bool) -> int:
        increase, used = predicted - level, level / (self._target * THRESHOLD)
        if used < 1:
            cost = UP_WEIGHT * used
            increase *= cost / (cost + 1 - used)
        workers, beyond = divmod((level + increase) / THRESHOLD, 1)
        if beyond and (is_overloaded or beyond > UP_MARGIN):
            workers += 1
        return min(MAX_WORKERS, max(self._target, int(workers)))

    def _apply(self, wanted: int, now: float) -> None:
        if wanted > self._target and now - max(self._up_at, self._down_at) >= UP_COOLDOWN:
            self._up_at, self._target = now, wanted
        elif (
            wanted < self._target and now - self._started_at >= DOWN_AFTER_UP and now - self._down_at >= DOWN_AFTER_DOWN
        ):
            self._down_at, self._target = now, wanted
