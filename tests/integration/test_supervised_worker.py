"""A worker under a supervisor, here the test, whose master is killed: the supervisor gets it, and it serves on."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing.gunicorn_process import PROBE, GunicornProcess
from outrider_testing.processes import read_process
from outrider_testing.serving import Serve

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Make this process the parent of all its orphaned descendants."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def environment(supervisor: int) -> dict[str, str]:
    return {"OUTRIDER_SUPERVISOR_PID": str(supervisor), "OUTRIDER_SUPERVISOR_GENERATION": "7"}


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")


def kill_master(server: GunicornProcess) -> int:
    """Kill it; the pid of its worker, which is a child of this process then."""
    (worker,) = server.workers()
    server.signal(signal.SIGKILL)
    server.wait()
    process = read_process(worker)
    assert process is not None
    assert process.parent == os.getpid()
    return worker


@pytest.mark.usefixtures("subreaper")
def test_worker_serves_on_when_its_master_is_gone(serve: Serve) -> None:
    server = serve(PROBE, "--name", "shop", env=environment(os.getpid()))
    with server.hold("request") as connection:
        worker = kill_master(server)
        server.until_log("The master is gone; the supervisor took over")
        server.release("request")
        assert connection.read_response().body == b"request"
    assert server.get("/pid").body == b"%d" % worker
    assert title_of(worker) == "outrider: worker [shop] g7 ready"
    with server.hold("last") as connection:
        os.kill(worker, signal.SIGTERM)
        server.until(lambda: title_of(worker) == "outrider: worker [shop] g7 draining", what="title says draining")
        server.release("last")
        assert connection.read_response().body == b"last"
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
    assert server.log_text().count("The master is gone") == 1
    assert "Parent changed" not in server.log_text()


@pytest.mark.usefixtures("subreaper")
def test_worker_of_another_supervisor_drains(serve: Serve) -> None:
    server = serve(env=environment(os.getpid() + 1))
    worker = kill_master(server)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
    assert "Parent changed, shutting down" in server.log_text()


@pytest.mark.usefixtures("subreaper")
def test_hanging_worker_without_a_master_aborts_itself_with_a_dump(serve: Serve) -> None:
    server = serve(PROBE, "--timeout", "2", env={**environment(os.getpid()), "OUTRIDER_STALL_WARNING": "0"})
    worker = kill_master(server)
    server.until_log("The master is gone; the supervisor took over")
    with server.connect(timeout=15.0) as connection:
        connection.send(b"GET /spin HTTP/1.1\r\nHost: a\r\n\r\n")
        server.until_event(f"blocking {worker}")
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 1
    assert "Worker aborted (pid: " in server.log_text()
    assert "in spin_for_ever\n" in server.log_text()


@pytest.mark.usefixtures("subreaper")
def test_worker_dies_with_its_master_during_the_import(serve: Serve) -> None:
    waiting = "from threading import Event\nfrom outrider_testing.apps.probe import record\nimport os\n"
    server = serve(
        "hanging:app",
        workers=0,
        env=environment(os.getpid()),
        files={"hanging.py": f"{waiting}record('importing', os.getpid())\nEvent().wait()\n"},
    )
    worker = int(server.until_event("importing", deadline=15.0).split()[1])
    server.signal(signal.SIGKILL)
    server.wait()
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGKILL
