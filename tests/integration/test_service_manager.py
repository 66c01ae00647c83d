"""What a service manager sees of a service: notifications, the watchdog, listeners that outlive a crash."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing import releases
from outrider_testing.http_client import HTTPConnection, encode_request
from outrider_testing.launchers import with_numbers
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.processes import session_members
from outrider_testing.service_manager import ServiceManager
from outrider_testing.serving import Supervise

NO_CANARY = "--no-canary"
WATCHDOG = 1.0
DRAIN = 15.0


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    manager = ServiceManager()
    yield manager
    manager.close()


def until_told(server: OutriderProcess, manager: ServiceManager, states: list[str]) -> None:
    server.until(lambda: manager.states == states, what=f"{states}, not {manager.states}")


def until_status(server: OutriderProcess, manager: ServiceManager, pattern: str) -> None:
    """Wait for a line, which is told again where there was no room for it."""
    server.until(lambda: re.search(pattern, manager.status), what=f"a status like {pattern!r}")


# -- notifications


def test_service_is_ready_when_its_workers_serve_and_says_so(supervise: Supervise, manager: ServiceManager) -> None:
    server = supervise(
        workers=0,
        env={**manager.environment(), "WEB_CONCURRENCY": "2"},
        files={"app.py": releases.held_at_import(1)},
    )
    server.until(lambda: manager.status == "Starting: 0 of 2 workers ready", what="workers that boot")
    assert manager.states == []
    assert manager.all_of("EXTEND_TIMEOUT_USEC")
    releases.let_import(server.directory)
    until_told(server, manager, ["READY"])
    assert manager.status == "Serving with 2 of 2 workers (generation 1)"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert manager.states == ["READY", "STOPPING"]
    assert manager.store == {}


def test_each_hangup_is_answered_by_a_reload_that_begins_after_it(
    supervise: Supervise, manager: ServiceManager
) -> None:
    server = supervise(NO_CANARY, env=manager.environment())
    for number in range(1, 3):
        asked_at = time.monotonic_ns() // 1000
        server.signal(signal.SIGHUP)
        until_told(server, manager, ["READY", *["RELOADING", "READY"] * number])
        assert int(manager.all_of("MONOTONIC_USEC")[-1]) >= asked_at
        server.wait_until_settled(1, generation=number + 1)


def test_hangup_in_a_reload_is_answered_when_that_is_over(supervise: Supervise, manager: ServiceManager) -> None:
    server = supervise(NO_CANARY, env=manager.environment(), files={"app.py": releases.good(1)})
    releases.deploy(server.directory, releases.held_at_import(2))
    reload = server.begin("reload")
    server.until(lambda: server.workers(2, "booting"), what="a worker that boots")
    asked_at = time.monotonic_ns() // 1000
    server.signal(signal.SIGHUP)
    assert manager.states == ["READY", "RELOADING"]
    releases.let_import(server.directory)
    server.finish(reload).check()
    until_told(server, manager, ["READY", *["RELOADING", "READY"] * 2])
    first, second = map(int, manager.all_of("MONOTONIC_USEC"))
    assert first < asked_at <= second


def test_reload_that_is_refused_or_rolled_back_ends_and_is_told_of(
    supervise: Supervise, manager: ServiceManager
) -> None:
    server = supervise(env=manager.environment())
    releases.deploy(server.directory, "raise RuntimeError('no')\n")
    assert server.reload().code == 1
    until_told(server, manager, ["READY", "RELOADING", "READY"])
    until_status(server, manager, r"^Serving with 1 of 1 worker \(generation 1\); reload of .* rolled back: worker")
    (server.directory / "gunicorn.conf.py").write_text("no python")
    assert server.reload().code == 1
    until_told(server, manager, ["READY", *["RELOADING", "READY"] * 2])
    until_status(server, manager, " refused: ")


# -- the watchdog


def until_fed(server: OutriderProcess, manager: ServiceManager) -> None:
    before = len(manager.all_of("WATCHDOG"))
    server.until(lambda: len(manager.all_of("WATCHDOG")) > before + 1, what="a watchdog that is fed")


def until_starved(server: OutriderProcess, manager: ServiceManager) -> None:
    """Wait until there is no feed for the watchdog's whole period."""
    fed, since = 0, time.monotonic()

    def is_starved() -> bool:
        nonlocal fed, since
        before, fed = fed, len(manager.all_of("WATCHDOG"))
        if fed != before:
            since = time.monotonic()
        return time.monotonic() - since > WATCHDOG

    server.until(is_starved, what="a watchdog that is not fed")


def test_watchdog_is_fed_by_a_service_that_serves_and_not_by_one_that_is_stopped(
    supervise: Supervise, manager: ServiceManager
) -> None:
    server = supervise(env=manager.environment(WATCHDOG))

    until_fed(server, manager)
    server.command("upgrade").check()
    until_fed(server, manager)
    server.signal(signal.SIGSTOP)
    until_starved(server, manager)
    server.signal(signal.SIGCONT)
    until_fed(server, manager)


def test_watchdog_of_a_service_whose_workers_hang_and_are_not_replaced_is_not_fed(
    supervise: Supervise, manager: ServiceManager
) -> None:
    hurry = with_numbers(liveness__OVERTIME=0.5, manager_reports__GRACE=0.5)
    server = supervise(launcher=hurry, config="timeout = 2", env=manager.environment(WATCHDOG))
    (worker,) = server.workers()
    master = server.current()["master_pid"]
    for pid in (master, worker):
        server.signal(signal.SIGSTOP, pid)
    until_starved(server, manager)
    assert server.status()["capacity"] == 1, "the supervisor itself runs"
    for pid in (worker, master):
        server.signal(signal.SIGCONT, pid)
    until_fed(server, manager)


# -- listeners that outlive the supervisor


@pytest.fixture(params=["tcp", "unix"])
def bind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s" if request.param == "unix" else "127.0.0.1:0"


@pytest.fixture
def admin() -> Iterator[str]:
    """An address that nobody else takes while no supervisor runs: bound here, but not listening, a port stays ours."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reservation.getsockname()[1]}"


def crash(server: OutriderProcess) -> None:
    server.signal(signal.SIGKILL)
    server.wait()


def ask(server: OutriderProcess) -> HTTPConnection:
    """Connect and send a request, whoever may answer it."""
    connection = server.connect(timeout=30.0)
    connection.send(encode_request("GET", "/"))
    return connection


def test_queue_outlives_a_supervisor_and_all_its_workers(
    supervise: Supervise, manager: ServiceManager, bind: str
) -> None:
    server = supervise(NO_CANARY, "--bind", bind, env=manager.environment())
    address = server.address
    assert len(manager.store) == 1
    crashed = server.pid
    crash(server)
    server.until(lambda: not session_members(crashed), DRAIN, "nobody left")
    with ask(server) as waiting:
        manager.start_again(server)
        assert waiting.read_response().status == 200
    server.wait_until_ready()
    server._address = None
    assert server.address == address
    # It is told once that it is to be kept, and is still kept when everything around it has changed.
    server.command("upgrade").check()
    server.reload().check()
    assert len(manager.store) == 1
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert manager.store == {}


def test_workers_of_a_dead_supervisor_drain_beside_the_next_one(
    supervise: Supervise, manager: ServiceManager, tmp_path: Path, bind: str, admin: str
) -> None:
    options = ("--bind", bind, "--admin-bind", admin, "--pid", f"{tmp_path}/pid")
    server = supervise(*options, env=manager.environment())
    with server.hold("request") as held:
        crashed = server.pid
        crash(server)
        with ask(server) as waiting:
            manager.start_again(server)
            server.wait_until_ready()
            assert waiting.read_response().status == 200
        assert server.get("/").status == 200
        assert server.ask_admin("/readyz").status == 200
        assert (tmp_path / "pid").read_text() == f"{server.pid}\n"
        assert session_members(crashed), "the worker that holds the request is left"
        server.release("request")
        assert held.read_response().body == b"request"
    server.until(lambda: not session_members(crashed), DRAIN, "nobody left of the crashed one")


def test_queue_outlives_a_start_that_fails(supervise: Supervise, manager: ServiceManager, tmp_path: Path) -> None:
    server = supervise("--bind", f"unix:{tmp_path}/s", env=manager.environment())
    crashed = server.pid
    crash(server)
    server.until(lambda: not session_members(crashed), DRAIN, "nobody left")
    (server.directory / "gunicorn.conf.py").write_text("no python")
    manager.start_again(server)
    assert server.wait() == 1
    assert len(manager.store) == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(f"{tmp_path}/s")


def test_address_that_is_not_configured_any_more_is_not_served_after_a_crash(
    supervise: Supervise, manager: ServiceManager, tmp_path: Path
) -> None:
    server = supervise("--bind", f"unix:{tmp_path}/old", env=manager.environment())
    crashed = server.pid
    crash(server)
    server.until(lambda: not session_members(crashed), DRAIN, "nobody left")
    server._command[server._command.index(f"unix:{tmp_path}/old")] = f"unix:{tmp_path}/new"
    manager.start_again(server)
    server._address = None
    server.wait_until_ready()
    assert server.address == f"{tmp_path}/new"
    assert not (tmp_path / "old").exists()
    assert len(manager.store) == 1


def test_store_follows_a_reload_that_changes_the_binds(
    supervise: Supervise, manager: ServiceManager, tmp_path: Path
) -> None:
    server = supervise(NO_CANARY, env=manager.environment(), config=f"bind = 'unix:{tmp_path}/one'")
    releases.configure(server.directory, f"bind = 'unix:{tmp_path}/two'")
    (one,) = manager.store
    releases.deploy(server.directory, "raise RuntimeError('no')\n")
    assert server.reload().code == 1
    assert list(manager.store) == [one]
    releases.deploy(server.directory, releases.good(2))
    server.reload().check()
    (two,) = manager.store
    assert two != one
