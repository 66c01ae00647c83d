"""The status that the supervisor hands out."""

from __future__ import annotations

import dataclasses
import json
from typing import get_type_hints

from outrider.scoreboard import RowSnapshot, WorkerState
from outrider_supervisor import generation, status
from outrider_supervisor.events import FromGeneration, Load, Observed, ReloadAsked, Sample, Share, Started, WorkerGone
from outrider_supervisor.intents import Reload
from outrider_supervisor.machine import Machine
from outrider_supervisor.messages import BackingOff, WorkerReady, WorkerSpawned
from outrider_supervisor.rates import Rates
from outrider_supervisor.status_report import Clocks, Facts, Usage, build_status, explain_unreadiness
from outrider_supervisor.tally import CAUSES
from outrider_testing.services import make_service

CLOCKS = Clocks(monotonic=1000.0, wall=1_790_000_000.0)


def make_machine(*, reports_state: bool = True, max_workers: int = 0) -> Machine:
    """Return a machine whose one worker, 7, was spawned 90 s ago and serves."""
    machine = Machine()
    service = make_service(workers=1, reports_state=reports_state, max_workers=max_workers)
    machine.handle(Started(service), 900.0)
    machine.handle(FromGeneration(1, WorkerSpawned(7, 0)), 910.0)
    machine.handle(FromGeneration(1, WorkerReady(7)), 911.0)
    return machine


def make_facts(machine: Machine) -> Facts:
    return Facts(
        name="shop",
        pid=5,
        version="0.1.0",
        since=900.0,
        addresses=("http://127.0.0.1:8000",),
        master_pids={1: 6},
        operation_since=None if machine.operation is None else 995.0,
        progress="" if machine.operation is None else "reading the configuration",
        dumped_at={7: 5.0},
        rates=RATES,
        worker_rates={7: Rates(25.0, 0.0, 0.002, 0.008)},
    )


ROW = RowSnapshot(
    row=0,
    generation=1,
    pid=7,
    start_time=1,
    state=WorkerState.READY,
    heartbeat=999_900_000_000,
    in_flight=3,
    connections=10,
    websockets=2,
    requests=1234,
    errors_5xx=4,
    loop_busy_ns=0,
    loop_lag_ns=2_140_000,
    bytes_in=0,
    bytes_out=0,
    http2_connections=0,
    websockets_opened=0,
    stalls=0,
    log_drops=0,
)
USAGE = Usage(cpu_percent=12.5, busy=0.25, memory_bytes=1 << 20, memory_kind="pss")
RATES: status.RatesStatus = {
    "requests_per_second": 50.0,
    "errors_per_second": 0.5,
    "p50_ms": 2.0,
    "p99_ms": 9.0,
    "in_flight": 3,
}
EVENT: status.EventStatus = {"at": 1.0, "level": "info", "text": "hello"}


def test_status_has_every_field() -> None:
    machine = make_machine()
    built = build_status(machine, make_facts(machine), [ROW], {7: USAGE}, [EVENT], CLOCKS)
    assert json.loads(json.dumps(built)) == {
        "status_version": 1,
        "name": "shop",
        "pid": 5,
        "version": "0.1.0",
        "state": "serving",
        "since": CLOCKS.wall - 100,
        "target": 1,
        "capacity": 1,
        "unreadiness": "",
        "addresses": ["http://127.0.0.1:8000"],
        "admin_addresses": [],
        "operation": None,
        "autoscaler": None,
        "rates": RATES,
        "reloads": {"committed": 0, "rolled_back": 0, "refused": 0, "failed": 0, "stopped": 0, "last": None},
        "restarts": dict.fromkeys(CAUSES, 0),
        "stalls": [],
        "generations": [
            {
                "number": 1,
                "state": "current",
                "master_pid": 6,
                "since": CLOCKS.wall - 100,
                "backoff": None,
                "workers": [
                    {
                        "pid": 7,
                        "state": "ready",
                        "age": 90.0,
                        "in_flight": 3,
                        "connections": 10,
                        "websockets": 2,
                        "requests": 1234,
                        "errors_5xx": 4,
                        "loop_lag_ms": 2.1,
                        "busy": 0.25,
                        "cpu_percent": 12.5,
                        "memory_bytes": 1 << 20,
                        "memory_kind": "pss",
                        "heartbeat_age": 0.1,
                        "last_dump": 5.0,
                        "requests_per_second": 25.0,
                        "p99_ms": 8.0,
                    }
                ],
            }
        ],
        "events": [EVENT],
    }
    assert built.keys() == get_type_hints(status.Status).keys()


def test_loop_that_hangs_is_late_though_it_does_not_say_so() -> None:
    machine = make_machine()
    usage = dataclasses.replace(USAGE, lag=3.5)
    [shown] = build_status(machine, make_facts(machine), [ROW], {7: usage}, [], CLOCKS)["generations"]
    assert shown["workers"][0]["loop_lag_ms"] == 3500.0


def test_worker_without_a_row_has_nulls() -> None:
    machine = make_machine()
    [shown] = build_status(machine, make_facts(machine), [], {}, [], CLOCKS)["generations"]
    unknown = {key for key, value in shown["workers"][0].items() if value is None}
    unknown |= {"last_dump", "requests_per_second", "p99_ms"}  # of which the supervisor has what it remembers
    assert unknown == get_type_hints(status.WorkerStatus).keys() - {"pid", "state", "age"}


def test_row_of_a_class_that_reports_no_state_does_not_count() -> None:
    machine = make_machine(reports_state=False)
    [shown] = build_status(machine, make_facts(machine), [ROW], {7: USAGE}, [], CLOCKS)["generations"]
    worker = shown["workers"][0]
    assert (worker["requests"], worker["busy"], worker["heartbeat_age"]) == (None, None, None)
    assert (worker["cpu_percent"], worker["memory_bytes"]) == (12.5, 1 << 20)


def test_worker_that_waits_to_be_started_is_told_of_as_long_as_it_does() -> None:
    machine = make_machine()
    machine.handle(FromGeneration(1, BackingOff(3, 4.0)), 999.0)

    def backoff(clocks: Clocks) -> status.BackoffStatus | None:
        [shown] = build_status(machine, make_facts(machine), [], {}, [], clocks)["generations"]
        return shown["backoff"]

    assert backoff(CLOCKS) == {"failures": 3, "until": CLOCKS.wall + 3}
    assert backoff(Clocks(monotonic=1003.0, wall=CLOCKS.wall + 3)) is None


def test_lost_master_has_no_pid() -> None:
    machine = make_machine()
    machine.fleet.generations[1].has_master = False
    [shown] = build_status(machine, make_facts(machine), [ROW], {}, [], CLOCKS)["generations"]
    assert shown["master_pid"] is None


def test_operation_is_named_with_its_progress() -> None:
    machine = make_machine()
    machine.handle(ReloadAsked(1, canary=True), 995.0)
    assert isinstance(machine.operation, Reload)
    built = build_status(machine, make_facts(machine), [ROW], {}, [], CLOCKS)
    assert built["operation"] == {
        "name": "reload",
        "since": CLOCKS.wall - 5,
        "progress": "reading the configuration",
    }


def test_workers_are_listed_oldest_first() -> None:
    machine = make_machine()
    workers = machine.fleet.generations[1].workers
    workers[3] = dataclasses.replace(workers[7], pid=3, since=950.0)
    workers[9] = generation.Worker(9, 905.0)
    [shown] = build_status(machine, make_facts(machine), [], {}, [], CLOCKS)["generations"]
    assert [worker["pid"] for worker in shown["workers"]] == [9, 7, 3]


def test_worker_that_is_gone_is_not_shown_though_its_master_does_not_say_so() -> None:
    machine = make_machine()
    machine.handle(WorkerGone(7), 999.0)
    built = build_status(machine, make_facts(machine), [ROW], {}, [], CLOCKS)
    assert (built["capacity"], built["generations"][0]["workers"]) == (0, [])


def test_service_is_ready_with_what_there_shall_be_even_if_that_is_less_than_min_workers() -> None:
    machine = make_machine(max_workers=4)
    current = machine.current
    assert current is not None
    current.service = dataclasses.replace(current.service, min_workers=2)  # a reload's, which is about to take effect
    assert (machine.target, explain_unreadiness(machine)) == (1, "")


def test_autoscaler_tells_its_limits_before_it_has_measured_anything_and_what_it_goes_by_later() -> None:
    machine = make_machine(max_workers=4)
    seen = [build_status(machine, make_facts(machine), [], {}, [], CLOCKS)["autoscaler"]]
    load = Load({7: Share(cpu=0.1234, busy=0.5678)}, 10.0, 0, 8.0, None, None)
    machine.handle(Observed({7: Sample(0, 0, 0.0)}, load), 1000.0)
    seen.append(build_status(machine, make_facts(machine), [], {}, [], CLOCKS)["autoscaler"])
    limits = {"min": 1, "max": 4, "target": 1, "vetoes": []}
    assert seen == [
        {**limits, "demand": None, "utilisation": None, "reason": ""},
        {**limits, "demand": 0.568, "utilisation": 0.568, "reason": "demand 0.57"},
    ]
