from __future__ import annotations

import itertools

import pytest

from outrider_supervisor.events import Sample
from outrider_supervisor.recycling import HARD_MEMORY, MEMORY_SAMPLES, SPREAD, Due, Recycling
from outrider_testing.services import make_service

MIB = 1 << 20
NOW = 1000.0
PID = 7


def sample(requests: int = 0, memory: int | None = None) -> Sample:
    return Sample(requests, 0, 0.0, None if memory is None else memory * MIB)


def look(recycling: Recycling, seen: Sample, *, age: float = 0.0, **limits: float) -> list[Due]:
    return recycling.find_due(make_service(**limits), {PID: seen}, {PID: NOW - age}, NOW)


@pytest.fixture
def recycling() -> Recycling:
    return Recycling(seed=1)


def test_without_limits_nobody_is_due(recycling: Recycling) -> None:
    assert look(recycling, sample(10**9, 10**6), age=10**9) == []


def test_worker_without_a_sample_is_not_judged(recycling: Recycling) -> None:
    assert recycling.find_due(make_service(max_worker_age=1.0), {}, {PID: 0.0}, NOW) == []


def test_sample_of_a_worker_that_does_not_serve_is_not_judged(recycling: Recycling) -> None:
    assert recycling.find_due(make_service(max_requests=1), {PID: sample(5)}, {}, NOW) == []


def test_worker_is_due_at_max_requests(recycling: Recycling) -> None:
    assert look(recycling, sample(99), max_requests=100) == []
    assert look(recycling, sample(100), max_requests=100) == [Due(PID, "max_requests", "served 100 requests")]


def test_jitter_spreads_max_requests_upwards() -> None:
    service = make_service(max_requests=100, max_requests_jitter=5)
    pids = range(300)
    ready = dict.fromkeys(pids, NOW)
    recycling = Recycling(seed=1)
    due = [
        len(recycling.find_due(service, {pid: sample(requests) for pid in pids}, ready, NOW))
        for requests in range(99, 107)
    ]
    assert due[0] == 0
    assert due[-2] == due[-1] == 300
    assert all(30 < after - before < 70 for before, after in itertools.pairwise(due[:7]))


def test_worker_keeps_its_limit(recycling: Recycling) -> None:
    found = [look(recycling, sample(103), max_requests=100, max_requests_jitter=5) for _ in range(20)]
    assert all(each == found[0] for each in found)


def test_worker_is_due_by_its_age(recycling: Recycling) -> None:
    assert look(recycling, sample(), age=3600 * (1 - SPREAD) - 1, max_worker_age=3600.0) == []
    assert look(recycling, sample(), age=3600.0, max_worker_age=3600.0) == [Due(PID, "max_worker_age", "is 3600 s old")]


def test_ages_are_spread_over_a_tenth() -> None:
    service = make_service(max_worker_age=1000.0)
    pids = range(1000)
    ready = dict.fromkeys(pids, 0.0)
    recycling = Recycling(seed=1)
    due = len(recycling.find_due(service, dict.fromkeys(pids, sample()), ready, 950.0))
    assert 400 < due < 600


def test_memory_counts_after_several_samples_in_a_row(recycling: Recycling) -> None:
    found = [look(recycling, sample(memory=120), max_worker_memory=100 * MIB) for _ in range(MEMORY_SAMPLES)]
    assert found == [[], [], [Due(PID, "max_worker_memory", "uses 120 MiB")]]


def test_peak_of_memory_is_no_growth(recycling: Recycling) -> None:
    peaks = [120, 120, 80, 120, 120, 80]
    assert all(look(recycling, sample(memory=each), max_worker_memory=100 * MIB) == [] for each in peaks)


def test_samples_without_memory_are_passed_over(recycling: Recycling) -> None:
    memory = [120, None, 120, None, None, 120]
    found = [look(recycling, sample(memory=each), max_worker_memory=100 * MIB) for each in memory]
    assert [bool(each) for each in found] == [False, False, False, False, False, True]


def test_far_too_much_memory_is_due_at_once(recycling: Recycling) -> None:
    look(recycling, sample(memory=80), max_worker_memory=100 * MIB)
    found = look(recycling, sample(memory=int(100 * HARD_MEMORY) + 1), max_worker_memory=100 * MIB)
    assert found == [Due(PID, "max_worker_memory", "uses 151 MiB", at_once=True)]


def test_worker_that_began_far_too_large_is_replaced_but_not_at_once(recycling: Recycling) -> None:
    found = [look(recycling, sample(memory=400), max_worker_memory=100 * MIB) for _ in range(MEMORY_SAMPLES)]
    assert found == [[], [], [Due(PID, "max_worker_memory", "uses 400 MiB")]]
    (grown,) = look(recycling, sample(memory=601), max_worker_memory=100 * MIB)
    assert grown.at_once


def test_worker_that_is_gone_is_forgotten(recycling: Recycling) -> None:
    look(recycling, sample(memory=120), max_worker_memory=100 * MIB)
    look(recycling, sample(memory=120), max_worker_memory=100 * MIB)
    recycling.forget(PID)
    recycling.forget(PID)
    assert look(recycling, sample(memory=120), max_worker_memory=100 * MIB) == []


def test_due_workers_come_in_the_order_of_those_that_serve(recycling: Recycling) -> None:
    samples = {1: sample(5), 2: sample(5), 3: sample(0)}
    due = recycling.find_due(make_service(max_requests=5), samples, {3: NOW, 2: NOW, 1: NOW}, NOW)
    assert [each.pid for each in due] == [2, 1]
