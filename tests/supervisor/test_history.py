"""The last ten minutes."""

from __future__ import annotations

import json
from typing import get_type_hints

from outrider_supervisor.history import KEPT, WORKER_FIELDS, History, PoolPoint, WorkerPoint

POOL: PoolPoint = {
    "at": 0.0,
    "requests_per_second": 1.0,
    "p50_ms": None,
    "p99_ms": None,
    "in_flight": 0,
    "lag_ms": None,
    "busy": None,
    "memory_bytes": None,
    "workers": 1,
    "target": 1,
    "backlog": None,
}


def pool(at: float) -> PoolPoint:
    point = POOL.copy()
    point["at"] = at
    return point


def worker(at: float) -> WorkerPoint:
    return (at, 1.0, 0.5, 0.1, 1 << 20)


def test_history_is_bounded() -> None:
    history = History()
    for at in range(KEPT + 10):
        history.add(pool(float(at)), {7: worker(float(at))})
    report = history.report()
    assert [point["at"] for point in report["pool"]] == [float(at) for at in range(10, KEPT + 10)]
    assert [point[0] for point in report["workers"]["7"]] == [float(at) for at in range(10, KEPT + 10)]
    assert len(WORKER_FIELDS) == len(worker(0.0))


def test_worker_that_is_gone_is_forgotten() -> None:
    history = History()
    history.add(pool(1.0), {7: worker(1.0), 8: worker(1.0)})
    history.add(pool(2.0), {8: worker(2.0)})
    assert history.report()["workers"].keys() == {"8"}


def test_successor_goes_on_with_the_points() -> None:
    history, successor = History(), History()
    history.add(pool(1.0), {7: worker(1.0)})
    successor.take_state(json.loads(json.dumps(history.to_state())))
    assert successor.report() == history.report()
    successor.add(pool(2.0), {7: worker(2.0)})
    assert len(successor.report()["workers"]["7"]) == 2


def test_point_has_every_field() -> None:
    assert get_type_hints(PoolPoint).keys() == POOL.keys()
