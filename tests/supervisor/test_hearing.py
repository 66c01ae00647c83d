"""What the supervisor makes of a master's messages, one by one."""

from __future__ import annotations

import math

import pytest

from outrider_supervisor.actions import Log
from outrider_supervisor.events import FromGeneration, MasterExited, ScaleAsked, Started
from outrider_supervisor.generation import Generation, WorkerState
from outrider_supervisor.machine import Machine
from outrider_supervisor.messages import (
    Alive,
    BackingOff,
    FromMaster,
    MasterBooted,
    WorkerExited,
    WorkerReady,
    WorkerRetiring,
    WorkerSpawned,
    WorkerStuck,
)
from outrider_testing.services import make_service


class Scene:
    """A generation of two workers, 11 and 12; every second its master says something."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.now = 100.0
        self.logged: list[str] = []
        self.machine.handle(Started(make_service(workers=2)), self.now)

    @property
    def generation(self) -> Generation:
        return self.machine.fleet.generations[1]

    def say(self, *messages: FromMaster) -> None:
        for message in messages:
            self.now += 1.0
            actions = self.machine.handle(FromGeneration(1, message), self.now)
            self.logged += [action.text for action in actions if isinstance(action, Log)]

    def serve(self) -> Scene:
        self.say(MasterBooted(), *(WorkerSpawned(pid, 0) for pid in (11, 12)))
        self.say(*(WorkerReady(pid) for pid in (11, 12)))
        self.logged.clear()
        return self


@pytest.fixture
def scene() -> Scene:
    return Scene().serve()


def test_whatever_a_master_says_shows_that_it_lives() -> None:
    scene = Scene()
    assert scene.generation.heard_at == math.inf
    for message in (MasterBooted(), Alive(), WorkerSpawned(11, 0)):
        scene.say(message)
        assert scene.generation.heard_at == scene.now


def test_worker_that_is_ready_too_late_goes_all_the_same(scene: Scene) -> None:
    scene.say(WorkerSpawned(13, 11), WorkerRetiring(13), WorkerReady(13))
    worker = scene.generation.workers[13]
    assert (worker.state, worker.retired_at) == (WorkerState.RETIRING, scene.now - 1)
    assert scene.machine.fleet.capacity == 2


def test_worker_is_retired_once(scene: Scene) -> None:
    scene.say(WorkerRetiring(11), WorkerRetiring(11))
    assert scene.generation.workers[11].retired_at == scene.now - 1


def test_ready_again_changes_nothing(scene: Scene) -> None:
    scene.say(WorkerStuck(11, 31.0), WorkerReady(11))
    assert scene.generation.workers[11].state is WorkerState.STUCK


@pytest.mark.parametrize("message", [WorkerReady(9), WorkerRetiring(9), WorkerStuck(9, 1.0)])
def test_message_about_a_stranger_means_nothing(scene: Scene, message: FromMaster) -> None:
    scene.say(message)
    assert sorted(scene.generation.workers) == [11, 12]
    assert scene.logged == []


def test_crash_of_a_current_worker_is_logged_and_an_expected_end_is_not(scene: Scene) -> None:
    scene.say(WorkerExited(11, "exited with code 0", expected=True, was_ready=True))
    assert scene.logged == ["degraded: serving with 1 of 2 workers"]
    scene.say(WorkerExited(12, "was killed by SIGSEGV", expected=False, was_ready=True))
    assert scene.logged[1:] == ["worker 12 was killed by SIGSEGV"]


# -- backing off


def test_backoff_lasts_until_the_next_worker_is_started(scene: Scene) -> None:
    scene.say(BackingOff(3, 4.0))
    assert scene.logged == ["3 failures in a row: the next worker is started in 4 s"]
    assert scene.generation.failures == 3
    assert scene.generation.is_backing_off(scene.now + 3.9)
    assert not scene.generation.is_backing_off(scene.now + 4.0)
    scene.say(WorkerSpawned(13, 0))
    assert not scene.generation.is_backing_off(scene.now)


def test_backoff_ends_with_another_target(scene: Scene) -> None:
    scene.say(BackingOff(3, 60.0))
    scene.machine.handle(ScaleAsked(0, 1), scene.now)
    assert not scene.generation.is_backing_off(scene.now)


def test_nobody_backs_off_without_a_master(scene: Scene) -> None:
    scene.say(BackingOff(3, 60.0))
    scene.machine.handle(MasterExited(1, "was killed by SIGKILL"), scene.now)
    assert not scene.generation.is_backing_off(scene.now)
