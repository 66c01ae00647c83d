"""One reload as numbers of workers; whole reloads are in test_machine."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_supervisor.events import Sample
from outrider_supervisor.generation import Generation, GenerationState, Worker, WorkerState
from outrider_supervisor.rollout import GRACE, RETIRE_PATIENCE, Rollout
from outrider_testing.services import make_service

NOW = 100.0
READY, BOOTING, RETIRING, STUCK = WorkerState.READY, WorkerState.BOOTING, WorkerState.RETIRING, WorkerState.STUCK


def make_generation(number: int, state: GenerationState, *workers: WorkerState, **fields: Any) -> Generation:
    """Workers are counted up from a hundred times the number; who is retired was so long ago."""
    generation = Generation(number, make_service(**fields), state, len(workers), NOW)
    generation.workers = {pid: Worker(pid, 0.0, each) for pid, each in enumerate(workers, 100 * number)}
    return generation


def make_rollout(
    new: tuple[WorkerState, ...] = (),
    old: tuple[WorkerState, ...] = (READY,) * 4,
    state: GenerationState = GenerationState.ROLLING,
    **fields: Any,
) -> Rollout:
    current = make_generation(1, GenerationState.CURRENT, *old)
    return Rollout(current, make_generation(2, state, *new, **fields), True, 4, NOW)


@pytest.mark.parametrize(
    "surge, kept, canary, expected",
    [(1, 4, True, 1), (4, 4, True, 1), (1, 4, False, 1), (4, 4, False, 4), (9, 4, False, 4), (1, 1, False, 3)],
)
def test_new_generation_begins_with_what_there_is_room_for(surge: int, kept: int, canary: bool, expected: int) -> None:
    rollout = make_rollout(old=(READY,) * kept, max_surge=surge)
    rollout.wants_canary = canary
    assert rollout.first_target(4) == expected


def test_canary_of_no_seconds_is_none() -> None:
    assert make_rollout(canary_seconds=0.0, max_surge=2).first_target(4) == 2


def test_nothing_moves_before_the_first_worker_is_ready() -> None:
    rollout = make_rollout((BOOTING,), state=GenerationState.STARTING)
    assert not rollout.step(4, NOW)
    assert (rollout.old.target, rollout.new.target) == (4, 1)


def test_old_worker_goes_for_each_new_one() -> None:
    rollout = make_rollout((READY,))
    assert not rollout.step(4, NOW)
    assert (rollout.old.target, rollout.new.target) == (3, 1)


def test_new_worker_comes_for_each_old_one_that_has_gone() -> None:
    rollout = make_rollout((READY,), (READY,) * 3)
    rollout.step(4, NOW)
    assert rollout.new.target == 2


@pytest.mark.parametrize("ago, expected", [(RETIRE_PATIENCE - 0.1, 1), (RETIRE_PATIENCE, 2)])
def test_retired_worker_holds_its_place_for_a_moment(ago: float, expected: int) -> None:
    rollout = make_rollout((READY,), (RETIRING, READY, READY, READY))
    rollout.old.workers[100].retired_at = NOW - ago
    rollout.step(4, NOW)
    assert rollout.new.target == expected


def test_last_old_worker_stays_until_the_commit() -> None:
    rollout = make_rollout((READY,) * 3, (READY,))
    rollout.step(3, NOW)
    assert rollout.old.target == 1


def test_movement_is_complete_when_the_target_is_ready() -> None:
    assert make_rollout((READY,) * 4, (READY,)).step(4, NOW)


def test_target_of_the_old_is_not_raised() -> None:
    rollout = make_rollout((READY,))
    rollout.step(9, NOW)
    assert rollout.old.target == 4


def test_old_workers_without_a_master_are_moved_by_their_number() -> None:
    rollout = make_rollout((READY,), (READY, STUCK, READY, READY))
    rollout.old.has_master = False
    rollout.step(4, NOW)
    assert rollout.old.target == 3


def test_failed_canary_goes_at_once() -> None:
    rollout = make_rollout((READY,), state=GenerationState.CANARY)
    rollout.fail("5xx", NOW, blamed=200)
    assert rollout.is_rolling_back
    assert (rollout.failure, rollout.blamed, rollout.new.target) == ("5xx", 200, 0)
    assert rollout.step(4, NOW)


def test_first_failure_is_the_one_that_is_told() -> None:
    rollout = make_rollout((READY,))
    rollout.fail("5xx", NOW, blamed=200)
    rollout.fail("crash", NOW + 1, blamed=201)
    assert (rollout.failure, rollout.blamed, rollout.stepped_at) == ("5xx", 200, NOW)


def test_new_workers_go_as_the_old_ones_come_back() -> None:
    rollout = make_rollout((READY,) * 3, (READY,))
    rollout.fail("crash", NOW)
    assert not rollout.step(4, NOW)
    assert (rollout.new.target, rollout.old.target) == (3, 2)
    rollout.old.workers[101] = Worker(101, NOW, READY)
    rollout.step(4, NOW)
    assert rollout.new.target == 2


def test_going_back_is_complete_when_the_old_are_all_there() -> None:
    rollout = make_rollout((READY,))
    rollout.fail("crash", NOW)
    assert rollout.step(4, NOW)


def test_going_back_to_a_generation_without_a_master_is_over_at_once() -> None:
    rollout = make_rollout((READY,), (READY,))
    rollout.old.has_master = False
    rollout.fail("crash", NOW)
    assert rollout.step(4, NOW)


def test_going_back_to_a_generation_that_cannot_start_workers_is_over_at_once() -> None:
    rollout = make_rollout((READY,), (READY,))
    rollout.fail("crash", NOW)
    assert not rollout.step(4, NOW)
    rollout.old_is_broken = True
    assert rollout.step(4, NOW)


def test_going_back_is_given_up_where_nothing_happens() -> None:
    rollout = make_rollout((READY,), (READY,))
    rollout.fail("crash", NOW)
    limit = rollout.new.service.boot_timeout + GRACE
    assert not rollout.step(4, NOW + limit)
    assert rollout.step(4, NOW + limit + 0.1)


@pytest.mark.parametrize(
    "has_master, old, new, expected", [(True, 0, 2, False), (False, 1, 2, True), (False, 2, 2, False)]
)
def test_there_is_none_to_go_back_to_without_a_master(has_master: bool, old: int, new: int, expected: bool) -> None:
    rollout = make_rollout((READY,) * new, (READY,) * old)
    rollout.old.has_master = has_master
    assert rollout.is_better_than_nothing is expected


@pytest.mark.parametrize("old, new, expected", [(1, 2, True), (2, 2, False)])
def test_there_is_none_to_go_back_to_where_the_old_cannot_start_workers(old: int, new: int, expected: bool) -> None:
    rollout = make_rollout((READY,) * new, (READY,) * old)
    assert not rollout.is_better_than_nothing
    rollout.old_is_broken = True
    assert rollout.is_better_than_nothing is expected


@pytest.mark.parametrize("is_booted, reason", [(False, "no master was up"), (True, "no worker was ready")])
def test_step_that_does_not_happen_fails_the_reload(is_booted: bool, reason: str) -> None:
    rollout = make_rollout((BOOTING,), state=GenerationState.STARTING)
    rollout.new.is_booted = is_booted
    limit = rollout.new.service.boot_timeout + GRACE
    rollout.observe({}, 4, NOW + limit)
    assert not rollout.is_rolling_back
    rollout.observe({}, 4, NOW + limit + 0.1)
    assert rollout.failure == f"{reason} within boot_timeout (60 s)"


def test_canary_is_judged_by_workers_that_serve() -> None:
    rollout = make_rollout((BOOTING,), (READY, RETIRING, READY, READY), state=GenerationState.STARTING)
    rollout.new.workers[200].state = READY
    rollout.note_ready(200, 4, NOW)
    assert rollout.new.state is GenerationState.CANARY
    rollout.observe({101: Sample(0, 0, 9.0), 200: Sample(0, 0, 1.0)}, 4, NOW + 1)
    assert rollout.failure == "canary: its event loop was blocked for 1.0 s, the old generation's for at most 0.0 s"


def test_canary_that_passes_lets_the_roll_begin() -> None:
    rollout = make_rollout((READY,), state=GenerationState.STARTING)
    rollout.note_ready(200, 4, NOW)
    rollout.observe({200: Sample(20, 0, 0.0)}, 4, NOW + 4.9)
    assert rollout.new.state.value == "canary"
    rollout.observe({200: Sample(20, 0, 0.0)}, 4, NOW + 5)
    assert rollout.new.state.value == "rolling"
    assert rollout.stepped_at == NOW + 5
    assert rollout.notes == [
        "worker 200 is ready; it is the canary for 5 s and 20 requests, at most 15 s",
        "canary passed: 20 requests, 0 errors, lag 0 ms; rolling 4 workers",
    ]


def test_each_ready_worker_is_noted() -> None:
    rollout = make_rollout((READY, READY), state=GenerationState.STARTING)
    rollout.wants_canary = False
    rollout.note_ready(200, 4, NOW + 3)
    assert rollout.notes == ["2 of 4 workers ready"]
    assert rollout.stepped_at == NOW + 3


def test_single_worker_is_noted_as_one() -> None:
    rollout = make_rollout((READY,), state=GenerationState.STARTING)
    rollout.note_ready(200, 1, NOW)
    rollout.observe({200: Sample(20, 0, 0.0)}, 1, NOW + 5)
    assert rollout.notes[-1].endswith("rolling 1 worker")
