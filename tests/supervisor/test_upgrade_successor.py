"""A supervisor that goes on where another one was saved. The integration tests have the real execve."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider_supervisor import control_commands as commands
from outrider_supervisor import upgrade
from outrider_supervisor.actions import Level
from outrider_supervisor.journal import Journal
from outrider_testing.fake_masters import SupervisorScene
from outrider_testing.fakes import ManualLoop
from outrider_testing.gunicorn_process import parse_listener
from outrider_testing.http_client import connect
from outrider_testing.processes import read_process
from outrider_testing.upgrades import check_goes_on, descriptors_of, inheritable


@pytest.fixture
def pidfile(tmp_path: Path) -> Path:
    return tmp_path / "pid"


@pytest.fixture
def moving(
    loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pidfile: Path
) -> Iterator[SupervisorScene]:
    """A supervisor that is about to be replaced."""
    scene = SupervisorScene(loop, tmp_path, monkeypatch, pidfile=str(pidfile))
    scene.start()
    yield scene
    scene.close()


def inherited(descriptor: int) -> int:
    """A copy as it comes out of an execve: still inheritable."""
    copy = os.dup(descriptor)
    os.set_inheritable(copy, True)
    return copy


def take_over(scene: SupervisorScene, *, without_master: bool = False) -> None:
    """Have another supervisor go on in this process, with copies of the descriptors, as after an execve."""
    old = scene.supervisor
    state: dict[str, Any] = json.loads(json.dumps(upgrade.save(old)))
    if without_master:
        state["masters"] = []
    state["scoreboard"] = inherited(state["scoreboard"])
    state["reports"] = [inherited(each) for each in state["reports"]]
    for each in (*state["listeners"]["open"], *state["admin"], state["control"]):
        each["descriptor"] = inherited(each["descriptor"])
    for each in state["masters"]:
        each["channel"] = inherited(each["channel"])
    # What the execve ends:
    assert old._timer is not None
    old._timer.cancel()
    scene.finish(old.control_server.suspend())
    scene.finish(old.seam.admin.suspend())
    for endpoint in old.seam.admin._open.values():
        endpoint.listener.close(unlink=False)
    assert old.control_server._socket is not None
    old.control_server._socket.close()
    old.seam.listeners.close_all(unlink=False)
    old.seam.pidfile.path = None
    scene.finish(old.seam.close())
    scene.journal.close()
    scene.journal = Journal()

    scene.supervisor = scene.make_supervisor()
    scene.finish(upgrade.resume(scene.supervisor, state))
    assert not inheritable() & set(descriptors_of(state))


def test_successor_goes_on_with_everything(moving: SupervisorScene, pidfile: Path) -> None:
    scene = moving
    (pid,) = scene.pids
    scene.journal.write(Level.INFO, "before")
    entry = {"frame": "shop.pay", "hangs_in": "", "count": 2, "seconds": 3.0, "longest": 2.0, "stack": ""}
    scene.supervisor.stalls.note(pid, [entry], 100.0)
    addresses = scene.supervisor.status()["addresses"]
    since = scene.supervisor.since
    take_over(scene)

    supervisor = scene.supervisor
    status = scene.get_status()
    assert (status["name"], status["state"], status["addresses"]) == ("shop", "serving", addresses)
    assert [each["pid"] for each in status["generations"][0]["workers"]] == [pid]
    assert supervisor.since == since
    assert "before" in [each["text"] for each in status["events"]]
    assert status["stalls"] == [entry | {"last": 100.0, "worker": pid}]
    assert "supervisor of shop replaced in place" in scene.logged()
    assert pidfile.exists()
    # Its ears and hands:
    scene.report(pid, "oh", "dump")
    scene.until(lambda: pid in supervisor.dumps.moments, "a report")
    check_goes_on(scene)
    os.kill(pid, signal.SIGKILL)
    scene.until(lambda: read_process(pid) is None, "the worker's end")
    os.kill(scene.masters[1].pid, signal.SIGKILL)
    scene.until(lambda: "the master of generation 1 was killed by SIGKILL" in scene.logged(), "the master's end")
    scene.close_supervisor()
    assert not pidfile.exists()


def test_successor_has_the_admin_endpoint_and_counts_on(
    loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = SupervisorScene(loop, tmp_path, monkeypatch, admin_bind="127.0.0.1:0")
    scene.start()
    reload = scene.supervisor.submit(commands.Reload())
    scene.serve(2)
    assert scene.outcome(reload).ok
    scene.end_generation(1)
    before = scene.supervisor.status()
    points = scene.supervisor.history()["pool"]
    assert points
    take_over(scene)
    after = scene.supervisor.status()
    assert after["admin_addresses"] == before["admin_addresses"]
    assert (after["reloads"], after["restarts"]) == (before["reloads"], before["restarts"])
    assert after["reloads"]["committed"] == after["restarts"]["reload"] == 1
    assert scene.supervisor.history()["pool"][: len(points)] == points
    address = parse_listener(after["admin_addresses"][0])
    with connect(address):
        scene.close()
    with pytest.raises(ConnectionRefusedError):
        connect(address)


def test_successor_learns_of_a_master_that_went_meanwhile(moving: SupervisorScene) -> None:
    take_over(moving, without_master=True)
    assert "the master of generation 1 is gone" in moving.logged()


def test_successor_watches_workers_without_a_master(moving: SupervisorScene) -> None:
    scene = moving
    (pid,) = scene.pids
    scene.is_starting_refused = True
    os.kill(scene.masters[1].pid, signal.SIGKILL)
    machine = scene.supervisor.machine
    scene.until(lambda: machine.current is not None and not machine.current.has_master, "the master's end")
    take_over(scene)
    os.kill(pid, signal.SIGKILL)
    scene.until(lambda: scene.supervisor.machine.fleet.capacity == 0, "the worker's end")
