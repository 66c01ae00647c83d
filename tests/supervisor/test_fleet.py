from __future__ import annotations

import pytest

from outrider_supervisor.actions import Action, Code, Finish, Kill, Level, Log, Progress, Retire, StartMaster, Tell
from outrider_supervisor.fleet import BOOT_STOP, FAST_STOP, MASTER_SILENCE, OVERTIME, Fleet, Outbox
from outrider_supervisor.generation import Generation, GenerationState, Worker, WorkerState
from outrider_supervisor.messages import ALIVE_PERIOD, SetTarget, Stop
from outrider_testing.services import make_service

NOW = 100.0
SERVICE = make_service(graceful_timeout=30.0)


class Scene:
    """A fleet, with what it wants done."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.fleet = Fleet(self.outbox)

    def add(self, *states: WorkerState, has_master: bool = True) -> Generation:
        """A current generation whose workers are 1, 2, 3 in order of age."""
        generation = self.fleet.make(SERVICE, NOW)
        generation.target = len(states)
        self.fleet.start_master(generation)
        generation.state = GenerationState.CURRENT
        generation.is_booted = True
        generation.heard_at = NOW
        generation.has_master = has_master
        generation.workers = {pid: Worker(pid, NOW, state) for pid, state in enumerate(states, 1)}
        self.outbox.take()
        return generation

    def look(self, begin: float, end: float) -> list[Action]:
        """Look for silent masters all the time from one moment to the other; what is done about them."""
        now = begin
        while now <= end:
            self.fleet.kill_silent_masters(now)
            now += ALIVE_PERIOD
        return self.done()

    def done(self) -> list[Action]:
        return [action for action in self.outbox.take() if not isinstance(action, Log)]


@pytest.fixture
def scene() -> Scene:
    return Scene()


READY, BOOTING, RETIRING, STUCK = WorkerState.READY, WorkerState.BOOTING, WorkerState.RETIRING, WorkerState.STUCK


def test_outbox_is_empty_once_taken() -> None:
    outbox = Outbox()
    outbox.log(Level.INFO, "text", operation=3)
    outbox.finish(3, Code.DONE, "done")
    outbox.finish(0, Code.DONE, "nobody waits")
    assert outbox.take() == [Log(Level.INFO, "text"), Progress(3, "text"), Finish(3, Code.DONE, "done")]
    assert outbox.take() == []


def test_generations_are_numbered(scene: Scene) -> None:
    assert [scene.fleet.make(SERVICE, NOW).number for _ in range(3)] == [1, 2, 3]


def test_master_is_started_with_its_target(scene: Scene) -> None:
    generation = scene.fleet.make(SERVICE, NOW)
    generation.target = 4
    scene.fleet.start_master(generation)
    scene.fleet.tell_targets(NOW)
    assert scene.done() == [StartMaster(1, SERVICE, 4)]


def test_changed_target_is_told_once(scene: Scene) -> None:
    scene.add(READY).target = 3
    scene.fleet.tell_targets(NOW)
    scene.fleet.tell_targets(NOW)
    assert scene.done() == [Tell(1, SetTarget(3))]


def test_adopted_generation_knows_its_target(scene: Scene) -> None:
    generation = Generation(7, SERVICE, GenerationState.CURRENT, 2, NOW)
    scene.fleet.adopt(generation)
    scene.fleet.tell_targets(NOW)
    assert scene.done() == []


def test_capacity_is_of_all_generations(scene: Scene) -> None:
    scene.add(READY, BOOTING, STUCK)
    scene.add(READY, RETIRING)
    assert scene.fleet.capacity == 2


def test_generation_is_stopped_once(scene: Scene) -> None:
    generation = scene.add(READY)
    scene.fleet.stop(generation, NOW, fast=False)
    scene.fleet.stop(generation, NOW + 1, fast=False)
    scene.fleet.tell_targets(NOW)
    assert scene.done() == [Tell(1, Stop(fast=False))]
    assert generation.kill_at == NOW + 30 + OVERTIME


def test_fast_stop_overtakes_a_graceful_one(scene: Scene) -> None:
    generation = scene.add(READY)
    scene.fleet.stop(generation, NOW, fast=False)
    scene.fleet.stop(generation, NOW + 1, fast=True)
    assert scene.done() == [Tell(1, Stop(fast=False)), Tell(1, Stop(fast=True))]
    assert generation.kill_at == NOW + 1 + FAST_STOP


@pytest.mark.parametrize("fast", [False, True])
def test_master_that_is_not_up_yet_is_given_little_time_to_stop(scene: Scene, fast: bool) -> None:
    generation = scene.add()
    generation.is_booted = False
    scene.fleet.stop(generation, NOW, fast=fast)
    assert generation.kill_at == NOW + BOOT_STOP
    scene.outbox.take()
    scene.fleet.kill_overdue(NOW + BOOT_STOP)
    assert scene.done() == [Kill(1, ())]


def test_orphans_are_retired_by_the_supervisor(scene: Scene) -> None:
    generation = scene.add(READY, READY, READY, has_master=False)
    generation.target = 2
    scene.fleet.tell_targets(NOW)
    scene.fleet.tell_targets(NOW)
    assert scene.done() == [Retire(1)]
    assert (generation.workers[1].state, generation.workers[1].retired_at) == (RETIRING, NOW)


@pytest.mark.parametrize("useless", [BOOTING, STUCK])
def test_orphans_that_do_not_serve_are_retired_first(scene: Scene, useless: WorkerState) -> None:
    generation = scene.add(READY, READY, READY, useless, has_master=False)
    generation.target = 2
    scene.fleet.tell_targets(NOW)
    assert scene.done() == [Retire(4), Retire(1)]


def test_stop_of_orphans_retires_them_all_but_none_twice(scene: Scene) -> None:
    generation = scene.add(READY, RETIRING, STUCK, has_master=False)
    scene.fleet.stop(generation, NOW, fast=False)
    scene.fleet.stop(generation, NOW, fast=True)
    assert scene.done() == [Retire(3), Retire(1)]


def test_what_is_left_is_killed_when_its_time_is_over_and_again(scene: Scene) -> None:
    generation = scene.add(READY, READY)
    scene.fleet.kill_overdue(NOW + 1000)
    scene.fleet.stop(generation, NOW, fast=True)
    scene.outbox.take()
    scene.fleet.kill_overdue(NOW + FAST_STOP - 0.1)
    assert scene.done() == []
    for _ in range(2):
        scene.fleet.kill_overdue(NOW + FAST_STOP)
    assert scene.done() == [Kill(1, (1, 2))]
    scene.fleet.kill_overdue(NOW + FAST_STOP + OVERTIME)
    assert scene.done() == [Kill(1, (1, 2))]


def test_silent_master_is_killed_without_its_workers_and_again(scene: Scene) -> None:
    scene.add(READY, READY)
    assert scene.look(NOW, NOW + MASTER_SILENCE) == []
    scene.fleet.kill_silent_masters(NOW + MASTER_SILENCE + 1)
    assert scene.outbox.take() == [
        Log(Level.ERROR, "the master of generation 1 has been silent for 61 s: killing it"),
        Kill(1, ()),
    ]
    assert scene.look(NOW + MASTER_SILENCE + 2, NOW + 2 * MASTER_SILENCE + 1) == []
    scene.fleet.kill_silent_masters(NOW + 2 * MASTER_SILENCE + 2)
    assert scene.done() == [Kill(1, ())]


def test_master_that_says_something_is_not_killed(scene: Scene) -> None:
    generation = scene.add(READY)
    scene.look(NOW, NOW + MASTER_SILENCE)
    generation.heard_at = NOW + MASTER_SILENCE
    assert scene.look(NOW + MASTER_SILENCE, NOW + 2 * MASTER_SILENCE) == []


def test_nothing_is_expected_of_a_master_before_it_is_up(scene: Scene) -> None:
    generation = scene.fleet.make(SERVICE, NOW)
    scene.fleet.start_master(generation)
    scene.outbox.take()
    assert scene.look(NOW, NOW + 3 * MASTER_SILENCE) == []


def test_orphans_are_not_killed_for_the_silence_of_their_master(scene: Scene) -> None:
    scene.add(READY, has_master=False)
    assert scene.look(NOW, NOW + 3 * MASTER_SILENCE) == []


def test_silence_while_the_supervisor_stood_still_is_forgiven(scene: Scene) -> None:
    scene.add(READY)
    scene.look(NOW, NOW + 10)
    later = NOW + 10 * MASTER_SILENCE
    assert scene.look(later, later + MASTER_SILENCE) == []
    scene.fleet.kill_silent_masters(later + MASTER_SILENCE + 1)
    assert scene.done() == [Kill(1, ())]


def test_generation_is_forgotten_with_its_last_process(scene: Scene) -> None:
    generation = scene.add(READY)
    scene.fleet.stop(generation, NOW, fast=False)
    scene.fleet.forget(generation, 1)
    assert scene.fleet.generations
    scene.fleet.lose_master(generation)
    assert not scene.fleet.generations


def test_workers_that_the_kernel_has_missed_go_with_the_master(scene: Scene) -> None:
    generation = scene.add(READY, READY)
    generation.workers[2].is_gone = True
    scene.fleet.lose_master(generation)
    assert list(generation.workers) == [1]


def test_generation_that_serves_is_kept_without_any_process(scene: Scene) -> None:
    generation = scene.add(READY)
    scene.fleet.lose_master(generation)
    scene.fleet.forget(generation, 1)
    assert scene.fleet.generations == {1: generation}
