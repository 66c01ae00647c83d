"""Builds the status from the machine, the scoreboard and what was measured of the processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from outrider.scoreboard import RowSnapshot
from outrider_supervisor.counting import count
from outrider_supervisor.generation import Generation, Worker
from outrider_supervisor.machine import Machine
from outrider_supervisor.rates import Rates, milliseconds
from outrider_supervisor.status import (
    STATUS_VERSION,
    AutoscalerStatus,
    BackoffStatus,
    EventStatus,
    GenerationStatus,
    OperationStatus,
    RatesStatus,
    ReloadsStatus,
    StallStatus,
    Status,
    WorkerStatus,
)
from outrider_supervisor.tally import Tally

NO_RATES: RatesStatus = {
    "requests_per_second": None,
    "errors_per_second": None,
    "p50_ms": None,
    "p99_ms": None,
    "in_flight": 0,
}


@dataclass(frozen=True, slots=True)
class Clocks:
    """The same moment on both clocks: the machine's times are monotonic, those of the status are Unix times."""

    monotonic: float
    wall: float

    def to_wall(self, moment: float) -> float:
        """A monotonic time as a Unix time, to the millisecond."""
        return round(self.wall - (self.monotonic - moment), 3)


@dataclass(frozen=True, slots=True)
class Usage:
    """What was measured of one worker; None is not known."""

    cpu_percent: float | None = None
    busy: float | None = None
    memory_bytes: int | None = None
    memory_kind: str | None = None
    cpu_seconds: float | None = None
    """Processor time since its start."""
    resident_bytes: int | None = None
    lag: float = 0.0
    """Seconds by which its event loop is late, as far as that is seen from outside."""


def lag_by(row: RowSnapshot, usage: Usage) -> float:
    """Seconds by which a worker's event loop is late, by its own row or as it was seen from outside."""
    return max(row.loop_lag_ns / 1e9, usage.lag)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the supervisor knows beside its machine."""

    name: str
    pid: int
    version: str
    since: float
    """Monotonic time of its first start."""
    addresses: tuple[str, ...]
    """As people write them, such as 127.0.0.1:8000."""
    admin_addresses: tuple[str, ...] = ()
    master_pids: Mapping[int, int] = field(default_factory=dict)
    """By generation."""
    operation_since: float | None = None
    progress: str = ""
    dumped_at: Mapping[int, float] = field(default_factory=dict)
    """Unix times by process id."""
    tally: Tally = field(default_factory=Tally)
    rates: RatesStatus = field(default_factory=lambda: NO_RATES)
    worker_rates: Mapping[int, Rates] = field(default_factory=dict)
    """By process id."""
    stalls: Sequence[StallStatus] = ()


def build_status(
    machine: Machine,
    facts: Facts,
    rows: Iterable[RowSnapshot],
    usage: Mapping[int, Usage],
    events: Iterable[EventStatus],
    clocks: Clocks,
) -> Status:
    """The status of this moment."""
    by_pid = {row.pid: row for row in rows}
    tally = facts.tally
    generations = [machine.fleet.generations[number] for number in sorted(machine.fleet.generations)]
    return {
        "status_version": STATUS_VERSION,
        "name": facts.name,
        "pid": facts.pid,
        "version": facts.version,
        "state": machine.state,
        "since": clocks.to_wall(facts.since),
        "target": machine.target,
        "capacity": machine.fleet.capacity,
        "unreadiness": explain_unreadiness(machine),
        "addresses": list(facts.addresses),
        "admin_addresses": list(facts.admin_addresses),
        "operation": _operation(machine, facts, clocks),
        "autoscaler": _autoscaler(machine),
        "rates": facts.rates,
        "reloads": cast("ReloadsStatus", {**tally.reloads, "last": tally.last_reload}),
        "restarts": dict(tally.restarts),
        "generations": [_generation(each, facts, by_pid, usage, clocks) for each in generations],
        "stalls": list(facts.stalls),
        "events": list(events),
    }


def _operation(machine: Machine, facts: Facts, clocks: Clocks) -> OperationStatus | None:
    if machine.operation is None:
        return None
    since = None if facts.operation_since is None else clocks.to_wall(facts.operation_since)
    return {"name": type(machine.operation).__name__.lower(), "since": since, "progress": facts.progress}


def _autoscaler(machine: Machine) -> AutoscalerStatus | None:
    current, decision = machine.current, machine.autoscaling.decision
    if current is None or not current.service.max_workers:
        return None
    utilisation = decision.utilisation if decision else None
    return {
        "min": current.service.min_workers,
        "max": current.service.max_workers,
        "target": machine.target,
        "demand": round(decision.demand, 3) if decision else None,
        "utilisation": None if utilisation is None else round(utilisation, 3),
        "reason": decision.reason if decision else "",
        "vetoes": [veto.value for veto in decision.vetoes] if decision else [],
    }


def _generation(
    generation: Generation,
    facts: Facts,
    rows: Mapping[int, RowSnapshot],
    usage: Mapping[int, Usage],
    clocks: Clocks,
) -> GenerationStatus:
    reports = generation.service.reports_state
    oldest_first = sorted(generation.workers.values(), key=lambda worker: (worker.since, worker.pid))
    return {
        "number": generation.number,
        "state": generation.state.value,
        "master_pid": facts.master_pids.get(generation.number) if generation.has_master else None,
        "since": clocks.to_wall(generation.since),
        "backoff": _backoff(generation, clocks),
        "workers": [
            _worker(
                worker,
                rows.get(worker.pid) if reports else None,
                usage.get(worker.pid, Usage()),
                facts,
                clocks,
            )
            for worker in oldest_first
            if not worker.is_gone
        ],
    }


def _backoff(generation: Generation, clocks: Clocks) -> BackoffStatus | None:
    if not generation.is_backing_off(clocks.monotonic):
        return None
    return {"failures": generation.failures, "until": clocks.to_wall(generation.retry_at)}


def _worker(worker: Worker, row: RowSnapshot | None, usage: Usage, facts: Facts, clocks: Clocks) -> WorkerStatus:
    rates = facts.worker_rates.get(worker.pid)
    return {
        "pid": worker.pid,
        "state": worker.state.value,
        "age": round(clocks.monotonic - worker.since, 3),
        "in_flight": row.in_flight if row else None,
        "connections": row.connections if row else None,
        "websockets": row.websockets if row else None,
        "requests": row.requests if row else None,
        "errors_5xx": row.errors_5xx if row else None,
        "loop_lag_ms": round(1000 * lag_by(row, usage), 1) if row else None,
        "busy": usage.busy if row else None,
        "cpu_percent": usage.cpu_percent,
        "memory_bytes": usage.memory_bytes,
        "memory_kind": usage.memory_kind,
        "heartbeat_age": round(max(0.0, clocks.monotonic - row.heartbeat / 1e9), 3) if row else None,
        "last_dump": facts.dumped_at.get(worker.pid),
        "requests_per_second": round(rates.requests, 2) if rates else None,
        "p99_ms": milliseconds(rates.p99) if rates else None,
    }


def explain_unreadiness(machine: Machine) -> str:
    """Why no requests should be sent here, in a line; empty if they may.

    A worker that is being restarted is no reason while others serve: as many as the autoscaler keeps at least, or one.
    """
    if machine.current is None or machine.is_stopping:
        return machine.state
    least = min(machine.current.service.min_workers, machine.target)
    capacity = machine.fleet.capacity
    return "" if capacity >= least else f"{capacity} of {count(least, 'worker')} ready"
