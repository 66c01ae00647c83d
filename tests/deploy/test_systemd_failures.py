"""`deploy/systemd` on a booted systemd: processes are killed or hang, and clients hardly notice."""

from __future__ import annotations

import os
import signal
import time

import pytest

from outrider_testing.load import Report
from outrider_testing.load_clients import Outcome
from outrider_testing.systemd import Machine
from outrider_testing.systemd_services import Service

pytestmark = [pytest.mark.external, pytest.mark.usefixtures("journal")]


def until_replaced(service: Service, before: int) -> None:
    """Wait until another main process serves."""

    def look() -> bool:
        return service.main_pid not in (0, before) and service.show("ActiveState") == "active"

    service.until(look, "another supervisor")


def judge(report: Report) -> None:
    """Nobody was refused, and what was in flight was answered."""
    assert report.count(Outcome.REFUSED) == 0
    assert report.lost == []


def test_the_queue_outlives_the_supervisor_and_its_workers_finish_what_they_hold(machine: Machine) -> None:
    service = Service(machine, "killed")
    service.start()
    before = service.main_pid
    workers = set(service.processes())

    def kill() -> None:
        os.kill(machine.outer_pid(before), signal.SIGKILL)
        until_replaced(service, before)
        assert workers & set(service.processes()), "the next one serves before the last has answered all"

    with service.connect() as connection:
        gate = service.hold(connection)
        judge(service.load(250, kill))
        gate.touch()
        assert connection.read_response().status == 200
    assert service.show("NRestarts") == "1"
    service.until(lambda: len(service.processes()) == 4, "supervisor, master and two workers, and no others")
    machine.systemctl("stop", service.unit)
    assert service.processes() == []


def test_a_supervisor_that_hangs_is_replaced(machine: Machine) -> None:
    service = Service(machine, "hangs", drop_in="WatchdogSec=4s\nTimeoutAbortSec=1s")
    service.start()
    before = service.main_pid
    fed = {service.show("WatchdogTimestampMonotonic")}

    def is_fed() -> bool:
        fed.add(service.show("WatchdogTimestampMonotonic"))
        return len(fed) > 2

    service.until(is_fed, "that the watchdog is fed while all is well")
    assert service.show("NRestarts") == "0"

    def stop_it() -> None:
        os.kill(machine.outer_pid(before), signal.SIGSTOP)
        until_replaced(service, before)

    judge(service.load(250, stop_it))
    assert "Watchdog timeout" in service.journal()
    assert service.show("NRestarts") == "1"
    machine.systemctl("stop", service.unit)


def test_a_stop_ends_a_service_that_hangs_with_all_its_processes(machine: Machine) -> None:
    service = Service(machine, "frozen", config="graceful_timeout = 2\n", drop_in="TimeoutStopSec=2s")
    service.start()
    service.freeze(service.main_pid)
    begun = time.monotonic()
    machine.systemctl("stop", service.unit)
    assert time.monotonic() - begun < 15
    assert service.show("Result") == "timeout"
    service.until(lambda: not service.processes(), "the end of all processes")


@pytest.fixture(scope="module")
def enduring(machine: Machine) -> Service:
    """A service that runs; tests leave it serving with two workers."""
    service = Service(machine, "enduring")
    service.start()
    return service


@pytest.mark.parametrize("victim", ["worker", "master"])
def test_a_process_that_is_killed_does_not_end_the_service(enduring: Service, victim: str) -> None:
    supervisor = enduring.main_pid
    pid = enduring.pid_of(victim)

    def kill() -> None:
        os.kill(enduring.machine.outer_pid(pid), signal.SIGKILL)
        enduring.until(lambda: pid not in enduring.processes(), "its end")
        enduring.until(lambda: "serving, 2 of 2" in enduring.outrider("status").stdout, "two workers")

    report = enduring.load(200, kill)
    assert report.count(Outcome.REFUSED) == 0
    if victim == "master":  # its workers serve on; of a worker, what it held is lost
        assert report.lost == []
    assert enduring.main_pid == supervisor
    assert enduring.show("NRestarts") == "0"
