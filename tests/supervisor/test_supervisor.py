"""The supervisor process: its start and end, and processes on one side, the machine on the other."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import ConfigurationError
from outrider.scoreboard import Field, Scoreboard, WorkerState
from outrider_supervisor import control_commands as commands
from outrider_supervisor import events, manager_reports
from outrider_supervisor import supervisor as supervisor_module
from outrider_supervisor.actions import Log
from outrider_supervisor.events import Event
from outrider_supervisor.fleet import OVERTIME
from outrider_supervisor.listeners import START_PATIENCE, _store_name
from outrider_supervisor.messages import Stop, WorkerSpawned
from outrider_supervisor.service import Service
from outrider_supervisor.supervisor import BUSY_TICK, CALM_TICK, LONGEST_START
from outrider_testing.fake_masters import SLEEP, SupervisorScene
from outrider_testing.fakes import ManualLoop
from outrider_testing.processes import is_running
from outrider_testing.services import make_service


@pytest.fixture
def scene(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SupervisorScene]:
    scene = SupervisorScene(loop, tmp_path, monkeypatch)
    yield scene
    scene.close()


# -- start and end


def test_start_leads_to_a_generation_that_serves(scene: SupervisorScene) -> None:
    scene.start()
    machine = scene.supervisor.machine
    assert machine.state == "serving"
    assert scene.masters[1].order.workers == 1
    assert "supervisor of shop" in scene.logged()
    assert scene.titles[-1] == "outrider: supervisor [shop] serving"
    assert scene.notifier.told[-2:] == ["Serving with 1 of 1 worker (generation 1)", "ready"]
    assert scene.notifier.told[:2] == [f"extend {LONGEST_START:g}", "Starting: reading the configuration"]
    assert scene.supervisor.seam.pidfile.path is None


def test_end_leaves_nothing(scene: SupervisorScene) -> None:
    pidfile = scene.log.with_name("pid")
    scene.service = make_service(pidfile=str(pidfile), errorlog=str(scene.log), canary=False, workers=1)
    task = scene.run()
    assert pidfile.exists()
    signal.raise_signal(signal.SIGTERM)
    scene.until(lambda: scene.supervisor.machine.is_stopping, "the stop")
    assert Stop(fast=False) in scene.masters[1].told()
    scene.end_generation(1)
    scene.until(task.done, "the end")
    assert task.result() == 0
    assert scene.logged().endswith("stopped\n")
    scene.close_supervisor()
    assert not pidfile.exists()
    assert not scene.socket.exists()
    assert scene.notifier.told[-1] == "close"


def test_start_that_fails_is_an_error_and_leaves_nothing(scene: SupervisorScene) -> None:
    scene.service = ConfigurationError("no such module")
    with pytest.raises(ConfigurationError, match="no such module"):
        scene.finish(scene.supervisor.run(scene.supervisor.start()))
    scene.close_supervisor()
    assert not scene.socket.exists()


def test_pidfile_that_is_taken_ends_the_start(scene: SupervisorScene) -> None:
    pidfile = scene.log.with_name("pid")
    pidfile.write_text(f"{os.getppid()}")
    scene.service = make_service(pidfile=str(pidfile), errorlog=str(scene.log))
    with pytest.raises(ConfigurationError, match="belongs to process"):
        scene.finish(scene.supervisor.start())
    scene.close_supervisor()
    assert pidfile.exists()


def test_term_during_the_start_ends_it_and_its_child(scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch) -> None:
    seam = scene.supervisor.seam

    async def read() -> None:
        await seam.children.run(("/bin/sleep", "60"), {}, 60.0)

    monkeypatch.setattr(seam, "read_service", read)
    task = scene.loop.create_task(scene.supervisor.run(scene.supervisor.start()))
    (pid,) = scene.until(lambda: list(seam.children._known), "the child")
    signal.raise_signal(signal.SIGTERM)
    scene.until(task.done, "the end")
    assert task.result() == 0
    scene.until(lambda: not is_running(pid), "the child's end")
    seam.children.reap_strangers()


def test_status_is_served_while_the_listeners_wait_for_their_address(
    scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = scene.loop.create_future()
    open_listeners = scene.supervisor.seam.open_listeners

    async def wait(service: Service, patience: float = 0.0) -> None:
        await waiting
        await open_listeners(service, patience)

    monkeypatch.setattr(scene.supervisor.seam, "open_listeners", wait)
    task = scene.loop.create_task(scene.supervisor.start())
    scene.until(scene.socket.exists, "the control socket")
    assert scene.get_status()["state"] == "starting"
    waiting.set_result(None)
    scene.until(task.done, "the start")
    scene.until(lambda: scene.masters, "the first master")


def test_close_before_the_start_is_no_error(scene: SupervisorScene) -> None:
    scene.close_supervisor()


def test_close_in_the_middle_of_a_tick_ends_the_ticking(scene: SupervisorScene) -> None:
    scene.start()
    scene.close_supervisor()
    before = scene.logged()
    scene.loop.advance(CALM_TICK)
    assert scene.logged() == before


def test_listeners_that_were_kept_in_vain_are_told_of(scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.supervisor.seam.listeners, "adopt", lambda _environ: ["unix:/gone"])
    scene.service = make_service(errorlog=str(scene.log), notes=("a note",))
    scene.finish(scene.supervisor.start())
    assert "forget unix:/gone" in scene.notifier.told
    assert "unix:/gone: kept by the service manager in vain" in scene.logged()
    assert "[WARNING] a note" in scene.logged()


def test_start_makes_orphans_its_children_and_waits_for_an_address_in_use(
    scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[object] = []

    async def open_listeners(_service: Service, patience: float = 0.0) -> None:
        noted.append(patience)

    monkeypatch.setattr(supervisor_module, "become_subreaper", lambda: noted.append("subreaper"))
    monkeypatch.setattr(scene.supervisor.seam, "open_listeners", open_listeners)
    scene.finish(scene.supervisor.start())
    assert noted == ["subreaper", START_PATIENCE]


# -- events


def test_events_from_within_an_action_are_handled_in_order(
    scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.start()
    handled: list[str] = []
    machine, seam = scene.supervisor.machine, scene.supervisor.seam

    def handle(event: Event, _now: float) -> list[object]:
        assert isinstance(event, events.UpgradeFailed)
        handled.append(event.reason)
        return ["x", "y"] if event.reason == "first" else []

    def act(action: object) -> None:
        handled.append(f"do {action}")
        scene.supervisor.enqueue(events.UpgradeFailed(f"from {action}"))

    monkeypatch.setattr(machine, "handle", handle)
    monkeypatch.setattr(seam, "do", act)
    scene.supervisor.enqueue(events.UpgradeFailed("first"))
    assert handled == ["first", "do x", "do y", "from x", "from y"]


def test_exception_in_the_machine_is_logged_and_the_supervisor_goes_on(
    scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.start()
    with monkeypatch.context() as patch:
        patch.setattr(scene.supervisor.machine, "handle", lambda _event, _now: 1 // 0)
        scene.supervisor.enqueue(events.Observed({}))
    assert "after an event that it could not handle: Observed" in scene.logged()
    assert "ZeroDivisionError" in scene.logged()
    reload = scene.supervisor.submit(commands.Reload())
    scene.serve(2)
    assert scene.outcome(reload).ok


def test_exception_in_an_action_costs_no_other_action(scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.start()
    seam = scene.supervisor.seam
    do = seam.do

    def fail_to_log(action: Any) -> None:
        if isinstance(action, Log):
            raise ZeroDivisionError
        do(action)

    monkeypatch.setattr(seam, "do", fail_to_log)
    reload = scene.supervisor.submit(commands.Reload())
    scene.serve(2)
    assert scene.outcome(reload).ok
    assert "after an action that failed: Log(" in scene.logged()
    assert "Traceback" in scene.logged()


def test_loop_looks_seldom_when_nothing_goes_on_and_often_else(
    scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.start()
    looks: list[float] = []

    def sample(_generations: object, now: float) -> dict[int, events.Sample]:
        looks.append(now)
        return {}

    monkeypatch.setattr(scene.supervisor.seam.sampler, "sample", sample)
    scene.loop.advance(CALM_TICK)
    looks.clear()
    for _ in range(10):
        scene.loop.advance(CALM_TICK / 10)
    assert len(looks) == 1
    scene.supervisor.machine.replacements.pids.add(1)
    scene.loop.advance(CALM_TICK)
    looks.clear()
    for _ in range(10):
        scene.loop.advance(BUSY_TICK)
    assert len(looks) >= 9


def test_watchdog_of_the_service_manager_is_fed(scene: SupervisorScene) -> None:
    scene.start()
    scene.loop.advance(CALM_TICK)
    assert "alive" not in scene.notifier.told
    scene.notifier.watchdog = 10.0
    scene.loop.advance(CALM_TICK)
    assert "alive" in scene.notifier.told


def test_listener_that_the_service_manager_had_no_room_for_is_stored_soon(scene: SupervisorScene) -> None:
    scene.notifier.is_deaf = True
    scene.start()
    scene.notifier.is_deaf = False
    before = scene.notifier.flushes
    scene.loop.advance(CALM_TICK)
    assert any(each.startswith("store ") for each in scene.notifier.told)
    assert scene.notifier.flushes > before, "what it waits for has had to wait as well"


def test_short_watchdog_is_fed_in_time(scene: SupervisorScene) -> None:
    scene.notifier.watchdog = 0.6
    scene.start()
    scene.loop.advance(CALM_TICK)
    before = scene.notifier.told.count("alive")
    for _ in range(10):
        scene.loop.advance(0.2)
    assert scene.notifier.told.count("alive") == before + 10


def test_watchdog_of_a_service_that_is_dead_is_not_fed(scene: SupervisorScene) -> None:
    scene.notifier.watchdog = 3.0
    scene.service = make_service(errorlog=str(scene.log), canary=False, workers=1, timeout=0.01)
    (pid,) = scene.start()
    row = Scoreboard.from_descriptor(scene.supervisor.seam.scoreboard).claim(1)
    row.adopt(pid)
    row[Field.HEARTBEAT] = time.monotonic_ns() - int((OVERTIME + 1) * 1e9)
    scene.supervisor.manager._alive_at = 0.0
    scene.notifier.told.clear()
    scene.loop.advance(CALM_TICK)
    assert "alive" not in scene.notifier.told
    row[Field.HEARTBEAT] = time.monotonic_ns()
    scene.loop.advance(CALM_TICK)
    assert "alive" in scene.notifier.told


def test_reload_and_stop_ask_for_time_when_they_have_been_told(scene: SupervisorScene) -> None:
    scene.start()
    scene.notifier.told.clear()
    reload = scene.supervisor.submit(commands.Reload())
    assert scene.notifier.told == ["Reloading: reading the configuration; 1 worker serving", "reloading"]
    scene.loop.advance(CALM_TICK)
    assert "extend 10" in scene.notifier.told
    assert not reload.outcome
    scene.serve(2)
    assert scene.outcome(reload).ok
    scene.service = ConfigurationError("no")
    reload = scene.supervisor.submit(commands.Reload())
    assert not scene.outcome(reload).ok
    told = scene.notifier.told
    assert told[-1] == "ready"
    assert told[-2].endswith("refused: no")
    told.clear()
    scene.supervisor.submit(commands.StopService(fast=False))
    assert told[0].startswith("Stopping: 0 requests in flight, 2 workers left")
    assert told[1] == "stopping"
    scene.loop.advance(CALM_TICK)
    assert "extend 10" in told


def test_fault_in_what_is_shown_costs_nothing_else(scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.start()
    monkeypatch.setattr(manager_reports, "describe", lambda *_: 1 // 0)
    reload = scene.supervisor.submit(commands.Reload())
    scene.serve(2)
    assert scene.outcome(reload).ok
    assert "ZeroDivisionError" in scene.logged()


def test_listener_that_was_kept_over_a_crash_and_is_not_named_any_more_is_given_back(scene: SupervisorScene) -> None:
    listeners = scene.supervisor.seam.listeners
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
        first = sock.detach()
    name = _store_name(address)
    scene.supervisor.seam.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=name)
    adopt = listeners.adopt
    vars(listeners)["adopt"] = lambda environ: adopt(environ, first=first)
    scene.start()
    assert f"forget {name}" in scene.notifier.told
    assert f"store {name}" not in scene.notifier.told
    assert f"listener closed: 127.0.0.1:{address[1]}" in scene.logged()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_end_of_a_master_is_told_to_the_machine_and_made_up_for(scene: SupervisorScene) -> None:
    scene.start()
    os.kill(scene.masters[1].pid, signal.SIGKILL)
    scene.serve(2)
    assert "the master of generation 1 was killed by SIGKILL" in scene.logged()
    assert 1 not in scene.supervisor.seam.masters


@pytest.mark.parametrize("is_known", [False, True])
def test_worker_whose_readiness_its_master_had_no_time_to_tell_of_serves_and_is_retired(
    scene: SupervisorScene, is_known: bool
) -> None:
    scene.start()
    pid = os.posix_spawn(SLEEP[0], SLEEP, {})
    scene.pids.append(pid)
    row = Scoreboard.from_descriptor(scene.supervisor.seam.scoreboard).claim(1)
    row.adopt(pid)
    if is_known:
        scene.supervisor.enqueue(events.FromGeneration(1, WorkerSpawned(pid, 0)))
    row[Field.STATE] = WorkerState.READY
    os.kill(scene.masters[1].pid, signal.SIGKILL)
    scene.until(lambda: 1 not in scene.supervisor.seam.masters, "the end of a master")
    assert "serving on with its 2 workers" in scene.logged()
    scene.serve(2)
    scene.until(lambda: not is_running(pid), "the end of the worker")
