from __future__ import annotations

import pytest

from outrider_supervisor.canary import CLEAR_ERRORS, FEW_ERRORS, MOST_LAG, QUIET_FACTOR, Canary, Failed, Passed
from outrider_supervisor.events import Sample

BEGIN = 100.0
SECONDS = 5.0
REQUESTS = 20
NEW = 7
OLD = 3


def sample(requests: int = 0, errors: int = 0, lag: float = 0.0) -> Sample:
    return Sample(requests, errors, lag)


@pytest.fixture
def canary() -> Canary:
    return Canary(SECONDS, REQUESTS, BEGIN)


def test_canary_that_serves_passes_when_both_bounds_are_reached(canary: Canary) -> None:
    busy = {NEW: sample(REQUESTS, lag=0.002)}
    assert canary.look(busy, {}, BEGIN + SECONDS - 0.1) is None
    assert canary.look(busy, {}, BEGIN + SECONDS) == Passed("canary passed: 20 requests, 0 errors, lag 2 ms")


def test_canary_waits_for_its_requests(canary: Canary) -> None:
    assert canary.look({NEW: sample(REQUESTS - 1)}, {}, BEGIN + SECONDS) is None
    assert canary.look({NEW: sample(REQUESTS)}, {}, BEGIN + SECONDS + 0.1) is not None


@pytest.mark.parametrize("requests, summary", [(0, "0 of 20 requests"), (1, "1 of 20 requests")])
def test_canary_with_little_traffic_passes_in_the_end(canary: Canary, requests: int, summary: str) -> None:
    quiet = {NEW: sample(requests)}
    assert canary.look(quiet, {}, BEGIN + QUIET_FACTOR * SECONDS - 0.1) is None
    assert canary.look(quiet, {}, BEGIN + QUIET_FACTOR * SECONDS) == Passed(
        f"canary not judged by traffic: {summary}, 0 errors, lag 0 ms"
    )


def test_canary_without_a_number_of_requests_needs_none() -> None:
    passed = Passed("canary passed: 0 requests, 0 errors, lag 0 ms")
    assert Canary(SECONDS, 0, BEGIN).look({}, {}, BEGIN + SECONDS) == passed


def test_clear_errors_end_the_canary_early(canary: Canary) -> None:
    assert canary.look({NEW: sample(10, CLEAR_ERRORS - 1)}, {}, BEGIN + 1) is None
    verdict = canary.look({NEW: sample(10, CLEAR_ERRORS)}, {}, BEGIN + 1)
    assert verdict == Failed("5 of its 10 responses were 5xx (50%), 0% of the old generation's")


def test_few_errors_fail_it_when_its_time_is_over(canary: Canary) -> None:
    failing = {NEW: sample(REQUESTS, FEW_ERRORS)}
    assert canary.look(failing, {}, BEGIN + SECONDS - 0.1) is None
    assert isinstance(canary.look(failing, {}, BEGIN + SECONDS), Failed)


def test_single_error_proves_nothing(canary: Canary) -> None:
    verdict = canary.look({NEW: sample(4, 1)}, {}, BEGIN + QUIET_FACTOR * SECONDS)
    assert verdict == Passed("canary not judged by traffic: 4 of 20 requests, 1 error, lag 0 ms")


def test_errors_that_the_old_generation_has_as_well_are_no_fault(canary: Canary) -> None:
    canary.look({}, {OLD: sample(1000, 0)}, BEGIN)
    assert isinstance(canary.look({NEW: sample(100, 50)}, {OLD: sample(1100, 50)}, BEGIN + SECONDS), Passed)


def test_old_errors_from_before_the_canary_do_not_count(canary: Canary) -> None:
    canary.look({}, {OLD: sample(1000, 1000)}, BEGIN)
    assert isinstance(canary.look({NEW: sample(100, 50)}, {OLD: sample(1100, 1000)}, BEGIN + SECONDS), Failed)


def test_errors_of_canaries_first_look_count(canary: Canary) -> None:
    """It has served since it was ready, which is before the first look at it."""
    assert isinstance(canary.look({NEW: sample(10, 10)}, {}, BEGIN), Failed)


def test_old_workers_that_go_and_come_keep_their_share(canary: Canary) -> None:
    canary.look({}, {OLD: sample(0)}, BEGIN)
    canary.look({}, {OLD: sample(100, 50)}, BEGIN + 1)
    canary.look({}, {OLD + 1: sample(5000, 0)}, BEGIN + 2)
    assert isinstance(canary.look({NEW: sample(100, 50)}, {OLD + 1: sample(5000)}, BEGIN + SECONDS), Passed)


def test_counters_that_go_backwards_count_as_nothing(canary: Canary) -> None:
    """The row was given to another worker."""
    canary.look({NEW: sample(50)}, {}, BEGIN)
    canary.look({NEW: sample(10)}, {}, BEGIN + 1)
    assert canary.look({NEW: sample(12)}, {}, BEGIN + SECONDS) == Passed(
        "canary passed: 52 requests, 0 errors, lag 0 ms"
    )


def test_blocked_event_loop_fails_it_at_once(canary: Canary) -> None:
    assert canary.look({NEW: sample(lag=MOST_LAG)}, {}, BEGIN + 1) is None
    verdict = canary.look({NEW: sample(lag=2.04)}, {OLD: sample(lag=0.1)}, BEGIN + 1)
    assert verdict == Failed("its event loop was blocked for 2.0 s, the old generation's for at most 0.1 s")


def test_lag_that_the_old_generation_has_as_well_is_no_fault(canary: Canary) -> None:
    canary.look({}, {OLD: sample(lag=1.0)}, BEGIN)
    assert canary.look({NEW: sample(lag=2.9)}, {OLD: sample()}, BEGIN + 1) is None
    assert isinstance(canary.look({NEW: sample(lag=3.1)}, {OLD: sample()}, BEGIN + 2), Failed)
