"""What `outrider top` shows, and in which order."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from outrider_supervisor.top_view import (
    COLUMNS,
    Order,
    cells,
    headline,
    operation_line,
    rates_line,
    sorted_rows,
)
from outrider_testing.statuses import NOW, make_generation, make_status, make_worker

TITLES = [column.title for column in COLUMNS]


def pids(order: Order, *workers: Mapping[str, object]) -> list[int]:
    rows = sorted_rows(
        make_status(make_generation(*(make_worker(10 + i, **each) for i, each in enumerate(workers)))), order
    )
    return [row.worker["pid"] for row in rows]


def test_row_shows_a_worker() -> None:
    (row,) = sorted_rows(make_status(make_generation(make_worker(busy=0.256))), Order())
    assert dict(zip(TITLES, cells(row), strict=True)) == {
        "GEN": "3",
        "PID": "4711",
        "STATE": "ready",
        "AGE": "3h12m",
        "REQ/S": "100",
        "P99": "12ms",
        "IN-FLIGHT": "3",
        "CONNS": "10",
        "WS": "0",
        "5XX": "0",
        "LAG": "2ms",
        "BUSY": "26%",
        "CPU": "12%",
        "MEMORY": "46M",
    }


def test_row_of_a_supervisor_that_knows_less_has_gaps() -> None:
    worker = make_worker(busy=None)
    del worker["requests_per_second"]  # type: ignore[misc]  # that of an earlier version
    (row,) = sorted_rows(make_status(make_generation(worker)), Order(TITLES.index("REQ/S")))
    shown = dict(zip(TITLES, cells(row), strict=True))
    assert (shown["REQ/S"], shown["BUSY"]) == ("-", "-")


def test_workers_are_sorted_by_pid_at_first() -> None:
    generations = [make_generation(make_worker(9)), make_generation(make_worker(8), make_worker(7), number=4)]
    rows = sorted_rows(make_status(*generations), Order())
    assert [row.worker["pid"] for row in rows] == [7, 8, 9]
    assert [row.generation["number"] for row in rows] == [4, 4, 3]


def test_what_is_large_comes_first_and_what_is_unknown_last() -> None:
    by_memory = Order(TITLES.index("MEMORY"))
    workers = ({"memory_bytes": 5}, {"memory_bytes": None}, {"memory_bytes": 7}, {"memory_bytes": 5})
    assert pids(by_memory, *workers) == [12, 10, 13, 11]
    assert pids(by_memory.chosen(by_memory.column), *workers) == [10, 13, 12, 11]


@pytest.mark.parametrize(
    "order, marked",
    [
        (Order(), "PID ▲"),
        (Order().chosen(1), "PID ▼"),
        (Order().chosen(4), "REQ/S ▼"),
        (Order().chosen(4).chosen(4), "REQ/S ▲"),
        (Order().chosen(4).chosen(4).chosen(5), "P99 ▼"),
    ],
)
def test_heading_tells_the_order(order: Order, marked: str) -> None:
    assert [title for title in order.headings() if title not in TITLES] == [marked]


def test_headline_is_the_service_in_a_line() -> None:
    assert headline(make_status(name="sh\x1bop"), NOW) == (
        "sh?op: serving, 3 of 4 workers ready, outrider 0.1.0, up 3h12m, http://127.0.0.1:8000"
    )


def test_headline_has_the_range_of_the_autoscaler() -> None:
    scaler = {"min": 2, "max": 8, "target": 4, "demand": 2.4, "utilisation": 0.6, "reason": "", "vetoes": []}
    assert "3 of 4 workers ready (2 to 8)" in headline(make_status(autoscaler=scaler), NOW)


def test_rates_are_a_line() -> None:
    assert rates_line(make_status()["rates"]) == "200 requests/s, 0 errors/s, p50 4ms, p99 21ms, 6 in flight"


def test_rates_that_are_not_known_are_no_line() -> None:
    assert rates_line(None) == ""


@pytest.mark.parametrize(
    "operation, line",
    [
        (None, ""),
        ({"name": "reload", "since": NOW - 3, "progress": "canary 7"}, "reload under way for 3s: canary 7"),
        ({"name": "scale", "since": None, "progress": ""}, "scale under way"),
    ],
)
def test_operation_is_a_line(operation: dict[str, object] | None, line: str) -> None:
    assert operation_line(make_status(operation=operation), NOW) == line
