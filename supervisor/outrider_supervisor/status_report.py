"""Builds the status from the machine, the scoreboard and what was measured of the processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from outrider.scoreboard import RowSnapshot
from outrider_supervisor.generation import Generation, Worker
from outrider_supervisor.machine import Machine
from outrider_supervisor.status import (
    STATUS_VERSION,
    BackoffStatus,
    EventStatus,
    GenerationStatus,
    OperationStatus,
    Status,
    WorkerStatus,
)


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
    last_dump: float | None = None
    """Unix time."""


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
    master_pids: Mapping[int, int] = field(default_factory=dict)
    """By generation."""
    operation_since: float | None = None
    progress: str = ""


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
        "addresses": list(facts.addresses),
        "operation": _operation(machine, facts, clocks),
        "generations": [_generation(each, facts, by_pid, usage, clocks) for each in generations],
        "events": list(events),
    }


def _operation(machine: Machine, facts: Facts, clocks: Clocks) -> OperationStatus | None:
    if machine.operation is None:
        return None
    since = None if facts.operation_since is None else clocks.to_wall(facts.operation_since)
    return {"name": type(machine.operation).__name__.lower(), "since": since, "progress": facts.progress}


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
            _worker(worker, rows.get(worker.pid) if reports else None, usage.get(worker.pid, Usage()), clocks)
            for worker in oldest_first
        ],
    }


def _backoff(generation: Generation, clocks: Clocks) -> BackoffStatus | None:
    if not generation.is_backing_off(clocks.monotonic):
        return None
    return {"failures": generation.failures, "until": clocks.to_wall(generation.retry_at)}


def _worker(worker: Worker, row: RowSnapshot | None, usage: Usage, clocks: Clocks) -> WorkerStatus:
    return {
        "pid": worker.pid,
        "state": worker.state.value,
        "age": round(clocks.monotonic - worker.since, 3),
        "in_flight": row.in_flight if row else None,
        "connections": row.connections if row else None,
        "websockets": row.websockets if row else None,
        "requests": row.requests if row else None,
        "errors_5xx": row.errors_5xx if row else None,
        "loop_lag_ms": round(row.loop_lag_ns / 1e6, 1) if row else None,
        "busy": usage.busy if row else None,
        "cpu_percent": usage.cpu_percent,
        "memory_bytes": usage.memory_bytes,
        "memory_kind": usage.memory_kind,
        "heartbeat_age": round(max(0.0, clocks.monotonic - row.heartbeat / 1e9), 3) if row else None,
        "last_dump": usage.last_dump,
    }
