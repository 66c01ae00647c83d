"""What is left when the supervisor or a master is killed: nothing in the way of the next start; and life as PID 1."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outrider_testing import releases
from outrider_testing.launchers import AS_PID_1, BUSY_MACHINE, can_be_pid_1
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.processes import children, session_members, zombies
from outrider_testing.serving import Supervise

NO_CANARY = "--no-canary"
LONG_CANARY = ("--canary-seconds", "600")
DRAIN = 15.0

HANGS_AT_IMPORT = "import threading\n\nthreading.Event().wait()\n"

# Leaves a process behind whose parents have ended: it is the next subreaper's or PID 1's, who has never heard of it.
LEAVES_AN_ORPHAN = """\
import subprocess

subprocess.run(["sh", "-c", "(sleep 0.2; touch orphan-has-ended) &"], check=True)

"""

# To be PID 1 needs the right to make namespaces. Where that is missing, it is the one case that is left out.
LAUNCHERS: dict[str, tuple[str, ...]] = {"subreaper": ()} | ({"PID 1": AS_PID_1} if can_be_pid_1() else {})


def kill_and_wait(server: OutriderProcess) -> None:
    """Kill the supervisor; everybody else must go by themselves."""
    server.signal(signal.SIGKILL)
    server.wait()
    server.until(lambda: not session_members(server.pid), DRAIN, "nobody left")


# The supervisor


def test_workers_of_a_killed_supervisor_finish_their_requests_and_go(supervise: Supervise) -> None:
    server = supervise(workers=2)
    with server.hold("request") as connection:
        server.signal(signal.SIGKILL)
        server.wait()
        server.release("request")
        assert connection.read_response().body == b"request"
    server.until(lambda: not session_members(server.pid), DRAIN, "nobody left")


@pytest.fixture(params=["tcp", "unix"])
def bind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An address that nobody else takes while no supervisor runs: bound here, but not listening, a port stays ours."""
    if request.param == "unix":
        yield f"unix:{tmp_path}/s"
        return
    with contextlib.closing(socket.socket()) as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reservation.getsockname()[1]}"


def test_killed_supervisor_does_not_block_the_next_start(supervise: Supervise, bind: str) -> None:
    server = supervise("--bind", bind)
    assert server.get("/").status == 200
    kill_and_wait(server)
    server.start()
    server.wait_until_ready()
    assert server.get("/").status == 200


def hang_at_import(server: OutriderProcess) -> None:
    releases.deploy(server.directory, HANGS_AT_IMPORT)
    server.signal(signal.SIGHUP)
    server.until(lambda: server.workers(2, "booting"), what="a worker that boots")


def watch_canary(server: OutriderProcess) -> None:
    server.signal(signal.SIGHUP)
    server.until(lambda: server.generations()[2]["state"] == "canary" if 2 in server.generations() else False)


@pytest.mark.parametrize("prepare", [hang_at_import, watch_canary])
def test_supervisor_killed_in_a_reload_leaves_no_orphan(
    supervise: Supervise, prepare: Callable[[OutriderProcess], None]
) -> None:
    # Whoever does not end by itself is soon killed.
    server = supervise(*LONG_CANARY, workers=2, config="graceful_timeout = 2", launcher=BUSY_MACHINE)
    prepare(server)
    kill_and_wait(server)


def test_worker_that_drains_finishes_and_goes_also_when_the_supervisor_is_killed(supervise: Supervise) -> None:
    server = supervise(NO_CANARY, workers=2)
    with server.hold("drained") as connection:
        server.reload().check()
        server.until(lambda: server.workers(1, "draining"), what="a worker that drains")
        server.signal(signal.SIGKILL)
        server.wait()
        server.release("drained")
        assert connection.read_response().body == b"drained"
    server.until(lambda: not session_members(server.pid), DRAIN, "nobody left")


# Masters


def test_workers_of_a_killed_master_serve_until_there_is_another(supervise: Supervise) -> None:
    server = supervise(NO_CANARY, workers=2)
    master = server.current()["master_pid"]
    with server.hold("request") as connection:
        server.signal(signal.SIGKILL, master)
        server.until(lambda: len(server.workers(2)) == 2, 20.0, "workers of another master")
        server.release("request")
        assert connection.read_response().status == 200
    server.wait_until_settled(2, generation=2)


def test_master_killed_in_a_reload_is_rolled_back(supervise: Supervise) -> None:
    server = supervise(*LONG_CANARY, workers=2, launcher=BUSY_MACHINE)
    before = server.workers()
    reload = server.begin("reload")
    server.until(lambda: server.workers(2), what="a canary")
    server.signal(signal.SIGKILL, server.generations()[2]["master_pid"])
    assert "the master was killed by SIGKILL" in server.finish(reload).check(1)
    server.wait_until_settled(2, generation=1)
    assert server.workers() == before


# PID 1


@pytest.mark.parametrize("launcher", LAUNCHERS.values(), ids=LAUNCHERS)
def test_supervisor_reaps_strangers(supervise: Supervise, launcher: tuple[str, ...]) -> None:
    server = supervise(launcher=launcher, files={"app.py": LEAVES_AN_ORPHAN + releases.good(1)})
    server.until((server.directory / "orphan-has-ended").exists, what="the end of the orphan")
    server.until(lambda: not zombies(server.pid), what="no zombies")
    assert server.get("/").status == 200
    server.command("stop").check()
    assert server.wait() == 0


@pytest.mark.parametrize("launcher", LAUNCHERS.values(), ids=LAUNCHERS)
def test_supervisor_obeys_signals(supervise: Supervise, launcher: tuple[str, ...]) -> None:
    server = supervise(NO_CANARY, launcher=launcher)
    supervisor = children(server.pid)[0] if launcher else server.pid
    server.signal(signal.SIGHUP, supervisor)
    server.wait_until_settled(1, generation=2)
    server.signal(signal.SIGTERM, supervisor)
    assert server.wait() == 0
