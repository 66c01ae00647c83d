"""A service at one moment, as the metrics see it."""

from __future__ import annotations

import os
from typing import Any

from outrider.meters import DURATION_BOUNDS, Histogram
from outrider.scoreboard import RowSnapshot, Totals, WorkerState
from outrider_supervisor.events import FromGeneration, Started
from outrider_supervisor.machine import Machine
from outrider_supervisor.messages import WorkerReady, WorkerSpawned
from outrider_supervisor.metric_declaration import Snapshot
from outrider_supervisor.status import StallStatus
from outrider_supervisor.status_report import Clocks, Facts, Usage, build_status
from outrider_supervisor.tally import Tally
from outrider_testing.services import make_service

MIB = 1 << 20
STALL: StallStatus = {
    "frame": "shop.views.report shop/views.py:88",
    "hangs_in": "",
    "count": 7,
    "seconds": 12.5,
    "longest": 4.2,
    "last": 1_790_000_000.0,
    "worker": 4711,
    "stack": "",
}
AUTOSCALER: Any = {
    "min": 1,
    "max": 8,
    "target": 3,
    "demand": 1.5,
    "utilisation": 0.75,
    "reason": "demand 1.50",
    "vetoes": ["memory"],
}


def make_row(pid: int, **fields: Any) -> RowSnapshot:
    """A row of the scoreboard with these fields, and ordinary ones for the rest."""
    values = dict.fromkeys(RowSnapshot._fields, 0) | {"generation": 1, "pid": pid, "state": WorkerState.READY}
    return RowSnapshot(**{**values, **fields})


def make_histogram(*durations: float) -> Histogram:
    """Of these durations."""
    buckets = [0] * (len(DURATION_BOUNDS) + 1)
    for duration in durations:
        buckets[sum(duration > bound for bound in DURATION_BOUNDS)] += 1
    return Histogram(tuple(buckets), sum(durations))


def make_snapshot(workers: int = 2, *, autoscaler: bool = True) -> Snapshot:
    """A service that serves with so many workers, all of whose metrics have values."""
    machine = Machine()
    machine.handle(Started(make_service(workers=workers)), 1.0)
    pids = [os.getpid() + index for index in range(workers)]
    for pid in pids:
        machine.handle(FromGeneration(1, WorkerSpawned(pid, 0)), 2.0)
        machine.handle(FromGeneration(1, WorkerReady(pid)), 3.0)
    tally = Tally()
    tally.last_reload = {"outcome": "committed", "at": 1_790_000_000.0, "seconds": 2.5}
    facts = Facts(name="shop", pid=1, version="0.1.0", since=0.0, addresses=("127.0.0.1:8000",), tally=tally)
    status = build_status(machine, facts, [], {}, [], Clocks(10.0, 1_790_000_000.0))
    status["autoscaler"] = AUTOSCALER if autoscaler else None
    status["stalls"] = [STALL]
    requests = {("GET", 2): make_histogram(0.001, 0.001, 0.2, 99.0), ("_OTHER", 5): make_histogram(0.3)}
    return Snapshot(
        status=status,
        totals=Totals(1000, 2000, 3, 4, 5, requests),
        rows={
            pid: make_row(
                pid, in_flight=1, connections=5, http2_connections=2, websockets=1, requests=10, loop_lag_ns=125_000_000
            )
            for pid in pids
        },
        usage={pid: Usage(12.5, 0.25, 50 * MIB, "pss", 3.5, 60 * MIB) for pid in pids},
        cpu_seconds=dict.fromkeys(pids, 3.5),
        all_cpu_seconds=9.5,
        tally=tally,
        backlog=6,
    )
