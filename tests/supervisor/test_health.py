"""When a service is called degraded, and when it has recovered."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_supervisor.actions import Level, Log
from outrider_supervisor.fleet import Outbox
from outrider_supervisor.generation import Generation, GenerationState, Worker, WorkerState
from outrider_supervisor.health import INTENSITY_WINDOW, Health
from outrider_testing.services import make_service

NOW = 100.0


class Scene:
    """A generation that serves, and who judges it. `logged` is what was said, in order."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.health = Health(self.outbox)
        self.logged: list[tuple[Level, str]] = []
        self.generation = Generation(1, make_service(restart_intensity=2), GenerationState.CURRENT, 0, NOW)
        self.set_ready(2)

    def set_ready(self, ready: int, *others: WorkerState) -> None:
        states = (*(WorkerState.READY,) * ready, *others)
        self.generation.workers = {pid: Worker(pid, NOW, state) for pid, state in enumerate(states)}

    def judge(self, now: float = NOW, target: int = 2) -> bool:
        """Look; whether the service is degraded."""
        self.health.judge(self.generation, target, now)
        for action in self.outbox.take():
            assert isinstance(action, Log)
            self.logged.append((action.level, action.text))
        return self.health.is_degraded


@pytest.fixture
def scene() -> Scene:
    return Scene()


def crash(scene: Scene, times: int, now: float = NOW) -> None:
    for _ in range(times):
        scene.health.note_crash(now)


def test_service_with_all_its_workers_is_well(scene: Scene) -> None:
    assert not scene.judge()
    assert scene.logged == []


@pytest.mark.parametrize("state", [WorkerState.BOOTING, WorkerState.RETIRING, WorkerState.STUCK])
def test_service_with_too_few_workers_is_degraded(scene: Scene, state: WorkerState) -> None:
    scene.set_ready(1, state)
    assert scene.judge()
    assert scene.logged == [(Level.WARNING, "degraded: serving with 1 of 2 workers")]


def test_service_of_one_worker_is_told_of_as_one(scene: Scene) -> None:
    scene.set_ready(0)
    scene.judge(target=1)
    assert scene.logged == [(Level.WARNING, "degraded: serving with 0 of 1 worker")]


def test_service_without_a_master_is_degraded(scene: Scene) -> None:
    scene.generation.has_master = False
    assert scene.judge()
    assert scene.logged == [(Level.WARNING, "degraded: serving with 2 of 2 workers, their master is gone")]


def test_service_that_crashes_more_often_than_it_may_is_degraded(scene: Scene) -> None:
    crash(scene, 2)
    assert not scene.judge()
    crash(scene, 1)
    assert scene.judge()
    assert scene.logged == [(Level.WARNING, "degraded: serving with 2 of 2 workers, 3 crashes within 60 s")]


def test_all_reasons_are_told_at_once(scene: Scene) -> None:
    crash(scene, 3)
    scene.set_ready(1)
    scene.generation.has_master = False
    scene.judge()
    ((_, text),) = scene.logged
    assert text == "degraded: serving with 1 of 2 workers, 3 crashes within 60 s, their master is gone"


def test_crashes_are_forgotten_after_a_while(scene: Scene) -> None:
    crash(scene, 1)
    crash(scene, 2, NOW + 10)
    assert scene.judge(NOW + INTENSITY_WINDOW)
    assert not scene.judge(NOW + INTENSITY_WINDOW + 0.1)
    assert scene.logged[-1] == (Level.INFO, "recovered: serving with 2 of 2 workers")


def test_crashes_of_other_code_do_not_count(scene: Scene) -> None:
    crash(scene, 3)
    scene.health.forget_crashes()
    assert not scene.judge()


def test_beginning_and_end_are_told_once(scene: Scene) -> None:
    def look(ready: int) -> Any:
        scene.set_ready(ready)
        for _ in range(3):
            scene.judge()

    look(0)
    look(1)
    look(2)
    texts = [text for _, text in scene.logged]
    assert texts == ["degraded: serving with 0 of 2 workers", "recovered: serving with 2 of 2 workers"]
