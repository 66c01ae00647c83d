"""`deploy/systemd` on a booted systemd: sockets that systemd opens, and the units of plain gunicorn."""

from __future__ import annotations

import os
import signal

import pytest

from outrider_testing import releases
from outrider_testing.http_client import fetch
from outrider_testing.load_clients import NewConnectionClient, Outcome, SilentClient
from outrider_testing.systemd import Machine
from outrider_testing.systemd_services import PATIENCE, Service

pytestmark = [pytest.mark.external, pytest.mark.usefixtures("journal")]

NEW_CONNECTIONS = {NewConnectionClient: 60.0, SilentClient: 10.0}
"""A connection that is kept open ends with the process that has it; these wait in the queue."""


@pytest.mark.parametrize("template", ["outrider", "gunicorn"])
def test_a_socket_has_port_80_and_can_be_enabled(machine: Machine, template: str) -> None:
    unit = f"{template}@any.socket"
    assert machine.show(unit, "Listen").endswith(":80 (Stream)")
    assert machine.show(unit, "UnitFileState") == "disabled"


# -- outrider@.socket


def test_the_first_request_to_port_80_starts_a_service_without_rights(machine: Machine) -> None:
    service = Service(machine, "web")
    machine.systemctl("start", "outrider@web.socket")
    assert service.show("ActiveState") == "inactive"
    with machine.network():
        assert fetch(("127.0.0.1", 80), "/", timeout=PATIENCE).status == 200
    service.until_state("active")
    status = machine.path(f"/proc/{service.main_pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "Uid:\t0" not in status
    machine.systemctl("stop", "outrider@web.socket", service.unit)


def test_who_comes_during_a_restart_waits_in_the_queue(machine: Machine) -> None:
    service = Service(machine, "restarts")
    service.listen()
    service.start()

    def restart() -> None:
        service.deploy(releases.good(2))
        machine.systemctl("restart", service.unit)

    report = service.load(200, restart, mix=NEW_CONNECTIONS)
    assert report.lost == []
    assert set(report.versions) == {"1", "2"}


def test_who_comes_while_the_supervisor_is_killed_waits_in_the_queue(machine: Machine) -> None:
    service = Service(machine, "survives")
    service.listen()
    service.start()
    before = service.main_pid

    def kill() -> None:
        os.kill(machine.outer_pid(before), signal.SIGKILL)
        service.until(lambda: service.main_pid not in (0, before), "another supervisor")
        service.until_state("active")

    assert service.load(200, kill).lost == []


# -- gunicorn@.service


@pytest.fixture(scope="module")
def plain(machine: Machine) -> Service:
    app = releases.good(1) + "print('printed', __name__)\n"
    service = Service(machine, "plain", app, template="gunicorn")
    service.start()
    return service


def test_plain_gunicorn_starts_and_answers(plain: Service) -> None:
    assert plain.version() == "1"
    assert plain.show("ActiveState") == "active"
    # By the check, when it ends, and by two workers, while they run.
    plain.until(lambda: plain.journal().count("printed app") == 3, "what the application prints in the journal")


def test_plain_gunicorn_reloads_without_saying_how_it_went(plain: Service) -> None:
    def reload() -> None:
        plain.deploy(releases.good(2))
        plain.machine.systemctl("reload", plain.unit)
        plain.until(lambda: plain.version() == "2", "the new code")

    assert plain.load(250, reload).lost == []
    assert plain.show("NRestarts") == "0"


def test_plain_gunicorn_answers_what_it_holds_before_it_stops(plain: Service) -> None:
    with plain.connect() as connection:
        gate = plain.hold(connection)
        plain.machine.systemctl("stop", "--no-block", plain.unit)
        plain.until_state("deactivating", "stop-sigterm")
        gate.touch()
        assert connection.read_response().status == 200
    plain.until_state("inactive")
    assert plain.show("Result") == "success"
    assert plain.processes() == []


def test_plain_gunicorn_that_cannot_be_imported_is_not_started(machine: Machine) -> None:
    service = Service(machine, "plain-broken", "import nothing_there\n", template="gunicorn")
    assert service.systemctl("start").returncode == 1
    assert "No module named 'nothing_there'" in service.journal()
    machine.systemctl("stop", service.unit)


def test_plain_gunicorn_keeps_the_queue_of_its_socket_when_its_master_is_killed(machine: Machine) -> None:
    service = Service(machine, "plain-socket", template="gunicorn")
    service.listen()
    service.start()
    before = service.main_pid

    def kill() -> None:
        os.kill(machine.outer_pid(before), signal.SIGKILL)
        service.until(lambda: service.main_pid not in (0, before), "another master")
        service.until_state("active")

    report = service.load(200, kill)
    assert report.count(Outcome.REFUSED) == 0
