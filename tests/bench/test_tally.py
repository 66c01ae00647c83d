from __future__ import annotations

import pytest

import wrk
from tally import Tally, percentile


def test_tally_prints_what_wrk_prints() -> None:
    tally = Tally()
    tally.latencies = [0.001, 0.002, 0.003]
    tally.errors["read"] = 1
    assert wrk.parse(tally.as_line(2.0)) == wrk.Result(3, 2.0, 2000, 3000, {"read": 1})


def test_tally_without_response_prints_no_requests() -> None:
    assert wrk.parse(Tally().as_line(2.0)).requests == 0


@pytest.mark.parametrize("percent, expected", [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_percentile_is_of_nearest_rank(percent: int, expected: float) -> None:
    assert percentile([float(value) for value in range(1, 101)], percent) == expected


def test_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 1) == percentile([7.0], 99) == 7.0
