"""What clients ask of the supervisor process, and what they are told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_supervisor import control_commands as commands
from outrider_supervisor import events
from outrider_supervisor.dumps import DUMP_PATIENCE
from outrider_supervisor.intents import Reload, Scale
from outrider_supervisor.messages import MasterFailed, Replace, SetTarget, Stop, WorkerReady, WorkerRetiring
from outrider_supervisor.supervisor import REPLACED
from outrider_testing.fake_masters import SupervisorScene
from outrider_testing.fakes import ManualLoop
from outrider_testing.processes import is_running
from outrider_testing.services import make_service


@pytest.fixture
def scene(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SupervisorScene]:
    scene = SupervisorScene(loop, tmp_path, monkeypatch)
    yield scene
    scene.close()


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
    scene.end_generation(1)
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
    assert operation is not None
    assert operation["name"] == "reload"
    assert operation["progress"] == "generation 2: starting"
    assert isinstance(scene.supervisor.machine.operation, Reload)
    scene.serve(2)
    assert scene.outcome(reload).ok
    operation = scene.supervisor.status()["operation"]
    assert operation is not None
    assert operation["progress"] == ""
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
    assert scene.supervisor.machine.waiting == (Scale(0, 4),)
    assert scene.supervisor.seam.operations == {}


def test_signal_that_waits_for_an_upgrade_goes_on_waiting(scene: SupervisorScene) -> None:
    scene.start()

    async def upgrade() -> None:
        """It takes a while."""

    scene.supervisor.seam.upgrade = upgrade
    scene.supervisor.submit(commands.Upgrade())
    scene.supervisor.enqueue(events.ReloadAsked(0, canary=True))
    scene.supervisor.finish_upgrade()
    assert scene.supervisor.machine.waiting == (Reload(0, canary=True),)


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
    assert worker["last_dump"]


def test_dump_that_nobody_asked_for_shows_in_the_status(scene: SupervisorScene, patient: int) -> None:
    operation = scene.supervisor.submit(commands.Dump(patient))
    scene.report(patient, "asked for", "dump")
    scene.outcome(operation)
    scene.report(patient, "where it hung", "dump")
    scene.until(lambda: scene.supervisor.status()["events"][-1]["text"] == "where it hung", "the dump")
    assert scene.supervisor.status()["events"][-1]["level"] == "error"
    assert "asked for" not in [event["text"] for event in scene.supervisor.status()["events"]]
    assert "where it hung" not in scene.logged()  # the worker has logged it itself


def test_stall_that_a_worker_reports_shows_in_the_status(scene: SupervisorScene, patient: int) -> None:
    entry = {"frame": "shop.pay shop.py:7", "hangs_in": "", "count": 1, "seconds": 1.0, "longest": 1.0, "stack": "here"}
    scene.report(patient, "Event loop blocked for 1.0 s", "stall", data=[entry])
    scene.until(lambda: scene.supervisor.status()["stalls"], "the stall")
    (stall,) = scene.supervisor.status()["stalls"]
    assert entry.items() <= stall.items()
    assert stall["worker"] == patient
    assert abs(stall["last"] - time.time()) < 60
    assert "Event loop blocked" in scene.supervisor.journal.last_words(patient)


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
