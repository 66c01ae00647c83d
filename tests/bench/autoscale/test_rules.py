"""Each rule in the situations that its documentation describes."""

from __future__ import annotations

import pytest

from autoscale.kubernetes import DOWN_WINDOW, HPA, SYNC_PERIOD
from autoscale.model import MAX_WORKERS, Rule, View, WorkerView
from autoscale.outrider import Outrider
from autoscale.php_fpm import Dynamic
from autoscale.uwsgi import MULTIPLIER, OVERLOAD, Busyness, Spare
from autoscale.watt import COOLDOWN, WattV1, WattV2


class Pool:
    """Workers that are all the same."""

    def __init__(self, rule: Rule, workers: int = 1) -> None:
        self.rule = rule
        self.target = workers
        self.now = 0.0
        self.born = dict.fromkeys(range(1, workers + 1), -1000.0)

    def run(self, seconds: int, busy: float = 0.0, requests: int = 0, **fields: float) -> list[int]:
        """The targets second by second, with each worker `busy` and with `requests` in flight."""
        targets = []
        for _ in range(seconds):
            self.now += 1.0
            cpu = fields.get("cpu", busy)
            running = fields.get("running", busy)
            workers = tuple(WorkerView(n, self.now - at, cpu, busy, requests, running) for n, at in self.born.items())
            view = View(self.now, self.target, workers, int(fields.get("backlog", 0)), 0.0, 10)
            self.target = self.rule.decide(view)
            targets.append(self.target)
            born = {number: at for number, at in self.born.items() if number <= self.target}
            self.born = {number: born.get(number, self.now) for number in range(1, self.target + 1)}
        return targets


def test_spare_adds_one_when_all_were_busy_for_more_than_three_cycles() -> None:
    assert Pool(Spare()).run(8, requests=1) == [1, 1, 1, 2, 2, 2, 2, 3]


def test_spare_takes_one_with_each_third_idle_cycle() -> None:
    assert Pool(Spare(), 4).run(9) == [4, 4, 3, 3, 3, 2, 2, 2, 1]


def test_busyness_adds_one_each_three_seconds_above_half() -> None:
    assert Pool(Busyness()).run(7, running=0.6, requests=1)[2::3] == [2, 3]


def test_busyness_takes_one_after_thirty_quiet_seconds() -> None:
    targets = Pool(Busyness(), 4).run(2 * OVERLOAD * MULTIPLIER + OVERLOAD, running=0.1)
    assert targets.index(3) == OVERLOAD * MULTIPLIER - 1 + OVERLOAD or targets.index(3) == OVERLOAD * MULTIPLIER - 1
    assert min(targets) >= 2


def test_busyness_adds_a_worker_at_once_for_a_long_backlog() -> None:
    assert Pool(Busyness(), 2).run(1, running=0.3, backlog=34) == [3]


def test_busyness_takes_a_worker_without_a_finished_request_for_busy() -> None:
    assert Pool(Busyness(), 1).run(3, requests=1, running=0.0)[-1] == 2


def test_busyness_stays_between_its_limits() -> None:
    assert set(Pool(Busyness(), 3).run(120, running=0.4)) == {3}


def test_dynamic_keeps_between_one_and_three_idle() -> None:
    assert Pool(Dynamic(), 6).run(4) == [5, 4, 3, 3]
    assert Pool(Dynamic(), 2).run(2, requests=1) == [3, 4]
    assert Pool(Dynamic(), 2).run(5) == [2] * 5


def test_hpa_scales_to_the_ratio_at_each_period() -> None:
    pool = Pool(HPA(), 2)
    targets = pool.run(SYNC_PERIOD, busy=1.0)
    assert targets == [2] * (SYNC_PERIOD - 1) + [3]


def test_hpa_tolerates_a_tenth() -> None:
    assert set(Pool(HPA(), 2).run(60, busy=0.87)) == {2}


def test_hpa_sees_no_loop_that_blocks() -> None:
    assert set(Pool(HPA(), 1).run(120, busy=1.0, cpu=0.1)) == {1}


def test_hpa_scales_down_after_five_minutes() -> None:
    pool = Pool(HPA(), 4)
    pool.run(SYNC_PERIOD, busy=0.8)
    assert set(pool.run(DOWN_WINDOW - SYNC_PERIOD, busy=0.1)) == {4}
    assert pool.run(2 * SYNC_PERIOD, busy=0.1)[-1] == 1


def test_watt_v1_adds_one_above_four_fifths_after_a_cooldown() -> None:
    targets = Pool(WattV1()).run(COOLDOWN + 1, busy=0.9)
    assert targets[0] == 2
    assert targets[-1] == 3
    assert targets.index(3) == COOLDOWN


def test_watt_v1_takes_one_below_a_fifth() -> None:
    assert Pool(WattV1(), 3).run(61, busy=0.1)[-1] == 2
    assert set(Pool(WattV1(), 3).run(240, busy=0.25)) == {3}


def test_watt_v2_adds_one_at_a_time_each_ten_seconds_at_most() -> None:
    targets = Pool(WattV2()).run(60, busy=1.0)
    grown = [second for second in range(1, 60) if targets[second] > targets[second - 1]]
    assert [targets[second] for second in grown] == list(range(2, 2 + len(grown)))
    assert all((second + 1) % 10 == 0 for second in grown)
    assert targets[-1] >= 4


def test_watt_v2_shrinks_to_what_the_smoothed_load_needs() -> None:
    pool = Pool(WattV2(), 1)
    pool.run(60, busy=1.0)
    assert pool.target >= 4
    assert pool.run(150, busy=0.05)[-1] == 1


@pytest.mark.parametrize("rule", [Spare, Busyness, Dynamic, HPA, WattV1, WattV2, Outrider])
def test_rule_stays_within_one_and_most(rule: type[Rule]) -> None:
    pool = Pool(rule(), 1)
    assert max(pool.run(400, busy=1.0, requests=9, backlog=100)) <= MAX_WORKERS
    assert min(pool.run(900)) >= 1


def test_outrider_does_not_count_requests_in_flight() -> None:
    assert set(Pool(Outrider(), 2).run(200, busy=0.5, requests=500)) == {2}


def test_outrider_counts_loops_that_block() -> None:
    assert Pool(Outrider(), 1).run(10, busy=1.0, cpu=0.1)[-1] > 1
