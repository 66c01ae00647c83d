"""How many workers there should be, by what was measured."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest

from outrider_supervisor.autoscaler import LATE, MOST_PATIENCE, Autoscaler, Decision, Look, Scaling, Veto

SETTINGS = Scaling(min_workers=1, max_workers=8, target_utilisation=0.8, up_window=3.0, down_window=45.0, up_step=4)
UP, DOWN = int(SETTINGS.up_window), int(SETTINGS.down_window)


class Pool:
    """Workers that come and go at once, under a load that is given second by second."""

    def __init__(self, workers: int = 1, settings: Scaling = SETTINGS) -> None:
        self.autoscaler = Autoscaler()
        self.settings = settings
        self.now = 1000.0
        self.target = self.ready = workers
        self.boots = True
        self.targets: list[int] = []

    def look(self, demand: float, **fields: Any) -> Decision:
        """Let a second pass."""
        self.now += 1.0
        cpu = fields.pop("cpu", demand)
        look = Look(self.target, self.ready, min(demand, self.ready), cpu=cpu, late=fields.pop("late", 0.0), **fields)
        decision = self.autoscaler.decide(self.settings, look, self.now)
        self.target = decision.target
        if self.boots or self.target < self.ready:
            self.ready = self.target
        self.targets.append(self.target)
        return decision

    def run(self, demand: float, seconds: int, **fields: Any) -> Decision:
        """Let time pass under one load."""
        for _ in range(seconds - 1):
            self.look(demand, **fields)
        return self.look(demand, **fields)


# -- up


@pytest.mark.parametrize("workers,demand,wanted", [(1, 1.0, 2), (2, 2.0, 3), (4, 4.0, 5), (2, 0.5, 2), (3, 2.4, 3)])
def test_pool_grows_to_what_demand_needs(workers: int, demand: float, wanted: int) -> None:
    pool = Pool(workers)
    pool.run(demand, UP + 1)
    assert pool.target == wanted


def test_load_is_measured_over_the_window_before_the_pool_grows() -> None:
    pool = Pool()
    pool.run(1.0, UP)
    assert pool.targets == [1] * UP
    assert pool.look(1.0).target == 2


def test_single_busy_second_changes_nothing() -> None:
    pool = Pool(2)
    pool.run(0.8, 20)
    pool.look(2.0)
    pool.run(0.8, 5)
    assert set(pool.targets) == {2}


def test_demand_within_the_tolerance_changes_nothing() -> None:
    pool = Pool(2)
    assert pool.run(2 * 0.8 * 1.07, 120).target == 2
    assert pool.run(2 * 0.8 * 1.10, 20).target == 3


def test_requests_that_wait_for_something_else_do_not_count() -> None:
    pool = Pool(2)  # in flight may be thousands: a look does not even say so
    assert pool.run(0.9, 300).target == 2


def test_growth_is_limited_to_a_step_or_as_many_as_there_are() -> None:
    settings = Scaling(1, 32, up_step=2)
    small, large = Pool(1, settings), Pool(6, settings)
    for pool in (small, large):
        for second in range(UP + 1):
            pool.look(32.0, late=10.0 * second)
    assert small.target == 3
    assert large.target == 12


def test_log_line_has_demand_and_utilisation() -> None:
    pool = Pool()
    decision = pool.run(1.0, UP + 1)
    assert decision.reason == "demand 1.00 at 80% utilisation"
    assert (decision.demand, decision.utilisation, decision.vetoes) == (1.0, 1.0, ())


def test_pool_without_a_worker_has_no_utilisation() -> None:
    pool = Pool()
    pool.ready = 0
    assert pool.look(0.0).utilisation is None


# -- what cannot be seen: loops are no more than busy


def test_growing_lateness_says_how_much_is_missing() -> None:
    """Work of three loops comes to one: each second it is two seconds later."""
    pool = Pool()
    pool.boots = False
    reasons = [pool.look(1.0, late=2.0 * second).reason for second in range(UP + 1)]
    assert pool.target == 4
    assert reasons[-1].endswith("late by 6.0 s")


def test_lateness_that_grows_is_work_for_as_many_as_there_are() -> None:
    pool = Pool(2)
    pool.boots = False
    for second in range(UP + 1):
        pool.look(2.0, late=float(second))
    assert pool.target == 5


def test_lateness_that_nobody_notices_is_none() -> None:
    pool = Pool(8, Scaling(1, 16))
    for second in range(20):
        pool.look(6.4, late=(0.02, 0.12, 0.22)[second % 3] if second > 10 else 0.0)
    assert set(pool.targets) == {8}
    for late in (0.05, 0.14, 0.23):
        assert "late" not in pool.look(7.6, late=late).reason
    assert pool.target == 8


def test_capacity_that_boots_is_not_asked_for_twice() -> None:
    pool = Pool()
    pool.boots = False
    vetoes: set[Veto] = set()
    for second in range(UP + 20):
        vetoes.update(pool.look(1.0, late=2.0 * second).vetoes)
    assert pool.target == 4
    assert vetoes == {Veto.BOOTING}
    assert pool.run(0.1, 20).vetoes == ()  # nobody waits for it any more


def test_pool_that_was_held_up_once_does_not_take_it_for_demand() -> None:
    pool = Pool(4)
    pool.run(3.2, 60)
    assert pool.run(3.2, UP, late=3.0).target == 4


def test_pool_that_catches_up_is_left_alone() -> None:
    """Four busy loops, of which one's work is to make up for what was late."""
    pool = Pool(4)
    pool.run(3.2, 60)
    pool.look(4.0, late=5.0)
    for second in range(1, 20):
        pool.look(4.0, late=5.0 - second / 4)
    pool.run(3.2, 10)
    assert set(pool.targets) == {4}


def test_pool_that_does_not_catch_up_soon_grows() -> None:
    pool = Pool(4)
    pool.run(3.2, 60)
    for second in range(10):
        pool.look(4.0, late=5.0 - second / 20)
    assert pool.target == 5


def test_loop_that_is_late_once_is_no_emergency() -> None:
    pool = Pool(2)
    pool.run(1.0, 60)
    for second in range(20):
        pool.look(1.0, late=2.0 if second % 2 else LATE / 2)
    assert set(pool.targets) == {2}


# -- down


def test_pool_shrinks_when_fewer_were_enough_all_the_time() -> None:
    pool = Pool(4)
    pool.run(0.5, DOWN)
    assert set(pool.targets) == {4}
    decision = pool.look(0.5)
    assert decision.target == 1
    assert decision.reason == "demand 0.50, 1 would have done for 45 s"


def test_pool_shrinks_soon_after_the_window() -> None:
    pool = Pool(4)
    pool.run(3.2, 60)
    pool.run(0.5, DOWN + UP)
    assert pool.target == 1


def test_pool_shrinks_to_what_is_a_little_busier_than_wanted() -> None:
    assert Pool(4).run(2 * 0.8 * 1.03, 100).target == 2
    assert Pool(4).run(2 * 0.8 * 1.05, 100).target == 3


def test_pool_keeps_what_was_needed_within_the_window() -> None:
    pool = Pool(4)
    pool.run(3.2, 60)
    pool.run(0.5, DOWN - 15)
    assert pool.target == 4
    pool.run(3.2, 20)
    pool.run(0.5, DOWN - 15)
    assert set(pool.targets) == {4}
    pool.run(0.5, 30)
    assert pool.target == 1


def test_worker_that_was_just_added_stays_for_the_window() -> None:
    pool = Pool()
    pool.run(1.0, UP + 1)
    assert pool.target == 2
    pool.run(0.1, DOWN - 1)
    assert pool.target == 2
    pool.run(0.1, 3)
    assert pool.target == 1


def test_scaling_down_that_had_to_be_taken_back_takes_longer_the_next_time() -> None:
    pool = Pool(1)
    waits = []
    for _ in range(6):
        while pool.target == 1:
            pool.look(1.0)
        began = pool.now
        while pool.target > 1:
            pool.look(0.2)
        waits.append(pool.now - began)
    factors = [round(wait / waits[0]) for wait in waits]
    assert factors == [1, 2, 4, 8, 8, 8]
    assert factors[-1] == MOST_PATIENCE
    saved = json.loads(json.dumps(pool.autoscaler.to_state()))
    pool.autoscaler = Autoscaler()
    pool.autoscaler.take_state(saved)
    pool.run(1.0, UP + 1)
    pool.run(0.2, (MOST_PATIENCE - 1) * DOWN)
    assert pool.target == 2


def test_patience_is_forgotten_when_loads_are_far_apart() -> None:
    pool = Pool(1)
    waits = []
    for rest in (1, 4 * DOWN, 1):
        pool.run(1.0, UP + 1)
        began = pool.now
        while pool.target > 1:
            pool.look(0.2)
        waits.append(round((pool.now - began) / DOWN))
        pool.run(0.2, rest)
    assert waits == [1, 2, 1]


@pytest.mark.parametrize("demand", [0.5, 0.79, 0.8, 0.85, 0.9, 1.55, 1.6, 1.7, 2.3, 2.5, 3.3])
def test_constant_load_makes_no_more_than_one_turn_a_minute(demand: float) -> None:
    pool = Pool(2)
    pool.run(demand, 1800)
    steps = [after - before for before, after in zip(pool.targets, pool.targets[1:], strict=False) if after != before]
    turns = sum((before > 0) != (after > 0) for before, after in itertools.pairwise(steps))
    assert turns <= 1


# -- limits and vetoes


def test_pool_stays_between_least_and_most() -> None:
    pool = Pool(3, Scaling(min_workers=2, max_workers=4))
    pool.run(4.0, 60)
    assert pool.target == 4
    pool.run(0.0, 120)
    assert pool.target == min(pool.targets) == 2


@pytest.mark.parametrize("workers,wanted", [(1, 3), (9, 5)])
def test_pool_outside_of_new_limits_is_brought_inside_at_once(workers: int, wanted: int) -> None:
    pool = Pool(workers, Scaling(min_workers=3, max_workers=5))
    assert pool.look(0.5).target == wanted


@pytest.mark.parametrize("veto", [Veto.RELOAD, Veto.OPERATION])
@pytest.mark.parametrize("demand", [0.1, 2.0])
def test_nothing_changes_while_something_else_does(veto: Veto, demand: float) -> None:
    pool = Pool(2)
    decision = pool.run(demand, 200, vetoes=[veto])
    assert set(pool.targets) == {2}
    assert decision.vetoes == (veto,)
    assert veto.value in decision.reason
    assert pool.look(demand).target != 2  # what was measured meanwhile counts


def test_pool_that_cannot_start_workers_does_not_grow_but_shrinks() -> None:
    pool = Pool(2)
    decision = pool.run(2.0, 60, vetoes=[Veto.BACKOFF])
    assert (decision.target, decision.vetoes) == (2, (Veto.BACKOFF,))
    pool.run(0.1, 120, vetoes=[Veto.BACKOFF])
    assert pool.target == 1


@pytest.mark.parametrize("fitting,wanted", [(0, 2), (1, 3), (9, 3), (None, 3)])
def test_pool_does_not_outgrow_memory(fitting: int | None, wanted: int) -> None:
    pool = Pool(2)
    decision = pool.run(2.0, UP + 1, fitting=fitting)
    assert decision.target == wanted
    assert (Veto.MEMORY in decision.vetoes) == (wanted == 2)


def test_memory_is_not_promised_twice() -> None:
    pool = Pool(1)
    pool.boots = False
    for second in range(UP + 3):
        pool.look(1.0, late=8.0 * second, fitting=2)
    assert pool.target == 3


def test_pool_that_uses_the_processor_gets_no_more_loops_than_cores() -> None:
    pool = Pool(2)
    decision = pool.run(2.0, 60, cores=2.0)
    assert (decision.target, decision.vetoes) == (2, (Veto.CPU,))
    assert Pool(2).run(2.0, UP + 1, cores=2.5).target == 3


def test_loops_that_block_may_be_more_than_cores() -> None:
    pool = Pool(2)
    decision = pool.run(2.0, UP + 1, cores=1.0, cpu=0.2)
    assert decision.target == 3
    assert decision.vetoes == ()


def test_loops_that_wait_for_a_processor_do_not_count_as_blocked() -> None:
    pool = Pool(4)
    decision = pool.run(4.0, 60, cores=2.0, cpu=1.95)
    assert (decision.target, decision.vetoes) == (4, (Veto.CPU,))


def test_quota_does_not_take_workers_away() -> None:
    assert Pool(4).run(3.2, 120, cores=1.0).target == 4


# -- over an upgrade and after a change by hand


def test_another_supervisor_goes_on_with_what_was_measured() -> None:
    pool = Pool(4)
    pool.run(0.5, DOWN)
    saved = json.loads(json.dumps(pool.autoscaler.to_state()))
    pool.autoscaler = Autoscaler()
    pool.autoscaler.take_state(saved)
    assert pool.look(0.5).target == 1


def test_windows_begin_anew() -> None:
    pool = Pool(4)
    pool.run(0.5, DOWN)
    pool.autoscaler.begin_anew()
    pool.run(0.5, DOWN)
    assert set(pool.targets) == {4}
    pool.autoscaler.begin_anew()
    pool.run(4.0, UP)
    assert pool.target == 4
    assert pool.look(4.0).target == 5


def test_what_was_measured_before_a_change_does_not_count_after_it() -> None:
    pool = Pool(4)
    pool.run(4.0, UP)
    pool.autoscaler.begin_anew()
    pool.run(3.2, UP + 3)
    assert pool.target == 4


def test_cores_without_a_limit_are_no_limit() -> None:
    assert Look(1, 1, 1.0, cpu=1.0, late=0.0).cores == math.inf
