"""The supervisor process: signals, commands and processes on one side, the machine on the other."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor import control_commands as commands
from outrider_supervisor import events
from outrider_supervisor.actions import Log
from outrider_supervisor.events import Event
from outrider_supervisor.intents import Reload
from outrider_supervisor.messages import (
    MasterFailed,
    ReopenLogs,
    Replace,
    SetTarget,
    Stop,
    WorkerReady,
    WorkerRetiring,
)
from outrider_supervisor.service import Service
from outrider_supervisor.supervisor import BUSY_TICK, CALM_TICK, DUMP_PATIENCE, HANDLED_SIGNALS, REPLACED
from outrider_testing.fake_masters import SupervisorScene
from outrider_testing.fakes import ManualLoop
from outrider_testing.processes import is_running
from outrider_testing.services import make_service


@pytest.fixture
def scene(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SupervisorScene]:
    scene = SupervisorScene(loop, tmp_path, monkeypatch)
    yield scene
    scene.close()


def running(scene: SupervisorScene) -> asyncio.Task[int]:
    """Run the supervisor, with signals, until one generation serves."""
    task = scene.loop.create_task(scene.supervisor.run(scene.supervisor.start()))
    scene.serve(1)
    return task


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


def end_generation(scene: SupervisorScene, number: int) -> None:
    """The master and its workers do what they are told."""
    for pid in list(scene.supervisor.machine.fleet.generations[number].workers):
        scene.end_worker(number, pid)
    os.kill(scene.masters[number].pid, signal.SIGKILL)
    scene.until(lambda: number not in scene.supervisor.machine.fleet.generations, "the end of a generation")


# -- start and end


def test_start_leads_to_a_generation_that_serves(scene: SupervisorScene) -> None:
    scene.start()
    machine = scene.supervisor.machine
    assert machine.state == "serving"
    assert scene.masters[1].order.workers == 1
    assert "supervisor of shop" in scene.logged()
    assert scene.titles[-1] == "outrider: supervisor [shop] serving"
    assert "ready" in scene.notifier.told
    assert scene.notifier.told[-1] == "serving: generation 1, 1 of 1 worker"
    assert scene.supervisor.seam.pidfile.path is None


def test_end_leaves_nothing(scene: SupervisorScene) -> None:
    pidfile = scene.log.with_name("pid")
    scene.service = make_service(pidfile=str(pidfile), errorlog=str(scene.log), canary=False, workers=1)
    task = running(scene)
    assert pidfile.exists()
    kill(signal.SIGTERM)
    scene.until(lambda: scene.supervisor.machine.is_stopping, "the stop")
    assert Stop(fast=False) in scene.masters[1].told()
    end_generation(scene, 1)
    scene.until(task.done, "the end")
    assert task.result() == 0
    assert scene.logged().endswith("stopped\n")
    scene.close_supervisor()
    assert not pidfile.exists()
    assert not scene.socket.exists()
    assert scene.notifier.told[-1] == "close"


def test_second_term_stops_at_once(scene: SupervisorScene) -> None:
    task = running(scene)
    for _ in range(2):
        kill(signal.SIGTERM)
        scene.loop.run_ready()
    assert [each for each in scene.masters[1].told() if isinstance(each, Stop)] == [Stop(fast=False), Stop(fast=True)]
    end_generation(scene, 1)
    scene.until(task.done, "the end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_stop_at_once(scene: SupervisorScene, number: int) -> None:
    task = running(scene)
    kill(number)
    scene.loop.run_ready()
    assert Stop(fast=True) in scene.masters[1].told()
    end_generation(scene, 1)
    scene.until(task.done, "the end")


@pytest.fixture
def restored_signals() -> Iterator[None]:
    """The test changes what signals do."""
    before = {number: signal.getsignal(number) for number in HANDLED_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("restored_signals")
def test_signal_after_the_end_is_ignored(scene: SupervisorScene) -> None:
    scene.supervisor.listen_to_signals()
    scene.supervisor.ignore_signals()
    for number in HANDLED_SIGNALS:
        kill(number)
    assert {signal.getsignal(number) for number in HANDLED_SIGNALS if number != signal.SIGCHLD} == {signal.SIG_IGN}
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL  # children are reaped on
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(HANDLED_SIGNALS)
    scene.loop.run_ready()
    assert scene.supervisor.machine.waiting == []


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
    kill(signal.SIGTERM)
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
    assert "unix:/gone: kept by the service manager in vain" in scene.logged()
    assert "[WARNING] a note" in scene.logged()


# -- signals


def test_hup_reloads(scene: SupervisorScene) -> None:
    running(scene)
    kill(signal.SIGHUP)
    scene.serve(2)
    scene.until(lambda: scene.supervisor.machine.operation is None, "the end of the reload")
    assert scene.notifier.told.count("reloading") == 1
    assert Stop(fast=False) in scene.masters[1].told()
    end_generation(scene, 1)


def test_ttin_and_ttou_scale(scene: SupervisorScene) -> None:
    running(scene)
    kill(signal.SIGTTIN)
    scene.loop.run_ready()
    assert SetTarget(2) in scene.masters[1].told()
    pid = scene.spawn(1)
    scene.masters[1].say(WorkerReady(pid))
    scene.until(lambda: scene.supervisor.machine.operation is None, "the second worker")
    assert scene.notifier.told[-1] == "serving: generation 1, 2 of 2 workers"
    kill(signal.SIGTTOU)
    scene.loop.run_ready()
    assert SetTarget(1) in scene.masters[1].told()


def test_usr1_reopens_the_logs_of_all(scene: SupervisorScene) -> None:
    running(scene)
    scene.log.rename(scene.log.with_suffix(".1"))
    kill(signal.SIGUSR1)
    scene.loop.run_ready()
    assert "log files reopened" in scene.logged()
    assert ReopenLogs() in scene.masters[1].told()


def test_usr2_upgrades(scene: SupervisorScene) -> None:
    called: list[bool] = []

    async def upgrade() -> None:
        called.append(True)

    scene.supervisor.seam.upgrade = upgrade
    running(scene)
    kill(signal.SIGUSR2)
    scene.loop.run_ready()
    assert called == [True]


def test_winch_is_ignored(scene: SupervisorScene) -> None:
    running(scene)
    before = scene.logged()
    kill(signal.SIGWINCH)
    scene.loop.run_ready()
    assert scene.logged() == before


def test_strangers_are_reaped_on_chld(scene: SupervisorScene) -> None:
    running(scene)
    stranger = os.posix_spawn("/bin/true", ["true"], {})
    scene.until(lambda: not Path(f"/proc/{stranger}").exists(), "a reaped stranger")


def test_signals_that_were_blocked_are_let_through(scene: SupervisorScene) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    scene.supervisor.listen_to_signals()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(HANDLED_SIGNALS)


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


def test_end_of_a_master_is_told_to_the_machine_and_made_up_for(scene: SupervisorScene) -> None:
    scene.start()
    os.kill(scene.masters[1].pid, signal.SIGKILL)
    scene.serve(2)
    assert "the master of generation 1 was killed by SIGKILL" in scene.logged()
    assert 1 not in scene.supervisor.seam.masters


# -- commands


def test_scale_stop_recycle_and_upgrade_reach_the_machine(scene: SupervisorScene) -> None:
    (first,) = scene.start()
    master = scene.masters[1]

    async def upgrade() -> None:
        scene.supervisor.enqueue(events.UpgradeFailed("not today"))

    scene.supervisor.seam.upgrade = upgrade

    scale = scene.supervisor.submit(commands.Scale(2))
    scene.loop.run_ready()
    assert SetTarget(2) in master.told()
    second = scene.spawn(1)
    master.say(WorkerReady(second))
    assert scene.outcome(scale).message == "serving with 2 workers"

    recycle = scene.supervisor.submit(commands.Recycle(first))
    scene.until(lambda: Replace(first) in master.told(), "the order to replace a worker")
    third = scene.spawn(1)
    master.say(WorkerReady(third))
    master.say(WorkerRetiring(first))
    scene.end_worker(1, first)
    assert scene.outcome(recycle).ok

    assert "not today" in scene.outcome(scene.supervisor.submit(commands.Upgrade())).message

    stop = scene.supervisor.submit(commands.StopService(fast=True))
    scene.loop.run_ready()
    assert Stop(fast=True) in master.told()
    end_generation(scene, 1)
    assert scene.outcome(stop).ok
    assert scene.supervisor.seam.ended.result() == 0


def test_status_shows_operation_progress_and_workers(scene: SupervisorScene) -> None:
    (pid,) = scene.start()
    status = scene.get_status()
    assert status["operation"] is None
    assert [each["pid"] for each in status["generations"][0]["workers"]] == [pid]
    reload = scene.supervisor.submit(commands.Reload())
    waiting = scene.supervisor.submit(commands.Scale(3))
    scene.until(lambda: 2 in scene.masters, "the second generation")
    operation = scene.supervisor.status()["operation"]
    assert operation["name"] == "reload"
    assert operation["progress"] == "generation 2: starting"
    assert isinstance(scene.supervisor.machine.operation, Reload)
    scene.serve(2)
    assert scene.outcome(reload).ok
    assert scene.supervisor.status()["operation"]["progress"] == ""
    assert waiting.outcome is None


def test_finish_of_an_upgrade_is_told_before_it_happens(scene: SupervisorScene) -> None:
    async def upgrade() -> None:
        scene.supervisor.finish_upgrade()

    scene.start()
    scene.supervisor.finish_upgrade()  # nothing is under way
    scene.supervisor.seam.upgrade = upgrade
    outcome = scene.outcome(scene.supervisor.submit(commands.Upgrade()))
    assert (outcome.ok, outcome.message) == (True, "the new supervisor takes over")


def test_command_that_waits_for_an_upgrade_is_told_to_be_asked_again(scene: SupervisorScene) -> None:
    told: list[bool] = []

    async def upgrade() -> None:
        scene.supervisor.finish_upgrade()
        told.append(True)

    scene.start()
    scene.supervisor.seam.upgrade = upgrade
    scene.supervisor.submit(commands.Upgrade())
    waiting = [scene.supervisor.submit(each) for each in (commands.Reload(), commands.Scale(3))]
    scene.supervisor.enqueue(events.ScaleAsked(0, 1, relative=True))  # a signal's: the new supervisor does it
    waiting.append(scene.supervisor.submit(commands.Scale(4)))
    scene.until(lambda: told, "the upgrade")
    assert [scene.outcome(each).code for each in waiting] == ["refused", "superseded", "refused"]
    assert scene.outcome(waiting[0]) == REPLACED
    assert scene.supervisor.machine.waiting == []
    assert scene.supervisor.seam.operations == {}


def test_signal_that_waits_for_an_upgrade_goes_on_waiting(scene: SupervisorScene) -> None:
    scene.start()

    async def upgrade() -> None:
        """It takes a while."""

    scene.supervisor.seam.upgrade = upgrade
    scene.supervisor.submit(commands.Upgrade())
    scene.supervisor.enqueue(events.ReloadAsked(0, canary=True))
    scene.supervisor.finish_upgrade()
    assert scene.supervisor.machine.waiting == [Reload(0, canary=True)]


def test_command_while_another_supervisor_takes_over_is_refused_but_a_stop(scene: SupervisorScene) -> None:
    scene.start()
    scene.supervisor.is_replaced = True
    assert scene.outcome(scene.supervisor.submit(commands.Reload())) == REPLACED
    scene.supervisor.submit(commands.StopService())
    assert scene.supervisor.machine.is_stopping


# -- last words


def test_failed_reload_ends_with_the_last_words_of_the_blamed_worker(scene: SupervisorScene) -> None:
    scene.start()
    reload = scene.supervisor.submit(commands.Reload())
    scene.until(lambda: 2 in scene.masters, "the second generation")
    pid = scene.spawn(2)
    scene.report(pid, "Traceback: no such table")
    scene.report(pid, "x" * 50_000, parts=1)
    scene.end_worker(2, pid, expected=False)
    scene.until(scene.masters[2].told, "the order to stop")
    os.kill(scene.masters[2].pid, signal.SIGKILL)
    outcome = scene.outcome(reload)
    assert not outcome.ok
    assert f"rolled back: worker {pid} was killed by SIGKILL" in outcome.message
    assert outcome.details.startswith("Traceback: no such table\nxxx")
    assert outcome.details.endswith("[the rest was lost]")


def test_failed_reload_ends_with_the_last_words_of_the_master_else(scene: SupervisorScene) -> None:
    scene.start()
    reload = scene.supervisor.submit(commands.Reload())
    scene.until(lambda: 2 in scene.masters, "the second generation")
    scene.report(scene.masters[2].pid, "cannot preload")
    scene.masters[2].say(MasterFailed("the application cannot be imported", ""))
    scene.until(scene.masters[2].told, "the order to stop")
    os.kill(scene.masters[2].pid, signal.SIGKILL)
    outcome = scene.outcome(reload)
    assert (outcome.ok, outcome.details) == (False, "cannot preload")


def test_failed_reload_ends_with_what_its_master_failed_with(scene: SupervisorScene) -> None:
    scene.start()
    reload = scene.supervisor.submit(commands.Reload())
    scene.until(lambda: 2 in scene.masters, "the second generation")
    scene.masters[2].say(MasterFailed("KeyError: 'shop'", "Traceback: line 7"))
    scene.until(scene.masters[2].told, "the order to stop")
    os.kill(scene.masters[2].pid, signal.SIGKILL)
    outcome = scene.outcome(reload)
    assert "rolled back: KeyError: 'shop'" in outcome.message
    assert outcome.details == "Traceback: line 7"


# -- dumps


@pytest.fixture
def patient(scene: SupervisorScene) -> int:
    """A worker that survives SIGUSR2."""
    (pid,) = scene.start()
    worker = scene.supervisor.seam.workers._workers[pid]
    vars(worker)["signal"] = lambda _number: True
    return pid


def test_dump_is_what_the_worker_reports(scene: SupervisorScene, patient: int) -> None:
    operation = scene.supervisor.submit(commands.Dump(patient))
    again = scene.supervisor.submit(commands.Dump(patient))
    scene.report(patient, "Task 1\nTask 2", "dump")
    outcome = scene.outcome(operation)
    assert (outcome.ok, outcome.message, outcome.details) == (True, f"worker {patient}", "Task 1\nTask 2")
    assert "is writing its stacks already" in scene.outcome(again).message
    (worker,) = scene.supervisor.status()["generations"][0]["workers"]
    assert worker["last_dump"] > 0


def test_dump_that_nobody_asked_for_shows_in_the_status(scene: SupervisorScene, patient: int) -> None:
    operation = scene.supervisor.submit(commands.Dump(patient))
    scene.report(patient, "asked for", "dump")
    scene.outcome(operation)
    scene.report(patient, "where it hung", "dump")
    scene.until(lambda: scene.supervisor.status()["events"][-1]["text"] == "where it hung", "the dump")
    assert scene.supervisor.status()["events"][-1]["level"] == "error"
    assert "asked for" not in [event["text"] for event in scene.supervisor.status()["events"]]
    assert "where it hung" not in scene.logged()  # the worker has logged it itself


def test_dump_of_a_silent_worker_is_given_up(scene: SupervisorScene, patient: int) -> None:
    operation = scene.supervisor.submit(commands.Dump(patient))
    scene.loop.advance(DUMP_PATIENCE)
    outcome = scene.outcome(operation)
    assert (outcome.ok, outcome.code) == (False, "failed")
    assert "no answer within 5 s" in outcome.message


def test_dump_has_the_whole_time_also_after_another_one(scene: SupervisorScene, patient: int) -> None:
    first = scene.supervisor.submit(commands.Dump(patient))
    scene.report(patient, "one", "dump")
    assert scene.outcome(first).ok
    scene.loop.advance(DUMP_PATIENCE - 1)
    second = scene.supervisor.submit(commands.Dump(patient))
    scene.loop.advance(2.0)
    assert second.outcome is None
    scene.report(patient, "two", "dump")
    assert scene.outcome(second).details == "two"


@pytest.mark.usefixtures("patient")
def test_dump_of_an_unknown_worker_is_refused(scene: SupervisorScene) -> None:
    outcome = scene.outcome(scene.supervisor.submit(commands.Dump(os.getpid())))
    assert (outcome.ok, outcome.code) == (False, "refused")
    assert f"{os.getpid()} is no worker" in outcome.message


def test_dump_of_another_class_is_refused(scene: SupervisorScene) -> None:
    scene.service = make_service(reports_state=False, worker_class="sync", workers=1, errorlog=str(scene.log))
    (pid,) = scene.start()
    outcome = scene.outcome(scene.supervisor.submit(commands.Dump(pid)))
    assert "workers of sync can't dump their stacks" in outcome.message
    assert is_running(pid)


def test_dump_of_a_worker_that_has_ended_fails_at_once(scene: SupervisorScene) -> None:
    (pid,) = scene.start()
    worker = scene.supervisor.seam.workers._workers[pid]
    vars(worker)["signal"] = lambda _number: False
    outcome = scene.outcome(scene.supervisor.submit(commands.Dump(pid)))
    assert outcome.message == f"worker {pid}: the worker has ended"


def test_dump_of_a_worker_that_dies_of_it_fails_with_its_end(scene: SupervisorScene, patient: int) -> None:
    operation = scene.supervisor.submit(commands.Dump(patient))
    os.kill(patient, signal.SIGKILL)
    assert "the worker has ended" in scene.outcome(operation).message
