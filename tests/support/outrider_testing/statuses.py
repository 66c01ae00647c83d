"""What a supervisor says of itself, made up for tests of what shows it."""

from __future__ import annotations

from outrider_supervisor.status import GenerationStatus, Status, WorkerStatus

NOW = 1_790_000_000.0


def make_worker(pid: int = 4711, /, **changes: object) -> WorkerStatus:
    """Return a worker that serves."""
    worker: WorkerStatus = {
        "pid": pid,
        "state": "ready",
        "age": 11520.0,
        "in_flight": 3,
        "connections": 10,
        "websockets": 0,
        "requests": 1234,
        "errors_5xx": 0,
        "loop_lag_ms": 2.1,
        "busy": 0.1,
        "cpu_percent": 12.3,
        "memory_bytes": 46 << 20,
        "memory_kind": "pss",
        "heartbeat_age": 0.1,
        "last_dump": None,
        "requests_per_second": 99.6,
        "p99_ms": 12.0,
    }
    worker.update(changes)  # type: ignore[typeddict-item]  # tests change single fields
    return worker


def make_generation(*workers: WorkerStatus, number: int = 3, state: str = "current") -> GenerationStatus:
    """Return a generation of these workers."""
    return {
        "number": number,
        "state": state,
        "master_pid": 4700,
        "since": NOW - 12,
        "backoff": None,
        "workers": list(workers),
    }


def make_status(*generations: GenerationStatus, **changes: object) -> Status:
    """Return the status of a service of these generations."""
    status: Status = {
        "status_version": 1,
        "name": "shop",
        "pid": 4242,
        "version": "0.1.0",
        "state": "serving",
        "since": NOW - 11520,
        "target": 4,
        "capacity": 3,
        "unreadiness": "",
        "addresses": ["http://127.0.0.1:8000"],
        "admin_addresses": [],
        "operation": None,
        "autoscaler": None,
        "rates": {
            "requests_per_second": 199.6,
            "errors_per_second": 0.2,
            "p50_ms": 4.0,
            "p99_ms": 21.0,
            "in_flight": 6,
        },
        "reloads": {"committed": 0, "rolled_back": 0, "refused": 0, "failed": 0, "stopped": 0, "last": None},
        "restarts": {},
        "generations": list(generations),
        "stalls": [],
        "events": [],
    }
    status.update(changes)  # type: ignore[typeddict-item]  # as above
    return status
