"""The last ten minutes: a bounded ring of points for the whole pool, and one for each worker that is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, TypedDict

PERIOD = 2.0
"""Seconds from one point to the next."""
KEPT = 300
"""Points, which are ten minutes."""

WorkerPoint = tuple[float, float | None, float | None, float | None, int | None]
"""Unix time, requests a second, lag in milliseconds, busy share, memory in bytes: in the order of `WORKER_FIELDS`."""
WORKER_FIELDS = ("at", "requests_per_second", "lag_ms", "busy", "memory_bytes")


class PoolPoint(TypedDict):
    """The pool at one moment. What is not known is null."""

    at: float
    """Unix time."""
    requests_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    in_flight: int
    lag_ms: float | None
    """The worst worker's."""
    busy: float | None
    """Mean of the workers."""
    memory_bytes: int | None
    """Of all workers together."""
    workers: int
    """How many serve."""
    target: int
    backlog: int | None
    """Connections that wait to be accepted."""


class HistoryStatus(TypedDict):
    """What `GET /api/history` says."""

    period: float
    pool: list[PoolPoint]
    workers: dict[str, list[WorkerPoint]]
    """By process id, in the order of `WORKER_FIELDS`."""


class History:
    """Forgets what is older than `KEPT` points, and workers as soon as they are gone."""

    def __init__(self) -> None:
        self._pool: deque[PoolPoint] = deque(maxlen=KEPT)
        self._workers: dict[int, deque[WorkerPoint]] = {}

    def add(self, pool: PoolPoint, workers: Mapping[int, WorkerPoint]) -> None:
        """Take in one point for the pool, and one for each worker there is."""
        self._pool.append(pool)
        for pid in self._workers.keys() - workers.keys():
            del self._workers[pid]
        for pid, point in workers.items():
            self._workers.setdefault(pid, deque(maxlen=KEPT)).append(point)

    def report(self) -> HistoryStatus:
        """All points, the oldest first."""
        return {
            "period": PERIOD,
            "pool": list(self._pool),
            "workers": {str(pid): list(points) for pid, points in self._workers.items()},
        }

    def to_state(self) -> dict[str, Any]:
        """What `take_state` needs in the supervisor that replaces this one."""
        return dict(self.report())

    def take_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the points of another supervisor."""
        self._pool.extend(state["pool"])
        for pid, points in state["workers"].items():
            self._workers[int(pid)] = deque((tuple(point) for point in points), maxlen=KEPT)
