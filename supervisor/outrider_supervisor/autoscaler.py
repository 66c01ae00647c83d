"""How many workers there should be: what was measured goes in, a number and the reason for it come out. Pure.

Demand is the sum over all workers of the share of time in which the event loop was busy, or the processor where that
is more (threads). It is a sum, so that one worker more does not change it. Requests in flight do not count: more loops
do not help those that wait for something else. Where loops are late, demand is more than can be seen, and how late they
are says by how much.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any, NamedTuple

TOLERANCE = 0.08
"""Share of the target utilisation that demand may be above it before a worker is added; half of it keeps one."""
FAST_TOLERANCE = 0.2
"""The same for what was measured over `up_window` only: with 80 % it is reached where hardly a loop is ever idle."""
SMOOTHING = 10.0
"""Seconds of the mean that decides whether to add workers, but for what is urgent."""
LATE = 0.25
"""Seconds by which all loops are late, or by which what waits at the listeners comes late, that are an emergency."""
MOST_PATIENCE = 8
"""Most times `down_window` that is waited where scaling down had to be taken back."""
CPU_USED_UP = 0.9
"""Share of the cores from which another worker would only take processor time from the others."""


class Veto(Enum):
    """Why there are not as many workers as demand asks for."""

    RELOAD = "reload"
    OPERATION = "operation"
    BACKOFF = "crash backoff"
    BOOTING = "booting"
    MEMORY = "memory"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Scaling:
    """The settings. Windows are seconds."""

    min_workers: int
    max_workers: int
    target_utilisation: float = 0.8
    up_window: float = 3.0
    down_window: float = 45.0
    up_step: int = 4
    """Most workers that are added at once; as many as there are may always be."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is known at one moment; measured over the second before it."""

    target: int
    ready: int
    demand: float
    """Loops that would be busy all the time."""
    cpu: float
    """Cores that the workers use."""
    late: float
    """Seconds by which even the least late loop is late, or connections at the listeners will be accepted."""
    cores: float = math.inf
    """How many the workers may use."""
    fitting: int | None = None
    """How many workers beside those that serve memory has room for; None if that is not known."""
    vetoes: Sequence[Veto] = ()
    """What forbids another number at the moment."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the autoscaler wants, and why."""

    target: int
    reason: str
    demand: float = 0.0
    utilisation: float | None = None
    """Of those that serve; None without one."""
    vetoes: tuple[Veto, ...] = ()


class _Moment(NamedTuple):
    at: float
    demand: float
    late: float


class Autoscaler:
    """Fast up, slow down: up by the last seconds, down to the highest number that was wanted in `down_window`."""

    def __init__(self) -> None:
        self._since: float | None = None
        """When the moments began that speak of this pool."""
        self._moments: deque[_Moment] = deque()
        self._enough: deque[tuple[float, int]] = deque()
        """When, and how many workers would have been enough then."""
        self._shrunk_at: float | None = None
        self._patience = 1

    def to_state(self) -> dict[str, Any]:
        """What `take_state` reads, as plain data."""
        return {
            "since": self._since,
            "moments": [list(moment) for moment in self._moments],
            "enough": [list(each) for each in self._enough],
            "shrunk_at": self._shrunk_at,
            "patience": self._patience,
        }

    def take_state(self, state: dict[str, Any]) -> None:
        """Go on with what another one has seen.

        Raises:
            KeyError, TypeError, ValueError: it was written by a version that this one cannot follow.
        """
        self._since = state["since"]
        self._moments = deque(_Moment(*map(float, each)) for each in state["moments"])
        self._enough = deque((float(at), int(workers)) for at, workers in state["enough"])
        self._shrunk_at = state["shrunk_at"]
        self._patience = state["patience"]

    def begin_anew(self) -> None:
        """The pool is another one, or of another size: forget what was measured, and wait a window for either way."""
        self._since = None
        self._moments.clear()

    def decide(self, settings: Scaling, look: Look, now: float) -> Decision:
        """Take in what was measured and decide, about once a second."""
        utilisation = look.demand / look.ready if look.ready else None
        target, reason, vetoes = self._decide(settings, look, now)
        if target > look.target:
            self._note_growth(settings, now)
        elif target < look.target:
            self._shrunk_at = now
        return Decision(target, reason, look.demand, utilisation, tuple(dict.fromkeys((*look.vetoes, *vetoes))))

    def _decide(self, settings: Scaling, look: Look, now: float) -> tuple[int, str, tuple[Veto, ...]]:
        if self._since is None:
            self._since = now
        smoothing = max(settings.up_window, SMOOTHING)
        self._note(look, now, smoothing)
        lately, demand = self._mean(now - smoothing), self._mean(now - settings.up_window)
        hidden = self._hidden_demand(look, now - settings.up_window)
        wanted = max(
            _workers_for(demand + hidden, look.target, settings, FAST_TOLERANCE),
            _workers_for(lately, look.target, settings, TOLERANCE),
        )
        enough = self._enough_lately(settings, min(lately, demand), wanted if wanted > look.target else 0, now)
        if Veto.RELOAD in look.vetoes or Veto.OPERATION in look.vetoes:
            return look.target, f"waits for the end of the {look.vetoes[0].value}", ()
        in_range = min(max(look.target, settings.min_workers), settings.max_workers)
        if in_range != look.target:
            return in_range, f"min_workers is {settings.min_workers}, max_workers {settings.max_workers}", ()
        if wanted > look.target and now - self._since >= settings.up_window:
            why = f"demand {demand + hidden:.2f} at {settings.target_utilisation:.0%} utilisation"
            return _grow(settings, look, wanted, f"{why}, late by {look.late:.1f} s" if hidden else why)
        if enough < look.target and now - self._since >= settings.down_window:
            patience = settings.down_window * self._patience
            return enough, f"demand {demand:.2f}, {enough} would have done for {patience:.0f} s", ()
        is_awaited = look.ready < min(wanted, look.target)
        return look.target, f"demand {demand + hidden:.2f}", (Veto.BOOTING,) if is_awaited else ()

    def _note(self, look: Look, now: float, window: float) -> None:
        demand = look.demand
        if self._moments and (last := self._moments[-1]).late >= LATE and look.late < last.late:
            # What was late is being worked off: that is not what has come since.
            demand = max(0.0, demand - look.ready * (last.late - look.late) / (now - last.at))
        self._moments.append(_Moment(now, demand, look.late))
        while self._moments[0].at <= now - window:
            self._moments.popleft()

    def _mean(self, since: float) -> float:
        recent = [moment.demand for moment in self._moments if moment.at > since]
        return sum(recent) / len(recent)

    def _hidden_demand(self, look: Look, since: float) -> float:
        """What cannot be seen because no loop can be more than busy: a second later each second is as much again.

        The least of the last seconds counts: a pool that was held up once is not later each second.
        """
        recent = [moment for moment in self._moments if moment.at > since]
        if len(recent) < 2 or min(moment.late for moment in recent[-2:]) < LATE:
            return 0.0
        growth = min((after.late - before.late) / (after.at - before.at) for before, after in pairwise(recent))
        return look.ready * max(0.0, growth)

    def _enough_lately(self, settings: Scaling, demand: float, urgent: int, now: float) -> int:
        """The highest number that would have been enough at any time in the last `down_window`."""
        enough = math.ceil(demand / (settings.target_utilisation * (1 + TOLERANCE / 2)))
        self._enough.append((now, max(settings.min_workers, enough, urgent)))
        while self._enough[0][0] <= now - settings.down_window * self._patience:
            self._enough.popleft()
        return max(workers for _, workers in self._enough)

    def _note_growth(self, settings: Scaling, now: float) -> None:
        """Scaling down that had to be taken back soon was wrong: be more patient the next time, and less so later."""
        was_wrong = self._shrunk_at is not None and now - self._shrunk_at <= settings.down_window
        self._patience = min(MOST_PATIENCE, 2 * self._patience) if was_wrong else max(1, self._patience // 2)


def _workers_for(demand: float, workers: int, settings: Scaling, tolerance: float) -> int:
    """How many workers a demand needs; as many as there are, if it is off by no more than the tolerance."""
    if demand <= workers * settings.target_utilisation * (1 + tolerance):
        return min(workers, math.ceil(demand / settings.target_utilisation))
    return math.ceil(demand / settings.target_utilisation)


def _grow(settings: Scaling, look: Look, wanted: int, why: str) -> tuple[int, str, tuple[Veto, ...]]:
    """As far towards what is wanted as is allowed."""
    if look.vetoes:
        return look.target, why, ()
    target = min(wanted, settings.max_workers, look.target + max(look.target, settings.up_step))
    vetoes = []
    if target > (most := max(look.target, _most_for_cores(settings, look))):
        target = most
        vetoes.append(Veto.CPU)
    if look.fitting is not None and target > (most := max(look.target, look.ready + look.fitting)):
        target = most
        vetoes.append(Veto.MEMORY)
    return target, why, tuple(vetoes)


def _most_for_cores(settings: Scaling, look: Look) -> int:
    """As many workers as cores, and beyond that only for loops that block without using the processor."""
    cores = look.cores
    if math.isinf(cores):
        return settings.max_workers
    blocked = max(0.0, look.demand - look.cpu) if look.cpu < CPU_USED_UP * cores else 0.0
    return math.ceil(cores) + math.ceil(blocked / settings.target_utilisation)
