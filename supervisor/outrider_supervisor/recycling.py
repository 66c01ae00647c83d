"""Which workers are due to be replaced: by requests, age or memory (max_requests, max_worker_age, max_worker_memory).

Each worker has limits of its own, up to a tenth below the configured age and memory and up to `max_requests_jitter`
above `max_requests`, so that workers that were started together do not go together.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider_supervisor.events import Sample
from outrider_supervisor.service import Service

SPREAD = 0.1
MEMORY_SAMPLES = 3
"""So many samples of memory in a row must be above the limit: a peak is no growth."""
HARD_MEMORY = 1.5
"""Beyond so many times its limit of memory a worker is told to go before its replacement is ready. It must have grown
by so much, too: in the place of one that began as large there would soon be another."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Due:
    """A worker to replace, and the setting that says so; with `at_once` it shall not wait for its replacement."""

    pid: int
    setting: str
    finding: str
    at_once: bool = False

    @property
    def reason(self) -> str:
        """For the log; it reads on from "worker 123 "."""
        return f"{self.finding} ({self.setting})"


@dataclass(slots=True)
class _Watched:
    luck: float
    """0 to 1: where in the spread this worker's limits are."""
    first_memory: int = 0
    memory: deque[int] = field(default_factory=lambda: deque(maxlen=MEMORY_SAMPLES))


class Recycling:
    """Remembers what it needs of each worker between looks."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311  # no secret: it spreads restarts
        self._watched: dict[int, _Watched] = {}

    def find_due(
        self, service: Service, samples: Mapping[int, Sample], ready_since: Mapping[int, float], now: float
    ) -> list[Due]:
        """The workers over a limit, in the order of `ready_since`, which has those that serve."""
        due = []
        for pid, since in ready_since.items():
            sample = samples.get(pid)
            if sample is None:
                continue
            watched = self._watched.setdefault(pid, _Watched(self._random.random()))
            found = self._judge(pid, service, sample, watched, now - since)
            if found is not None:
                due.append(found)
        return due

    def forget(self, pid: int) -> None:
        """The worker is gone."""
        self._watched.pop(pid, None)

    def _judge(self, pid: int, service: Service, sample: Sample, watched: _Watched, age: float) -> Due | None:
        most_requests = service.max_requests + int(watched.luck * (service.max_requests_jitter + 0.999))
        if service.max_requests and sample.requests >= most_requests:
            return Due(pid, "max_requests", f"served {sample.requests} requests")
        share = 1 - SPREAD * watched.luck
        if service.max_worker_age and age >= service.max_worker_age * share:
            return Due(pid, "max_worker_age", f"is {age:.0f} s old")
        if service.max_worker_memory and sample.memory is not None:
            return _judge_memory(pid, watched, sample.memory, service.max_worker_memory * share)
        return None


def _judge_memory(pid: int, watched: _Watched, memory: int, limit: float) -> Due | None:
    before = watched.memory
    before.append(memory)
    watched.first_memory = watched.first_memory or memory
    finding = f"uses {memory / _MIB:.0f} MiB"
    if memory > HARD_MEMORY * max(limit, watched.first_memory):
        return Due(pid, "max_worker_memory", finding, at_once=True)
    if len(before) == MEMORY_SAMPLES and min(before) > limit:
        return Due(pid, "max_worker_memory", finding)
    return None
