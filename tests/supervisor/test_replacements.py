"""Replacing workers: decision by decision, and scenario by scenario with a whole service on a fake clock."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_supervisor.actions import Action, Code, Log, Retire, Tell
from outrider_supervisor.events import Sample
from outrider_supervisor.fleet import OVERTIME, Fleet, Outbox
from outrider_supervisor.generation import Generation, GenerationState, Worker, WorkerState
from outrider_supervisor.intents import Recycle
from outrider_supervisor.messages import Replace, ReplaceAtOnce
from outrider_supervisor.replacements import Replacements
from outrider_supervisor.rollout import RETIRE_PATIENCE
from outrider_testing.fakes.supervised_processes import BOOT_FAILS, Release
from outrider_testing.fakes.supervised_service import TICK, FakeService
from outrider_testing.services import make_service

NOW = 100.0
OVER = Sample(1000, 0, 0.0, 0)
"""A worker that has served enough."""


class Scene:
    """A generation that serves, with the workers 1, 2, 3 and 4; the last one boots."""

    def __init__(self, **fields: Any) -> None:
        self.outbox = Outbox()
        self.fleet = Fleet(self.outbox)
        self.replacements = Replacements(self.outbox, self.fleet)
        self.current = self.add(
            1, WorkerState.READY, WorkerState.READY, WorkerState.READY, WorkerState.BOOTING, **fields
        )

    def add(self, first: int, *states: WorkerState, **fields: Any) -> Generation:
        generation = self.fleet.make(make_service(**fields), NOW)
        generation.state = GenerationState.CURRENT
        generation.workers = {pid: Worker(pid, NOW, state) for pid, state in enumerate(states, first)}
        return generation

    def begin(self, pid: int = 0) -> Recycle:
        recycle = Recycle(0, pid)
        assert self.replacements.begin(recycle, self.current, NOW)
        return recycle

    def advance(self, recycle: Recycle, now: float = NOW) -> bool:
        return self.replacements.advance(recycle, self.current, now)

    def replace(self, pid: int, now: float = NOW) -> None:
        """The worker goes, and another one is ready."""
        self.current.workers[pid].state = WorkerState.RETIRING
        self.current.workers[pid].retired_at = now
        self.current.workers[pid + 100] = Worker(pid + 100, now, WorkerState.READY)
        self.replacements.note_retiring(pid)

    def done(self) -> list[Action]:
        return [action for action in self.outbox.take() if not isinstance(action, Log)]

    def find_due(self, *pids: int, target: int = 3) -> list[Action]:
        """What is done about these workers, which are over a limit."""
        self.replacements.replace_due(self.current, dict.fromkeys(pids, OVER), target, NOW)
        return self.done()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_recycling_concerns_the_workers_that_serve(scene: Scene) -> None:
    recycle = scene.begin()
    assert (list(recycle.left), recycle.count) == ([1, 2, 3], 3)
    assert recycle.deadline == NOW + 60 + OVERTIME


@pytest.mark.parametrize("pid", [4, 9])
def test_worker_that_does_not_serve_is_not_recycled(scene: Scene, pid: int) -> None:
    assert not scene.replacements.begin(Recycle(0, pid), scene.current, NOW)
    assert scene.outbox.take() == []


def test_next_worker_is_replaced_when_the_one_before_is_gone_or_has_had_its_time(scene: Scene) -> None:
    recycle = scene.begin()
    scene.advance(recycle)
    scene.advance(recycle)
    assert scene.done() == [Tell(1, Replace(1))]
    scene.replace(1, NOW + 5)
    scene.advance(recycle, NOW + 5)
    assert scene.done() == []
    scene.advance(recycle, NOW + 5 + RETIRE_PATIENCE)
    assert scene.done() == [Tell(1, Replace(2))]
    assert recycle.deadline == NOW + 5 + RETIRE_PATIENCE + 60 + OVERTIME
    scene.replacements.forget(2)
    del scene.current.workers[2]
    scene.advance(recycle, NOW + 7)
    assert scene.done() == [Tell(1, Replace(3))]


def test_recycling_is_done_when_the_last_worker_goes(scene: Scene) -> None:
    recycle = scene.begin(2)
    assert not scene.advance(recycle)
    scene.replace(2)
    assert scene.advance(recycle)


def test_max_surge_workers_are_replaced_at_a_time() -> None:
    scene = Scene(max_surge=2)
    scene.advance(scene.begin())
    assert scene.done() == [Tell(1, Replace(1)), Tell(1, Replace(2))]


def test_worker_that_is_gone_before_its_turn_is_left_out(scene: Scene) -> None:
    recycle = scene.begin()
    del scene.current.workers[1]
    scene.advance(recycle)
    assert scene.done() == [Tell(1, Replace(2))]


def test_workers_of_another_generation_hold_their_places(scene: Scene) -> None:
    old = scene.add(50, WorkerState.RETIRING)
    old.workers[50].retired_at = NOW
    recycle = scene.begin()
    scene.advance(recycle)
    assert scene.done() == []
    scene.advance(recycle, NOW + RETIRE_PATIENCE)
    assert scene.done() == [Tell(1, Replace(1))]


def test_worker_over_a_limit_is_replaced_once() -> None:
    scene = Scene(max_requests=100)
    assert scene.find_due(2) == [Tell(1, Replace(2))]
    assert scene.find_due(1, 2) == []
    scene.replacements.forget(2)
    del scene.current.workers[2]
    assert scene.find_due(1) == [Tell(1, Replace(1))]


def test_worker_that_is_being_replaced_is_not_replaced_once_more() -> None:
    scene = Scene(max_requests=100, max_surge=2)
    assert scene.find_due(2) == [Tell(1, Replace(2))]
    assert scene.find_due(2) == []


def test_worker_is_not_judged_by_another_one_that_had_its_pid() -> None:
    scene = Scene(max_worker_memory=1000)
    for memory in (100, 5000):
        scene.replacements.replace_due(scene.current, {1: Sample(0, 0, 0.0, memory)}, 3, NOW)
        assert scene.done() == []
        scene.replacements.forget(1)


def test_worker_over_a_limit_is_left_alone_where_nobody_can_replace_it() -> None:
    scene = Scene(max_requests=100)
    scene.current.has_master = False
    assert scene.find_due(2) == []


@pytest.mark.parametrize(
    "target, expected", [(3, [Tell(1, Replace(1)), Tell(1, ReplaceAtOnce(1))]), (4, [Tell(1, Replace(1))])]
)
def test_worker_far_over_a_limit_goes_at_once_if_enough_others_serve(target: int, expected: list[Action]) -> None:
    scene = Scene(max_worker_memory=1000)
    scene.replacements.replace_due(scene.current, {1: Sample(0, 0, 0.0, 100)}, target, NOW)
    assert scene.done() == []
    scene.replacements.replace_due(scene.current, {1: Sample(0, 0, 0.0, 5000)}, target, NOW)
    assert scene.done() == expected


# -- scenarios


@pytest.mark.parametrize("surge", [1, 3])
def test_all_workers_are_recycled(surge: int) -> None:
    service = FakeService(workers=4, max_surge=surge).serve()
    before = service.pids(1)
    outcome = service.outcome(service.recycle())
    assert (outcome.code, outcome.message) == (Code.DONE, "4 of 4 workers replaced")
    assert not set(before) & set(service.pids(1))
    assert service.least_serving == 4
    assert service.most_alive <= 4 + surge


def test_one_worker_is_recycled(service: FakeService) -> None:
    before = service.pids(1)
    assert service.outcome(service.recycle(before[2])).code is Code.DONE
    assert set(before) - set(service.pids(1)) == {before[2]}


def test_recycling_of_a_stranger_is_refused(service: FakeService) -> None:
    outcome = service.outcomes[service.recycle(1)]
    assert (outcome.code, outcome.message) == (
        Code.REFUSED,
        "1 is no worker that serves; `outrider status` lists them",
    )


def test_recycling_requests_wait_for_each_other(service: FakeService) -> None:
    operations = [service.recycle(pid) for pid in service.pids(1)]
    assert {service.outcome(operation).code for operation in operations} == {Code.DONE}


def test_recycling_fails_if_replacements_do_not_boot(service: FakeService) -> None:
    service.masters[1].release = BOOT_FAILS
    service.masters[1].spawned = 0
    outcome = service.outcome(service.recycle())
    assert outcome.code is Code.FAILED
    assert service.serving == service.least_serving == 4


def test_recycling_ends_where_the_master_does_nothing(service: FakeService) -> None:
    service.masters[1].is_hung = True
    assert service.outcome(service.recycle()).code is Code.FAILED


def test_recycling_goes_on_if_a_worker_dies_that_was_to_be_replaced(service: FakeService) -> None:
    operation = service.recycle()
    service.kill_worker(service.pids(1)[-1])
    assert service.outcome(operation).code is Code.DONE


def test_workers_over_max_requests_are_replaced_one_at_a_time() -> None:
    service = FakeService(workers=4, max_requests=100).serve()
    service.run(30.0)
    assert service.logged("(max_requests): it is replaced") >= 8
    assert service.least_serving == 4
    assert service.most_alive == 5


def test_old_workers_are_replaced() -> None:
    service = FakeService(workers=2, max_worker_age=20.0).serve()
    before = service.pids(1)
    service.run(30.0)
    assert service.logged("s old (max_worker_age)") >= 2
    assert not set(before) & set(service.pids(1))
    assert service.least_serving == 2


def test_worker_with_much_memory_is_replaced_before_it_goes() -> None:
    service = FakeService(workers=2, max_worker_memory=200 << 20).serve()
    grown = service.pids(1)[0]
    service.workers[grown].memory = 250 << 20
    service.run(5.0)
    assert service.logged(f"worker {grown} uses 250 MiB (max_worker_memory): it is replaced") == 1
    assert service.least_serving == 2
    assert grown not in service.workers


def test_worker_with_far_too_much_memory_goes_at_once() -> None:
    service = FakeService(workers=2, max_worker_memory=200 << 20).serve()
    service.run(1.0)
    grown = service.pids(1)[0]
    service.workers[grown].memory = 900 << 20
    service.run(2 * TICK)
    assert not service.workers[grown].is_serving
    service.run(5.0)
    assert service.serving == 2


def test_worker_with_far_too_much_memory_is_told_to_go_by_its_master() -> None:
    service = FakeService(workers=2, max_worker_memory=200 << 20).serve()
    service.run(1.0)
    grown = service.pids(1)[0]
    service.workers[grown].memory = 900 << 20
    service.run(5.0)
    assert service.actions.count(Tell(1, ReplaceAtOnce(grown))) == 1
    assert not [action for action in service.actions if isinstance(action, Retire)]


def test_worker_with_far_too_much_memory_whose_master_is_gone_goes_at_once() -> None:
    scene = Scene(max_worker_memory=1000)
    scene.current.has_master = False
    for memory in (100, 5000):
        scene.replacements.replace_due(scene.current, {1: Sample(0, 0, 0.0, memory)}, 3, NOW)
    assert scene.done() == [Retire(1)]


def test_workers_with_far_too_much_memory_do_not_go_all_at_once() -> None:
    service = FakeService(workers=4, max_worker_memory=200 << 20).serve()
    service.run(1.0)
    for pid in service.pids(1):
        service.workers[pid].memory = 900 << 20
    service.run(30.0)
    assert service.least_serving == 3
    assert service.serving == 4


def test_workers_above_the_hard_limit_from_the_beginning_serve_on() -> None:
    service = FakeService(Release(memory=900 << 20), workers=1, max_worker_memory=200 << 20).serve()
    service.run(60.0)
    assert service.least_serving == 1
