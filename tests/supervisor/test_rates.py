"""How much was done between two readings of the scoreboard."""

from __future__ import annotations

import pytest

from outrider.meters import DURATION_BOUNDS, Histogram
from outrider.scoreboard import Totals
from outrider_supervisor.rates import Rates, Reading, Window, compare, percentile

EMPTY = (0,) * (len(DURATION_BOUNDS) + 1)


def buckets(**numbers: int) -> tuple[int, ...]:
    """So many requests in the bucket b0, b1 ..."""
    found = list(EMPTY)
    for name, number in numbers.items():
        found[int(name[1:])] = number
    return tuple(found)


def reading(at: float, requests: int, errors: int = 0) -> Reading:
    return Reading(at, requests, errors, buckets(b0=requests))


def test_reading_sums_the_histograms_up() -> None:
    ok, failed = Histogram(buckets(b0=3, b14=1), 11.0), Histogram(buckets(b0=2), 0.1)
    totals = Totals(0, 0, 0, 0, 0, {("GET", 2): ok, ("POST", 5): failed})
    assert Reading.of(totals, 7.0) == Reading(7.0, 6, 2, buckets(b0=5, b14=1))


def test_rates_are_those_between_two_readings() -> None:
    rates = compare(reading(10.0, 100, 10), reading(12.0, 300, 20))
    assert (rates.requests, rates.errors) == (100.0, 5.0)
    assert rates.median == pytest.approx(DURATION_BOUNDS[0] / 2)
    assert compare(reading(10.0, 1), reading(10.0, 9)) == Rates()


@pytest.mark.parametrize(
    "numbers, share, expected",
    [
        ({}, 0.5, None),
        ({"b0": 4}, 0.5, 0.0025),
        ({"b0": 4}, 1.0, 0.005),
        ({"b0": 5, "b3": 5}, 0.5, 0.005),
        ({"b0": 5, "b3": 5}, 0.9, 0.045),
        ({"b14": 9}, 0.99, DURATION_BOUNDS[-1]),
        ({"b0": 1, "b14": 99}, 0.5, DURATION_BOUNDS[-1]),
    ],
)
def test_percentile_is_that_of_prometheus(numbers: dict[str, int], share: float, expected: float | None) -> None:
    found = percentile(buckets(**numbers), share)
    assert found == expected or found == pytest.approx(expected)


def test_window_has_the_rates_of_the_last_step_and_of_all_its_steps() -> None:
    window = Window(steps=2)
    assert window.add(reading(0.0, 0)) == Rates()
    assert window.rates() is None
    assert window.add(reading(2.0, 20)).requests == 10.0
    assert window.add(reading(4.0, 20)).requests == 0.0
    rates = window.rates()
    assert rates is not None
    assert rates.requests == 5.0
    window.add(reading(6.0, 20))
    rates = window.rates()
    assert rates is not None
    assert rates.requests == 0.0


def test_window_begins_anew_with_another_worker() -> None:
    window = Window(steps=5)
    window.add(reading(0.0, 1000))
    assert window.add(reading(2.0, 10)) == Rates()
    assert window.add(reading(4.0, 30)).requests == 10.0
    rates = window.rates()
    assert rates is not None
    assert rates.requests == 10.0
