from __future__ import annotations

from collections.abc import Callable

import pytest

from autoscale.model import LATE_SHARE, MAX_WORKERS, SLO, WARM_UP, Result, Trace, View, Work, simulate, workers_needed

WORK = Work(cpu=0.02, blocking=0.0, waiting=0.06)


class Fixed:
    """A rule that has its mind made up, and remembers what it saw."""

    def __init__(self, workers: Callable[[float], int]) -> None:
        self.workers = workers
        self.views: list[View] = []

    def decide(self, view: View) -> int:
        self.views.append(view)
        return self.workers(view.now)


def trace(rate: float, seconds: int = 60, work: Work = WORK, boot: float = 1.0) -> Trace:
    return Trace("test", seconds, lambda _at: rate, lambda _at: work, boot)


def test_arrivals_are_the_same_each_time() -> None:
    assert trace(50.0).arrivals() == trace(50.0).arrivals()
    assert trace(50.0).arrivals() != trace(50.0).arrivals("other")


def test_arrivals_come_at_the_rate_and_with_the_work_of_their_second() -> None:
    arrivals = trace(50.0, seconds=200).arrivals()
    assert 9_500 < sum(map(len, arrivals)) < 10_500
    assert all(second <= request.at < second + 1 for second, each in enumerate(arrivals) for request in each)
    mean = sum(request.loop for each in arrivals for request in each) / sum(map(len, arrivals))
    assert mean == pytest.approx(WORK.loop, rel=0.02)


def test_no_load_is_no_arrival() -> None:
    assert not any(trace(0.0).arrivals())


def test_loop_is_busy_by_the_work_and_not_by_the_waiting() -> None:
    rule = Fixed(lambda _now: 1)
    simulate(trace(25.0, seconds=200), rule)
    busy = [view.workers[0].busy for view in rule.views]
    assert sum(busy) / len(busy) == pytest.approx(0.5, abs=0.03)
    in_flight = [view.workers[0].in_flight for view in rule.views]
    assert sum(in_flight) / len(in_flight) == pytest.approx(25 * 0.08, abs=0.4)


def test_blocking_uses_no_processor() -> None:
    rule = Fixed(lambda _now: 1)
    simulate(trace(5.0, work=Work(cpu=0.02, blocking=0.06, waiting=0.0)), rule)
    (worker,) = rule.views[-1].workers
    assert worker.cpu == pytest.approx(worker.busy / 4)


def test_overloaded_pool_is_late_and_over_the_slo() -> None:
    rule = Fixed(lambda _now: 1)
    result = simulate(trace(100.0, seconds=WARM_UP + 20), rule)
    lags = [view.lag for view in rule.views]
    assert lags[20] - lags[10] == pytest.approx(10.0, rel=0.2)  # work of two loops for one
    assert result.over_slo == 20
    assert all(view.workers[0].busy == pytest.approx(1.0) for view in rule.views[5:])


def test_large_pool_is_never_late() -> None:
    assert simulate(trace(100.0), Fixed(lambda _now: 8)).waits[10:] == [0.0] * 50


def test_sum_of_busy_loops_does_not_depend_on_their_number() -> None:
    sums = []
    for rule in (Fixed(lambda _now: 3), Fixed(lambda _now: 6)):
        simulate(trace(100.0, seconds=120), rule)
        sums.append(sum(worker.busy for view in rule.views[20:] for worker in view.workers) / 100)
    assert sums[0] == pytest.approx(sums[1], rel=0.03)


def test_worker_serves_when_it_has_booted() -> None:
    rule = Fixed(lambda now: 1 if now < 10 else 2)
    simulate(trace(10.0, boot=5.0), rule)
    ready = [len(view.workers) for view in rule.views]
    assert ready.index(2) == 15
    assert rule.views[15].workers[1].age == 1.0


def test_worker_that_goes_finishes_what_it_holds() -> None:
    work = Work(cpu=3.0, blocking=0.0, waiting=0.0)
    result = simulate(trace(2.0, seconds=30, work=work), Fixed(lambda now: 4 if 5 < now < 10 else 1))
    assert max(result.workers[10:12]) > 1


def test_request_that_is_still_waiting_at_the_end_has_waited_so_far() -> None:
    waits = simulate(trace(200.0, seconds=30), Fixed(lambda _now: 1)).waits
    assert waits[-1] == pytest.approx(1.0, abs=0.1)
    assert waits[20] == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("rate", [20.0, 42.0, 80.0, 130.0, 210.0])
def test_workers_needed_keep_the_slo_and_fewer_do_not(rate: float) -> None:
    needed = workers_needed(rate, WORK.loop)
    load = trace(rate, seconds=WARM_UP + 120)
    enough = simulate(load, Fixed(lambda _now: needed))
    assert enough.over_slo <= 120 * 0.15
    assert needed >= rate * WORK.loop
    if needed > 1:
        too_few = simulate(load, Fixed(lambda _now: needed - 1))
        assert too_few.over_slo > enough.over_slo


def test_workers_needed_are_one_at_least_and_no_more_than_there_may_be() -> None:
    assert workers_needed(0.0, WORK.loop) == 1
    assert workers_needed(1e6, WORK.loop) == MAX_WORKERS


def test_figures_leave_out_the_warm_up() -> None:
    result = Result([3] * (WARM_UP + 2), [2] * (WARM_UP + 2), [2 * SLO] * WARM_UP + [SLO, 2 * SLO], [1, 2, 1, 1, 2])
    assert (result.over_slo, result.wasted, result.turns) == (1, 2, 2)
    assert LATE_SHARE == 0.05
