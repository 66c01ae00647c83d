from __future__ import annotations

import pytest

import summary
from loads import LOADS, Page
from measure import Failure, Sample
from servers import SERVERS


def costing(*costs: float, faults: dict[str, int] | None = None) -> list[Sample | Failure]:
    return [Sample(cpu_us=cost, faults=faults or {}) for cost in costs]


def test_summarise_takes_median_of_each_figure_alone() -> None:
    row = summary.summarise([Sample(cpu_us=3, p99_us=10), Sample(cpu_us=1, p99_us=30), Sample(cpu_us=2, p99_us=20)])
    assert row is not None
    assert row.middle.cpu_us == 2
    assert row.middle.p99_us == 20
    assert row.cpu_range == (1.0, 3.0)
    assert row.rounds == 3
    assert row.is_clean


def test_summarise_takes_middle_of_two_rounds() -> None:
    row = summary.summarise(costing(1.0, 2.0))
    assert row is not None
    assert row.middle.cpu_us == 1.5


def test_summarise_adds_faults_of_all_rounds() -> None:
    row = summary.summarise(costing(1.0, 2.0, faults={"read": 2}))
    assert row is not None
    assert row.middle.faults == {"read": 4}
    assert not row.is_clean


def test_summarise_keeps_rounds_beside_failures_and_says_why() -> None:
    row = summary.summarise([*costing(4.0), Failure("failed to start: x")])
    assert row is not None
    assert (row.rounds, row.failures) == (1, ("failed to start: x",))
    assert not row.is_clean


def test_summarise_has_no_row_when_every_round_failed() -> None:
    assert summary.summarise([Failure("a"), Failure("b")]) is None


def test_cpu_ratio_divides_outrider_by_peer() -> None:
    rows = summary.rows_of({("echo", "outrider"): costing(9, 10, 11), ("echo", "uvicorn"): costing(20)}, "echo")
    assert summary.cpu_ratio(rows, "uvicorn") == 0.5


def test_cpu_ratio_is_unknown_without_either_side() -> None:
    rows = summary.rows_of({("echo", "outrider"): costing(9)}, "echo")
    assert summary.cpu_ratio(rows, "uvicorn") is None
    assert summary.cpu_ratio({}, "uvicorn") is None


def test_rows_of_keeps_to_its_load() -> None:
    rows = summary.rows_of({("echo", "outrider"): costing(9), ("json", "outrider"): costing(70)}, "json")
    assert rows["outrider"].middle.cpu_us == 70


@pytest.mark.parametrize("measured, passed", [(0.5, True), (0.5001, False), (0.1, True), (None, None)])
def test_at_most_judges_before_rounding(measured: float | None, passed: bool | None) -> None:
    assert summary.at_most("x", measured, 0.5).passed is passed


def test_cpu_verdicts_follow_the_targets() -> None:
    results = {
        ("plaintext", "outrider"): costing(11),
        ("plaintext", "uvicorn"): costing(22),
        ("plaintext", "h2corn"): costing(10, faults={"read": 1}),
    }
    verdicts = summary.cpu_verdicts(results, "plaintext")
    assert (verdicts["uvicorn"].passed, verdicts["uvicorn"].marked) == (True, False)
    assert (verdicts["h2corn"].passed, verdicts["h2corn"].marked) == (False, True)
    assert verdicts["granian"].passed is None


def test_targets_name_servers_that_exist() -> None:
    named = {peer for targets in summary.CPU_TARGETS.values() for peer in targets}
    assert named <= SERVERS.keys()


def test_targets_name_loads_that_their_servers_can_take() -> None:
    for load, targets in summary.CPU_TARGETS.items():
        assert all(SERVERS[peer].can_take(LOADS[load]) for peer in targets)


def verdict(results: summary.Results, start: str) -> summary.Verdict:
    return next(one for one in summary.other_verdicts(results, Page.HTTP1) if one.name.startswith(start))


def test_other_verdicts_hold_plaintext_against_the_floor() -> None:
    results = {("plaintext", "outrider"): costing(18), ("plaintext", "floor"): costing(10)}
    assert verdict(results, "plaintext, CPU").passed is True


@pytest.mark.parametrize("cost, passed", [(103, True), (103.1, False)])
def test_other_verdicts_hold_metrics_against_none(cost: float, passed: bool) -> None:
    results = {("metrics", "outrider"): costing(100), ("metrics", "outrider-metrics"): costing(cost)}
    assert verdict(results, "plaintext with metrics").passed is passed


def test_other_verdicts_hold_p99_against_the_best_peer_but_not_the_floor() -> None:
    results: summary.Results = {
        ("json", "outrider"): [Sample(p99_us=1500)],
        ("json", "uvicorn"): [Sample(p99_us=2000)],
        ("json", "h2corn"): [Sample(p99_us=1400)],
        ("json", "floor"): [Sample(p99_us=100)],
    }
    judged = verdict(results, "json, p99")
    assert (judged.passed, judged.measured, judged.limit) == (False, "1.50", "1.40")
    assert "h2corn" in judged.name


def test_other_verdicts_hold_memory_against_uvicorn_worker() -> None:
    results: summary.Results = {
        ("json", "outrider"): [Sample(rss_kib=40 * 1024)],
        ("json", "uvicorn-worker"): [Sample(rss_kib=48 * 1024)],
    }
    assert verdict(results, "FastAPI worker").passed is True


def test_other_verdicts_judge_idle_connections() -> None:
    idle = Sample(kib_per_connection=6.1, idle_use=0.002, core_use=0.0025)
    results: summary.Results = {("idle", "outrider"): [idle]}
    assert verdict(results, "KiB per idle connection").passed is False
    assert verdict(results, "idle CPU").passed is True


@pytest.mark.parametrize("kib, passed", [(12.0, True), (12.1, False)])
def test_other_verdicts_judge_idle_websockets(kib: float, passed: bool) -> None:
    results: summary.Results = {("websocket-idle", "outrider"): [Sample(kib_per_connection=kib)]}
    (judged,) = summary.other_verdicts(results, Page.WEBSOCKET)
    assert judged.passed is passed


@pytest.mark.parametrize("page", Page)
def test_other_verdicts_of_nothing_are_all_unknown(page: Page) -> None:
    assert {one.passed for one in summary.other_verdicts({}, page)} <= {None}
