"""The metrics: what there is, declared once. `exposition` writes them.

Names are Prometheus' (base units, `_total`), and OpenTelemetry's where that has one. What is counted of requests is in
shared memory and outlives the worker that counted it, so no counter of the pool ever falls.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from outrider.scoreboard import RowSnapshot
from outrider_supervisor.autoscaler import Veto
from outrider_supervisor.generation import WorkerState
from outrider_supervisor.metric_declaration import Bucketed, Declarations, Sample, Snapshot, Summed
from outrider_supervisor.stalls import function_of
from outrider_supervisor.status import AutoscalerStatus
from outrider_supervisor.status_report import Usage, lag_by

STATES = ("starting", "serving", "degraded", "reloading", "stopping")
_OF_REQUEST = ("http_request_method", "http_response_status_class")

METRICS = Declarations()

# -- the service


@METRICS.collected("outrider_build", "info", "The version that runs.", ("version", "python_version"))
def _build(snapshot: Snapshot) -> Iterator[Sample]:
    yield (snapshot.status["version"], platform.python_version()), 1


METRICS.plain(
    "outrider_start_time_seconds", "gauge", "When the service was started (Unix time).", lambda it: it.status["since"]
)
METRICS.by_label(
    "outrider_service_status",
    "gauge",
    "1 for the state that the service is in, 0 for the others.",
    "state",
    lambda it: {state: float(state == it.status["state"]) for state in STATES},
)


def _current_generation(snapshot: Snapshot) -> float | None:
    numbers = [each["number"] for each in snapshot.status["generations"] if each["state"] == "current"]
    return max(numbers, default=None)


METRICS.plain(
    "outrider_generation", "gauge", "Number of the generation that serves; a reload makes another.", _current_generation
)


def _workers_by_state(snapshot: Snapshot) -> Mapping[str, float]:
    states = [worker["state"] for each in snapshot.status["generations"] for worker in each["workers"]]
    return {each.value: states.count(each.value) for each in WorkerState}


METRICS.by_label("outrider_workers", "gauge", "Workers of all generations, by state.", "state", _workers_by_state)
METRICS.plain("outrider_workers_target", "gauge", "How many workers there shall be.", lambda it: it.status["target"])
METRICS.by_label(
    "outrider_worker_restarts",
    "counter",
    "Workers that another one took the place of, by the cause.",
    "cause",
    lambda it: it.tally.restarts,
)
METRICS.by_label(
    "outrider_target_changes",
    "counter",
    "Changes of the number of workers there shall be, whoever or whatever made them.",
    "direction",
    lambda it: it.tally.target_changes,
)
METRICS.by_label(
    "outrider_reloads", "counter", "Reloads that ended, by outcome.", "outcome", lambda it: it.tally.reloads
)


@METRICS.collected("outrider_reload_duration_seconds", "summary", "How long reloads took, by outcome.", ("outcome",))
def _reload_durations(snapshot: Snapshot) -> Iterator[Sample]:
    tally = snapshot.tally
    for outcome, count in tally.reloads.items():
        yield (outcome,), Summed(count, tally.reload_seconds[outcome])


def _last_reload_succeeded(snapshot: Snapshot) -> float:
    last = snapshot.tally.last_reload
    return float(last is None or last["outcome"] == "committed")


METRICS.plain(
    "outrider_last_reload_successful",
    "gauge",
    "Whether the last reload was committed; 1 before the first.",
    _last_reload_succeeded,
)
METRICS.plain(
    "outrider_last_reload_timestamp_seconds",
    "gauge",
    "When the last reload ended (Unix time).",
    lambda it: it.tally.last_reload["at"] if it.tally.last_reload is not None else None,
)

# -- traffic


@METRICS.collected(
    "outrider_requests", "counter", "Requests that are complete, by method and class of status.", _OF_REQUEST
)
def _requests(snapshot: Snapshot) -> Iterator[Sample]:
    for (method, status_class), histogram in snapshot.totals.requests.items():
        yield (method, f"{status_class}xx"), histogram.requests


@METRICS.collected(
    "http_server_request_duration_seconds",
    "histogram",
    "From the start of the application's call to the end of its response.",
    _OF_REQUEST,
)
def _durations(snapshot: Snapshot) -> Iterator[Sample]:
    for (method, status_class), histogram in snapshot.totals.requests.items():
        yield (method, f"{status_class}xx"), Bucketed(tuple(accumulate(histogram.buckets)), histogram.seconds)


def _sum_rows(read: Callable[[RowSnapshot], int]) -> Callable[[Snapshot], float]:
    return lambda snapshot: sum(read(row) for row in snapshot.rows.values())


def _connections(snapshot: Snapshot) -> Mapping[str, float]:
    rows = snapshot.rows.values()
    http2 = sum(row.http2_connections for row in rows)
    return {"http1": max(0, sum(row.connections for row in rows) - http2), "http2": http2}


METRICS.plain(
    "outrider_requests_in_flight",
    "gauge",
    "Requests that are being answered, open WebSockets included.",
    _sum_rows(lambda row: row.in_flight),
)
METRICS.by_label(
    "outrider_connections",
    "gauge",
    "Connections that are open; those of WebSockets are of the protocol that they began with.",
    "protocol",
    _connections,
)
METRICS.plain("outrider_websockets", "gauge", "WebSockets that are open.", _sum_rows(lambda row: row.websockets))
METRICS.plain(
    "outrider_websockets_opened", "counter", "WebSockets that were accepted.", lambda it: it.totals.websockets_opened
)
METRICS.plain("outrider_received_bytes", "counter", "Bytes from clients.", lambda it: it.totals.bytes_in)
METRICS.plain("outrider_sent_bytes", "counter", "Bytes to clients.", lambda it: it.totals.bytes_out)
METRICS.plain(
    "outrider_accept_backlog", "gauge", "Connections that wait at the listeners to be accepted.", lambda it: it.backlog
)

# -- the pool


METRICS.plain(
    "outrider_cpu_seconds",
    "counter",
    "Processor time of all workers, those that are gone included.",
    lambda it: it.all_cpu_seconds,
)
METRICS.plain(
    "outrider_stalls",
    "counter",
    "Times that an event loop was blocked for long (stall_warning).",
    lambda it: it.totals.stalls,
)
METRICS.by_label(
    "outrider_blocking_calls",
    "counter",
    "Times that a function blocked an event loop for long, of the functions that did so last.",
    "function",
    lambda it: {function_of(stall): stall["count"] for stall in it.status["stalls"]},
)
METRICS.by_label(
    "outrider_blocking_seconds",
    "counter",
    "For how long together.",
    "function",
    lambda it: {function_of(stall): stall["seconds"] for stall in it.status["stalls"]},
)
METRICS.plain(
    "outrider_log_lines_dropped",
    "counter",
    "Log lines that workers gave up because the log took none.",
    lambda it: it.totals.log_drops,
)


def _of_autoscaler(read: Callable[[AutoscalerStatus], float | None]) -> Callable[[Snapshot], float | None]:
    """What the autoscaler says of itself; nothing while it is off."""

    def find(snapshot: Snapshot) -> float | None:
        autoscaler = snapshot.status["autoscaler"]
        return read(autoscaler) if autoscaler is not None else None

    return find


METRICS.plain(
    "outrider_autoscaler_workers_min", "gauge", "min_workers.", _of_autoscaler(lambda autoscaler: autoscaler["min"])
)
METRICS.plain(
    "outrider_autoscaler_workers_max", "gauge", "max_workers.", _of_autoscaler(lambda autoscaler: autoscaler["max"])
)
METRICS.plain(
    "outrider_autoscaler_workers_wanted",
    "gauge",
    "How many workers the autoscaler decided on last.",
    _of_autoscaler(lambda autoscaler: autoscaler["target"]),
)
METRICS.plain(
    "outrider_autoscaler_demand",
    "gauge",
    "Event loops that would be busy all the time.",
    _of_autoscaler(lambda autoscaler: autoscaler["demand"]),
)
METRICS.plain(
    "outrider_autoscaler_utilisation_ratio",
    "gauge",
    "Demand by the workers that serve, 0 to 1.",
    _of_autoscaler(lambda autoscaler: autoscaler["utilisation"]),
)


def _vetoes(snapshot: Snapshot) -> Mapping[str, float]:
    autoscaler = snapshot.status["autoscaler"]
    return {} if autoscaler is None else {each.value: float(each.value in autoscaler["vetoes"]) for each in Veto}


METRICS.by_label(
    "outrider_autoscaler_veto",
    "gauge",
    "1 for what forbids another number of workers at the moment, 0 for the others.",
    "reason",
    _vetoes,
)

# -- each worker


def _of_row(read: Callable[[RowSnapshot], float]) -> Callable[[Snapshot, int], float | None]:
    """What a worker's row says; nothing of a class that keeps none."""
    return lambda snapshot, pid: read(snapshot.rows[pid]) if pid in snapshot.rows else None


def _of_usage(read: Callable[[Usage], float | None]) -> Callable[[Snapshot, int], float | None]:
    return lambda snapshot, pid: read(snapshot.usage[pid]) if pid in snapshot.usage else None


def _lag(snapshot: Snapshot, pid: int) -> float | None:
    row = snapshot.rows.get(pid)
    return None if row is None else lag_by(row, snapshot.usage.get(pid, Usage()))


METRICS.of_worker("outrider_worker_requests", "counter", "Requests of one worker.", _of_row(lambda row: row.requests))
METRICS.of_worker(
    "outrider_worker_requests_in_flight", "gauge", "Requests that it is answering.", _of_row(lambda row: row.in_flight)
)
METRICS.of_worker(
    "outrider_worker_connections", "gauge", "Connections that it holds.", _of_row(lambda row: row.connections)
)
METRICS.of_worker(
    "outrider_worker_event_loop_lag_seconds",
    "gauge",
    "By how much its event loop was late last, or is.",
    _lag,
)
METRICS.of_worker(
    "outrider_worker_event_loop_busy_ratio",
    "gauge",
    "Share of the last seconds in which its event loop ran something, 0 to 1.",
    lambda it, pid: it.usage[pid].busy if pid in it.rows and pid in it.usage else None,
)
METRICS.of_worker(
    "outrider_worker_cpu_seconds",
    "counter",
    "Processor time that it has used.",
    lambda it, pid: it.cpu_seconds.get(pid),
)
METRICS.of_worker(
    "outrider_worker_resident_memory_bytes",
    "gauge",
    "Memory that it holds, what it shares with others included (RSS).",
    _of_usage(lambda usage: usage.resident_bytes),
)
METRICS.of_worker(
    "outrider_worker_pss_bytes",
    "gauge",
    "Memory that it holds, with its part of what it shares (PSS).",
    _of_usage(lambda usage: usage.memory_bytes if usage.memory_kind == "pss" else None),
)
