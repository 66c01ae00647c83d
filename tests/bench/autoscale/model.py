"""A pool of async workers as a queue, second by second, and what a scaling rule can see of it.

A request holds a worker's event loop for a while (`cpu` uses the processor, `blocking` does not) and then waits for
something else, in which time the loop is free. Requests wait in one queue; a loop that is free takes the next one. A
worker that is asked for serves after `boot` seconds; one that is sent away finishes what it holds.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

SLO = 0.25
"""Seconds for which a request may wait for a loop."""
LATE_SHARE = 0.05
"""Share of the requests of one second that may wait longer; with more, that second is over the SLO."""
WARM_UP = 120
"""Seconds that do not count: every rule begins with one worker, whatever the load."""
MAX_WORKERS = 8
SPREAD = 0.5
"""A request's loop time is its mean times 1 - SPREAD to 1 + SPREAD."""


class Work(NamedTuple):
    """Mean seconds of a request's parts."""

    cpu: float
    blocking: float
    waiting: float

    @property
    def loop(self) -> float:
        """Seconds for which it holds the loop."""
        return self.cpu + self.blocking


class Arrival(NamedTuple):
    """One request."""

    at: float
    loop: float
    cpu: float
    waiting: float


@dataclass(frozen=True, slots=True)
class Trace:
    """A load over time."""

    name: str
    seconds: int
    rate: Callable[[float], float]
    """Requests a second, at a second of the trace."""
    work: Callable[[float], Work]
    boot: float = 1.5

    def arrivals(self, seed: str = "") -> list[list[Arrival]]:
        """The requests of each second, in order: the same ones each time, for the same seed."""
        dice = random.Random(self.name + seed)
        return [sorted(self._arrivals_in(second, dice)) for second in range(self.seconds)]

    def _arrivals_in(self, second: int, dice: random.Random) -> Iterable[Arrival]:
        rate, work = self.rate(second), self.work(second)
        at = second + (dice.expovariate(rate) if rate else math.inf)
        while at < second + 1:
            scale = dice.uniform(1 - SPREAD, 1 + SPREAD)
            yield Arrival(at, work.loop * scale, work.cpu * scale, work.waiting)
            at += dice.expovariate(rate)

    def needed(self, second: int) -> int:
        """The fewest workers that would keep the SLO if the load stayed as it is."""
        return workers_needed(self.rate(second), self.work(second).loop)


def workers_needed(rate: float, loop: float) -> int:
    """The fewest servers of an M/G/c queue in which `LATE_SHARE` wait for `SLO` (Allen and Cunneen), at most all."""
    load = rate * loop
    variability = 1 + SPREAD**2 / 3
    for workers in range(1, MAX_WORKERS):
        if load < workers:
            late = _chance_to_wait(workers, load) * math.exp(-2 * (workers - load) * SLO / (loop * variability))
            if late <= LATE_SHARE:
                return workers
    return MAX_WORKERS


def _chance_to_wait(workers: int, load: float) -> float:
    """Erlang's C."""
    blocked = 1.0
    for server in range(1, workers + 1):
        blocked = load * blocked / (server + load * blocked)
    return workers * blocked / (workers - load * (1 - blocked))


class WorkerView(NamedTuple):
    """What can be measured of a worker in a second. Shares are of that second."""

    number: int
    age: float
    """Seconds since it is ready."""
    cpu: float
    busy: float
    """Share in which its loop ran something."""
    in_flight: int
    running: float
    """Seconds that the requests which ended in this second took, the waiting included."""


class View(NamedTuple):
    """What a rule sees at the end of a second. Workers that boot or drain are not among `workers`."""

    now: float
    target: int
    workers: tuple[WorkerView, ...]
    backlog: int
    """Connections that nobody has accepted."""
    lag: float
    """Seconds by which loops are late."""
    requests: int
    """Answered in this second."""


class Rule(Protocol):
    """A scaling rule with its state."""

    def decide(self, view: View) -> int:
        """The number of workers there should be, asked once a second."""
        ...


@dataclass(slots=True)
class _Worker:
    number: int
    ready_at: float
    free_at: float
    cpu_share: float = 0.0
    """Of what holds the loop."""
    busy: float = 0.0
    cpu: float = 0.0
    running: float = 0.0
    ends: list[tuple[float, float]] = field(default_factory=list)
    """When each request in flight ends, and how long it took."""

    def begin_second(self, now: float) -> None:
        self.busy = min(1.0, max(0.0, self.free_at - now))
        self.cpu = self.busy * self.cpu_share

    def take(self, request: Arrival, start: float, second_ends: float) -> None:
        self.free_at = start + request.loop
        self.cpu_share = request.cpu / request.loop
        held = min(self.free_at, second_ends) - start
        self.busy += held
        self.cpu += held * self.cpu_share
        self.ends.append((self.free_at + request.waiting, request.loop + request.waiting))

    def view(self, now: float) -> WorkerView:
        running = sum(took for end, took in self.ends if end <= now)
        self.ends = [each for each in self.ends if each[0] > now]
        return WorkerView(self.number, now - self.ready_at, self.cpu, self.busy, len(self.ends), running)


@dataclass(slots=True)
class Result:
    """What came of a trace under a rule; the lists have an entry a second."""

    workers: list[int] = field(default_factory=list)
    needed: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """The wait that `LATE_SHARE` of the requests exceeded."""
    targets: list[int] = field(default_factory=list)

    @property
    def over_slo(self) -> int:
        """Seconds over the SLO, after `WARM_UP`."""
        return sum(wait > SLO for wait in self.waits[WARM_UP:])

    @property
    def wasted(self) -> int:
        """Worker-seconds beyond what was needed, after `WARM_UP`."""
        pairs = list(zip(self.workers, self.needed, strict=True))[WARM_UP:]
        return sum(max(0, workers - needed) for workers, needed in pairs)

    @property
    def turns(self) -> int:
        """How often the rule changed its direction."""
        steps = [after - before for before, after in zip(self.targets, self.targets[1:], strict=False)]
        moves = [step > 0 for step in steps if step]
        return sum(before is not after for before, after in itertools.pairwise(moves))


class Pool:
    """The queue and the workers; `run` plays a trace."""

    def __init__(self, trace: Trace, rule: Rule, workers: int = 1) -> None:
        self._trace = trace
        self._rule = rule
        self._last_number = 0
        self._workers: list[_Worker] = []
        self._leaving: list[_Worker] = []
        self._queue: deque[Arrival] = deque()
        self._waits: list[list[float]] = [[] for _ in range(trace.seconds)]
        self._target = workers
        self._add(workers, 0.0)

    def run(self, arrivals: list[list[Arrival]]) -> Result:
        """Play the trace with these requests."""
        result = Result()
        for second, requests in enumerate(arrivals):
            result.workers.append(len(self._workers) + len(self._leaving))
            result.needed.append(self._trace.needed(second))
            result.targets.append(self._target)
            answered = self._serve(second, requests)
            self._scale(second + 1.0, answered)
        for request in self._queue:  # as long as they have waited by now
            self._waits[int(request.at)].append(self._trace.seconds - request.at)
        result.waits = [_exceeded_by(LATE_SHARE, waits) for waits in self._waits]
        return result

    def _serve(self, second: int, requests: list[Arrival]) -> int:
        """Let a second pass; how many requests a loop has taken."""
        ends = second + 1.0
        self._queue.extend(requests)
        for worker in self._workers:
            worker.begin_second(second)
        free = [(max(worker.free_at, worker.ready_at), worker.number, worker) for worker in self._workers]
        heapq.heapify(free)
        taken = 0
        while self._queue and free:
            free_at, number, worker = free[0]
            request = self._queue[0]
            start = max(free_at, request.at)
            if start >= ends:
                break
            self._queue.popleft()
            self._waits[int(request.at)].append(start - request.at)
            worker.take(request, start, ends)
            heapq.heapreplace(free, (worker.free_at, number, worker))
            taken += 1
        return taken

    def _scale(self, now: float, answered: int) -> None:
        ready = [worker for worker in self._workers if worker.ready_at < now]
        loops = max(1, len(ready))
        waiting = sum(request.loop for request in self._queue) / loops
        held = min((max(0.0, worker.free_at - now) for worker in ready), default=0.0)
        # A loop accepts all that is there whenever it turns: of what waits, half has been accepted on average.
        views = tuple(worker.view(now) for worker in ready)
        view = View(now, self._target, views, len(self._queue) // 2, waiting + held, answered)
        self._target = max(1, min(MAX_WORKERS, self._rule.decide(view)))
        self._leaving = [worker for worker in self._leaving if worker.free_at > now]
        if self._target > len(self._workers):
            self._add(self._target - len(self._workers), now + self._trace.boot)
        for _ in range(len(self._workers) - self._target):
            self._leaving.append(self._workers.pop())  # the youngest, as those that boot are

    def _add(self, count: int, ready_at: float) -> None:
        for _ in range(count):
            self._last_number += 1
            self._workers.append(_Worker(self._last_number, ready_at, ready_at))


def _exceeded_by(share: float, waits: list[float]) -> float:
    """The wait that this share of them exceeds; 0 without any."""
    return sorted(waits)[min(len(waits) - 1, int((1 - share) * len(waits)))] if waits else 0.0


def simulate(trace: Trace, rule: Rule, arrivals: list[list[Arrival]] | None = None) -> Result:
    """Play a trace under a rule, from one worker."""
    return Pool(trace, rule).run(trace.arrivals() if arrivals is None else arrivals)
