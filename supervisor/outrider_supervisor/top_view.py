"""What `outrider top` shows of a status, and in which order: pure, without a terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from outrider_supervisor.counting import count
from outrider_supervisor.status import GenerationStatus, RatesStatus, Status, WorkerStatus
from outrider_supervisor.text_format import (
    format_count,
    format_duration,
    format_milliseconds,
    format_percent,
    format_size,
    plain,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A worker and its generation."""

    worker: WorkerStatus
    generation: GenerationStatus


@dataclass(frozen=True, slots=True)
class Column:
    """A column; it is sorted by what `value` takes of a row, the largest first unless `ascends`."""

    title: str
    value: Callable[[Row], Any]
    text: Callable[[Any], str]
    ascends: bool = False


def _of_worker(name: str) -> Callable[[Row], Any]:
    # A supervisor that was started earlier may know less.
    return lambda row: row.worker.get(name)


def _percent_of_share(share: float | None) -> str:
    return format_percent(None if share is None else 100 * share)


COLUMNS = (
    Column("GEN", lambda row: row.generation["number"], str),
    Column("PID", _of_worker("pid"), str, ascends=True),
    Column("STATE", _of_worker("state"), plain, ascends=True),
    Column("AGE", _of_worker("age"), format_duration),
    Column("REQ/S", _of_worker("requests_per_second"), format_count),
    Column("P99", _of_worker("p99_ms"), format_milliseconds),
    Column("IN-FLIGHT", _of_worker("in_flight"), format_count),
    Column("CONNS", _of_worker("connections"), format_count),
    Column("WS", _of_worker("websockets"), format_count),
    Column("5XX", _of_worker("errors_5xx"), format_count),
    Column("LAG", _of_worker("loop_lag_ms"), format_milliseconds),
    Column("BUSY", _of_worker("busy"), _percent_of_share),
    Column("CPU", _of_worker("cpu_percent"), format_percent),
    Column("MEMORY", _of_worker("memory_bytes"), format_size),
)


@dataclass(frozen=True, slots=True)
class Order:
    """By which column the workers are sorted."""

    column: int = 1
    is_reversed: bool = False

    def chosen(self, column: int) -> Order:
        """The order after a column has been chosen: the one that was chosen already turns round."""
        return Order(column, not self.is_reversed) if column == self.column else Order(column)

    def headings(self) -> list[str]:
        """The titles, with an arrow where it is sorted."""
        is_rising = COLUMNS[self.column].ascends is not self.is_reversed
        mark = " ▲" if is_rising else " ▼"
        return [each.title + (mark if index == self.column else "") for index, each in enumerate(COLUMNS)]


def sorted_rows(status: Status, order: Order) -> list[Row]:
    """The workers of all generations; those of which the value is not known come last."""
    column = COLUMNS[order.column]
    rows = [Row(worker, generation) for generation in status["generations"] for worker in generation["workers"]]
    known = [row for row in rows if column.value(row) is not None]
    unknown = [row for row in rows if column.value(row) is None]
    known.sort(key=lambda row: row.worker["pid"])
    known.sort(key=column.value, reverse=column.ascends is order.is_reversed)
    return known + unknown


def cells(row: Row) -> list[str]:
    """What a row shows."""
    return [column.text(column.value(row)) for column in COLUMNS]


def headline(status: Status, now: float) -> str:
    """The service in a line."""
    ready = f"{status['capacity']} of {count(status['target'], 'worker')} ready"
    scaler = status.get("autoscaler")
    if scaler:
        ready += f" ({scaler['min']} to {scaler['max']})"
    facts = [f"outrider {status['version']}", f"up {format_duration(now - status['since'])}", *status["addresses"]]
    return plain(f"{status['name']}: {status['state']}, {ready}, {', '.join(facts)}")


def rates_line(rates: RatesStatus | None) -> str:
    """How much the service does; nothing where a supervisor that was started earlier does not say."""
    if rates is None:
        return ""
    return (
        f"{format_count(_rounded(rates['requests_per_second']))} requests/s, "
        f"{format_count(_rounded(rates['errors_per_second']))} errors/s, "
        f"p50 {format_milliseconds(rates['p50_ms'])}, p99 {format_milliseconds(rates['p99_ms'])}, "
        f"{rates['in_flight']} in flight"
    )


def operation_line(status: Status, now: float) -> str:
    """What is under way; empty if nothing is."""
    operation = status["operation"]
    if operation is None:
        return ""
    age = "" if operation["since"] is None else f" for {format_duration(now - operation['since'])}"
    return plain(f"{operation['name']} under way{age}: {operation['progress']}".rstrip(": "))


def _rounded(number: float | None) -> int | None:
    return None if number is None else round(number)
