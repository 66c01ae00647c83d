"""What the supervisor remembers of its looks at the workers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

import pytest

from outrider.scoreboard import RowSnapshot, Totals, WorkerState
from outrider_supervisor.events import FromGeneration, Started
from outrider_supervisor.history import PERIOD
from outrider_supervisor.machine import Machine
from outrider_supervisor.measure import Sampler
from outrider_supervisor.messages import WorkerExited, WorkerReady, WorkerSpawned
from outrider_supervisor.status_report import Usage
from outrider_supervisor.telemetry import ProcessorTime, Telemetry
from outrider_testing.services import make_service
from outrider_testing.snapshots import make_histogram, make_row

WALL = 1_790_000_000.0
MIB = 1 << 20


class FakeWorkers:
    """The scoreboard and the sampler, with what the test says. `gone` is what dead workers have counted."""

    def __init__(self) -> None:
        self.found: dict[int, RowSnapshot] = {}
        self.counted: dict[int, list[float]] = {}
        self.gone: list[float] = []
        self.used: dict[int, Usage] = {}
        self.looks = 0

    def add(self, pid: int, *durations: float, cpu: float = 1.0, **fields: Any) -> None:
        """Have a worker that has answered requests which took so long."""
        self.found[pid] = make_row(pid, row=pid, **fields)
        self.counted[pid] = list(durations)
        self.used[pid] = Usage(10.0, 0.25, 50 * MIB, "pss", cpu, 60 * MIB)

    def bury(self, pid: int) -> None:
        del self.found[pid], self.used[pid]
        self.gone += self.counted.pop(pid)

    def rows(self) -> dict[int, RowSnapshot]:
        return self.found

    def usage(self, pids: Iterable[int], _rows: Mapping[int, RowSnapshot], _now: float) -> dict[int, Usage]:
        self.looks += 1
        return {pid: self.used.get(pid, Usage()) for pid in pids}

    def totals(self) -> Totals:
        return self._totals([*self.gone, *(each for durations in self.counted.values() for each in durations)])

    def totals_of(self, row: int) -> Totals:
        return self._totals(self.counted[row])

    def _totals(self, durations: list[float]) -> Totals:
        failed = [each for each in durations if each > 1.0]
        good = [each for each in durations if each <= 1.0]
        return Totals(0, 0, 0, 0, 0, {("GET", 2): make_histogram(*good), ("GET", 5): make_histogram(*failed)})


class Scene:
    """One generation of workers."""

    def __init__(self, **fields: Any) -> None:
        self.workers = FakeWorkers()
        self.telemetry = Telemetry(self.workers, cast("Sampler", self.workers))
        self.machine = Machine()
        self.machine.handle(Started(make_service(workers=1, **fields)), 1.0)
        self.now = 1000.0

    def spawn(self, pid: int, *durations: float, **fields: Any) -> None:
        self.workers.add(pid, *durations, **fields)
        self.machine.handle(FromGeneration(1, WorkerSpawned(pid, 0)), self.now)
        self.machine.handle(FromGeneration(1, WorkerReady(pid)), self.now)

    def end(self, pid: int) -> None:
        self.workers.bury(pid)
        self.machine.handle(
            FromGeneration(1, WorkerExited(pid, "was killed", expected=False, was_ready=True)), self.now
        )

    def look(self, seconds: float = PERIOD) -> None:
        self.now += seconds
        self.telemetry.look(self.machine, 3, self.now, WALL + self.now)

    @property
    def point(self) -> Any:
        return self.telemetry.history.report()["pool"][-1]


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.spawn(7, 0.001, in_flight=2)
    scene.look()
    return scene


def test_look_is_taken_once_a_period_even_if_it_is_called_a_little_late(scene: Scene) -> None:
    for _ in range(20):
        scene.look(PERIOD / 2 + 0.01)
    assert len(scene.telemetry.history.report()["pool"]) == 1 + 10


def test_look_after_a_long_pause_is_no_reason_to_make_up_for_it(scene: Scene) -> None:
    scene.look(100 * PERIOD)
    scene.look(0.1)
    assert len(scene.telemetry.history.report()["pool"]) == 2


def test_point_is_what_was_seen(scene: Scene) -> None:
    scene.workers.counted[7] += [0.004] * 98 + [0.3] * 2
    scene.look()
    point = scene.point
    assert point.pop("lag_ms") > 0
    assert point == {
        "at": round(WALL + scene.now, 1),
        "requests_per_second": 50.0,
        "p50_ms": 2.6,
        "p99_ms": 375.0,
        "in_flight": 2,
        "busy": 0.25,
        "memory_bytes": 50 * MIB,
        "workers": 1,
        "target": 1,
        "backlog": 3,
    }
    (worker_points,) = scene.telemetry.history.report()["workers"].values()
    assert worker_points[-1][1] == 50.0


def test_rates_are_of_the_last_ten_seconds(scene: Scene) -> None:
    assert scene.telemetry.rates(4)["requests_per_second"] is None
    scene.workers.counted[7] += [0.001] * 90 + [2.0] * 10
    scene.look()
    scene.look()
    rates = scene.telemetry.rates(4)
    assert (rates["requests_per_second"], rates["errors_per_second"], rates["in_flight"]) == (25.0, 2.5, 4)
    assert scene.telemetry.worker_rates()[7].requests == 25.0
    for _ in range(5):
        scene.look()
    assert scene.telemetry.rates(4)["requests_per_second"] == 0.0


def test_requests_of_a_worker_that_died_are_not_lost(scene: Scene) -> None:
    scene.look()
    assert scene.telemetry.worker_rates().keys() == {7}
    scene.workers.counted[7] += [0.001] * 10
    scene.end(7)
    scene.spawn(8)
    scene.look()
    assert scene.point["requests_per_second"] == 5.0
    assert scene.telemetry.history.report()["workers"].keys() == {"8"}
    assert scene.telemetry.worker_rates() == {}


def test_worker_that_boots_is_not_late(scene: Scene) -> None:
    scene.workers.add(7, state=WorkerState.BOOTING)
    scene.look()
    assert scene.point["lag_ms"] is None


def test_worker_of_another_class_has_its_memory_alone() -> None:
    scene = Scene(reports_state=False)
    scene.spawn(7, in_flight=2)
    scene.look()
    (points,) = scene.telemetry.history.report()["workers"].values()
    assert points[0][1:] == (None, None, None, 50 * MIB)
    assert scene.point["in_flight"] == 0
    assert scene.telemetry.rows(scene.machine) == {}


def test_status_and_metrics_do_not_make_it_look_again(scene: Scene) -> None:
    looks = scene.workers.looks
    for _ in range(3):
        assert scene.telemetry.usage(scene.machine, scene.now)[7].memory_bytes == 50 * MIB
    assert scene.workers.looks == looks


def test_worker_that_is_new_since_the_last_look_is_looked_at(scene: Scene) -> None:
    scene.spawn(8)
    assert scene.telemetry.usage(scene.machine, scene.now)[8].memory_bytes == 50 * MIB


# -- processor time


def test_processor_time_never_falls() -> None:
    time = ProcessorTime()
    time.look({7: Usage(cpu_seconds=5.0), 8: Usage(cpu_seconds=1.0)})
    time.look({7: Usage(cpu_seconds=None), 8: Usage(cpu_seconds=2.0)})
    assert time.total == 7.0
    time.look({8: Usage(cpu_seconds=2.5)})
    assert time.total == 7.5
    time.look({9: Usage(cpu_seconds=0.5)})
    assert time.total == 8.0


def test_successor_goes_on_with_history_and_processor_time(scene: Scene) -> None:
    scene.end(7)
    scene.spawn(8, cpu=0.5)
    scene.look()
    successor = Telemetry(scene.workers, cast("Sampler", scene.workers))
    successor.take_state(json.loads(json.dumps(scene.telemetry.to_state())))
    assert successor.history.report() == scene.telemetry.history.report()
    assert successor.processor_time.total == scene.telemetry.processor_time.total == 1.5
    successor.processor_time.look({})
    assert successor.processor_time.total == 1.5
