"""The master of a generation as a real process, against the supervisor's end in the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.scoreboard import WorkerState
from outrider_supervisor.messages import (
    Alive,
    MasterBooted,
    ReopenLogs,
    Replace,
    SetTarget,
    Stop,
    WorkerExited,
    WorkerReady,
    WorkerRetiring,
    WorkerSpawned,
)
from outrider_testing.fake_supervisor import HOOKS, SOURCE, SUPPORT, FakeSupervisor, MakeSupervisor, title_of
from outrider_testing.processes import children, is_running
from outrider_testing.waiting import until

PROBE = "outrider_testing.apps.probe:app"
FAST = ("--graceful-timeout", "5")


# -- life


def test_master_boots_its_workers_and_serves(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, workers=2)
    pids = supervisor.until_ready(2)
    assert supervisor.messages[0] == MasterBooted()
    assert {each.pid for each in supervisor.find(WorkerSpawned)} == set(pids)
    assert supervisor.get("/").body == b"hello"
    assert title_of(supervisor.pid) == f"outrider: master [{PROBE}] g1 running"
    assert [row.state for row in supervisor.rows()] == [WorkerState.READY] * 2


def test_stop_drains_and_ends_with_0(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (pid,) = supervisor.until_ready()
    with supervisor.hold("one") as connection:
        supervisor.send(Stop(fast=False))
        supervisor.until_message(WorkerRetiring)
        supervisor.release("one")
        assert connection.read_response().body == b"one"
    assert supervisor.until_exit() == 0
    assert supervisor.until_exit_of(pid) == WorkerExited(pid, "exited with code 0", expected=True, was_ready=True)


def test_fast_stop_cuts_requests(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, "--graceful-timeout", "60")
    supervisor.until_ready()
    with supervisor.hold("one"):
        supervisor.send(Stop(fast=False))
        supervisor.until_message(WorkerRetiring)
        supervisor.send(Stop(fast=True))
        assert supervisor.until_exit() == 0


@pytest.mark.parametrize("number, how", [(signal.SIGTERM, "gracefully"), (signal.SIGINT, "at once")])
def test_signals_stop_a_master(supervisor: FakeSupervisor, number: signal.Signals, how: str) -> None:
    supervisor.start(PROBE, *FAST)
    supervisor.until_ready()
    supervisor.signal(number)
    assert supervisor.until_exit() == 0
    assert f"Stopping {how}" in supervisor.log()


def test_signals_for_the_supervisor_are_refused_in_one_line(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (pid,) = supervisor.until_ready()
    for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        supervisor.signal(number)
        line = f"{number.name} does nothing in a master: send it to the supervisor (pid: {os.getpid()})"
        supervisor.until(lambda line=line: line in supervisor.log(), line)  # type: ignore[misc]  # a lambda in a loop
    assert children(supervisor.pid) == [pid]


def test_logs_are_reopened_by_message_and_by_signal(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, "--error-logfile", "error.log")
    supervisor.until_ready()
    log = supervisor.directory / "error.log"
    log.rename(log.with_suffix(".1"))
    supervisor.send(ReopenLogs())
    supervisor.until(log.exists)
    log.rename(log.with_suffix(".2"))
    supervisor.signal(signal.SIGUSR1)
    supervisor.until(log.exists)


def test_log_that_cannot_be_reopened_stays_and_so_does_the_master(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, "--error-logfile", "error.log")
    (pid,) = supervisor.until_ready()
    log = supervisor.directory / "error.log"
    log.rename(log.with_suffix(".1"))
    log.mkdir()
    supervisor.send(ReopenLogs())
    supervisor.until(lambda: "the logs stay where they are" in log.with_suffix(".1").read_text())
    assert children(supervisor.pid) == [pid]


def test_master_stops_gracefully_when_the_supervisor_is_gone(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    supervisor.until_ready()
    supervisor.channel.shutdown(2)
    until(supervisor._has_ended, 10)
    assert supervisor._status == 0
    assert "The supervisor is gone: stopping gracefully" in supervisor.log()


def test_supervisor_that_dies_during_an_import_takes_the_master_along(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(
        "import pathlib, threading\npathlib.Path('importing').touch()\nthreading.Event().wait()\n"
    )
    script = f"""
import os, pathlib, sys
from outrider_testing.fake_supervisor import FakeSupervisor
supervisor = FakeSupervisor(pathlib.Path({str(tmp_path)!r})).start("hangs:app", "--preload")
supervisor.until(pathlib.Path({str(tmp_path / "importing")!r}).exists)
print(supervisor.pid, flush=True)
os._exit(0)
"""
    environment = os.environ | {"PYTHONPATH": f"{SOURCE}:{SUPPORT}"}
    output = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    pid = int(output.stdout)
    until(lambda: not is_running(pid), what="end of the master")


def test_message_that_nobody_understands_is_ignored(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    supervisor.until_ready()
    supervisor.channel.send(b'{"type": "Dance"}')
    supervisor.until_report("Ignored: not a message")
    assert supervisor.stop() == 0


# -- targets


def test_target_is_met_exactly(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, config=HOOKS)
    (first,) = supervisor.until_ready()
    supervisor.send(SetTarget(3))
    pids = supervisor.until_ready(3)
    assert children(supervisor.pid) == sorted(pids)
    youngest = [message.pid for message in supervisor.messages if isinstance(message, WorkerSpawned)][-1]
    supervisor.send(SetTarget(1))
    assert supervisor.until_exit_of(first).expected
    supervisor.until(lambda: children(supervisor.pid) == [youngest])
    supervisor.send(SetTarget(0))
    supervisor.until(lambda: not children(supervisor.pid))
    supervisor.send(SetTarget(1))
    supervisor.until_ready(4)
    changes = [event for event in supervisor.hooks() if event.startswith("nworkers")]
    assert changes == [f"nworkers_changed {change}" for change in ("1 None", "3 1", "1 3", "0 1", "1 0")]


def test_replaced_worker_is_retired_after_its_replacement_is_ready(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (old,) = supervisor.until_ready()
    supervisor.send(Replace(old))
    supervisor.until_exit_of(old)
    new = supervisor.until_ready(2)[1]
    story = [message for message in supervisor.messages if not isinstance(message, MasterBooted | Alive)]
    assert story[2:] == [
        WorkerSpawned(new, old),
        WorkerReady(new),
        WorkerRetiring(old),
        WorkerExited(old, "exited with code 0", expected=True, was_ready=True),
    ]


def test_killed_worker_is_replaced_at_once_and_its_row_given_back(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (old,) = supervisor.until_ready()
    supervisor.signal(signal.SIGKILL, old)
    how = "was killed by SIGKILL, perhaps out of memory"
    assert supervisor.until_exit_of(old) == WorkerExited(old, how, expected=False, was_ready=True)
    new = supervisor.until_ready(2)[1]
    assert [row.pid for row in supervisor.rows() if row.state is not WorkerState.EXITED] == [new]
    assert f"Worker (pid:{old}) was killed" in supervisor.until_report("was killed")


def test_worker_that_drains_by_itself_is_replaced_while_it_drains(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (old,) = supervisor.until_ready()
    with supervisor.hold("one"):
        supervisor.signal(signal.SIGTERM, old)
        supervisor.until_ready(2)
        assert supervisor.find(WorkerRetiring) == [WorkerRetiring(old)]
        supervisor.release("one")
    assert supervisor.until_exit_of(old).expected


@pytest.mark.parametrize("code, how", [(0, "exited with code 0 without shutting down"), (7, "exited with code 7")])
def test_worker_that_leaves_abruptly_has_crashed(supervisor: FakeSupervisor, code: int, how: str) -> None:
    supervisor.start("shop:asgi", *FAST)
    (pid,) = supervisor.until_ready()
    with pytest.raises(ConnectionError):
        supervisor.get(f"/die?{code}")
    assert supervisor.until_exit_of(pid) == WorkerExited(pid, how, expected=False, was_ready=True)


def test_worker_does_not_count_its_requests_itself(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, "--max-requests", "2")
    (pid,) = supervisor.until_ready()
    for _ in range(5):
        assert supervisor.get("/pid").body == b"%d" % pid
    supervisor.until(lambda: supervisor.row_of(pid).requests == 5)


def test_workers_without_a_row_serve_all_the_same(make_supervisor: MakeSupervisor) -> None:
    supervisor = make_supervisor(rows=0).start(PROBE, *FAST, workers=2)
    supervisor.until_ready(2)
    assert supervisor.rows() == []
    assert supervisor.stop() == 0
