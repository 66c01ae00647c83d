"""What the supervisor does to the world."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor import actions
from outrider_supervisor.actions import Action, Code, Level, Readiness
from outrider_supervisor.events import MasterExited, WorkerGone
from outrider_supervisor.listeners import Listeners
from outrider_supervisor.messages import SetTarget
from outrider_supervisor.operations import Operation, Outcome
from outrider_supervisor.reports import encode_report
from outrider_supervisor.seam import Seam
from outrider_testing.fakes import ManualLoop
from outrider_testing.processes import is_running
from outrider_testing.seam_scene import SeamScene
from outrider_testing.services import make_service


@pytest.fixture
def scene(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeamScene]:
    scene = SeamScene(loop, tmp_path, monkeypatch)
    yield scene
    scene.close()


# -- masters and workers


def test_master_is_started_with_the_listeners_of_its_service(scene: SeamScene) -> None:
    pid = scene.start(3)
    assert is_running(pid)
    assert scene.seam.masters[3].process.pid == pid


def test_master_that_cannot_be_started_has_exited(scene: SeamScene, monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service()
    scene.loop.run_until_complete(scene.seam.open_listeners(service))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    event = scene.do(actions.StartMaster(2, service, 1), MasterExited)
    assert event.number == 2
    assert event.how.startswith("could not be started: ")
    assert scene.seam.masters == {}


def test_master_whose_listeners_are_not_open_has_exited(scene: SeamScene) -> None:
    event = scene.do(actions.StartMaster(2, make_service(), 1), MasterExited)
    assert "is not open" in event.how


def test_message_for_a_master_that_is_gone_is_dropped(scene: SeamScene) -> None:
    scene.start()
    scene.seam.do(actions.Tell(1, SetTarget(2)))
    scene.seam.do(actions.Tell(2, SetTarget(2)))


def test_worker_without_master_is_retired(scene: SeamScene) -> None:
    worker = scene.seam.children.spawn(["/bin/sleep", "60"], {})
    scene.seam.workers.add(worker.pid, None)
    scene.seam.do(actions.Retire(worker.pid))
    scene.until(lambda: scene.events == [WorkerGone(worker.pid)], "the worker's end")
    assert worker.status == -signal.SIGTERM
    scene.seam.do(actions.Retire(worker.pid))


def test_what_is_left_of_a_generation_is_killed(scene: SeamScene) -> None:
    pid = scene.start()
    worker = scene.seam.children.spawn(["/bin/sleep", "60"], {})
    scene.seam.workers.add(worker.pid, pid)
    scene.seam.do(actions.Kill(1, (worker.pid, 1)))
    scene.until(lambda: len(scene.events) == 2, "both ends")
    assert set(scene.events) == {WorkerGone(worker.pid), MasterExited(1, "was killed by SIGKILL")}
    del scene.seam.masters[1]
    scene.seam.do(actions.Kill(1, ()))


# -- listeners and files


def test_listeners_of_the_current_service_are_kept_and_its_pidfile_placed(scene: SeamScene) -> None:
    old, new = make_service(addresses=((("127.0.0.1"), 0),)), make_service(addresses=(("127.0.0.2", 0),))
    pidfile = scene.directory / "pid"
    for service in (old, new):
        scene.loop.run_until_complete(scene.seam.open_listeners(service))
    assert len(scene.seam.listeners.descriptions()) == 2
    stored = [each for each in scene.notifier.told if each.startswith("store ")]
    assert len(stored) == 2
    scene.seam.do(actions.KeepListeners(make_service(addresses=(("127.0.0.2", 0),), pidfile=str(pidfile))))
    (description,) = scene.seam.listeners.descriptions()
    assert description.startswith("127.0.0.2") or "127.0.0.2" in description
    assert pidfile.read_text() == f"{os.getpid()}\n"
    assert scene.notifier.told[-1] == stored[0].replace("store", "forget")
    scene.seam.do(actions.KeepListeners(None))
    assert scene.seam.listeners.descriptions() == []
    assert scene.notifier.told[-1] == stored[1].replace("store", "forget")


def test_pidfile_that_cannot_be_moved_is_a_warning(scene: SeamScene) -> None:
    scene.seam.do(actions.KeepListeners(make_service(pidfile="/nowhere/pid", errorlog=str(scene.log))))
    assert "[WARNING] pidfile /nowhere/pid cannot be written" in scene.log.read_text()


def test_listeners_of_another_supervisor_are_not_stored_again(scene: SeamScene) -> None:
    listeners = Listeners(lambda _text: None)
    scene.loop.run_until_complete(listeners.open(make_service()))
    scene.seam.take_listeners(listeners)
    scene.loop.run_until_complete(scene.seam.open_listeners(make_service()))
    assert scene.notifier.told == []


def test_listener_that_is_opened_again_is_stored_again(scene: SeamScene) -> None:
    service = make_service(addresses=(f"{scene.directory}/web.sock",))
    for _ in range(2):
        scene.loop.run_until_complete(scene.seam.open_listeners(service))
        scene.seam.do(actions.KeepListeners(None))
    assert [each.split()[0] for each in scene.notifier.told] == ["store", "forget"] * 2


def test_listener_that_the_manager_had_no_room_for_is_stored_later(scene: SeamScene) -> None:
    scene.notifier.is_deaf = True
    scene.loop.run_until_complete(scene.seam.open_listeners(make_service()))
    scene.notifier.is_deaf = False
    scene.seam.catch_up()
    scene.seam.catch_up()
    (told,) = scene.notifier.told
    assert told.startswith("store ")


# -- operations


def test_log_and_readiness_are_passed_on(scene: SeamScene) -> None:
    scene.seam.do(actions.Log(Level.ERROR, "oh"))
    assert "[ERROR] oh" in scene.log.read_text()
    for readiness in Readiness:
        scene.seam.do(actions.Notify(readiness))
    assert scene.notifier.told == ["ready", "reloading", "stopping"]


def finished(scene: SeamScene, action: actions.Finish) -> Outcome:
    operation = scene.seam.operations[action.operation] = Operation()
    scene.seam.do(action)
    assert operation.outcome is not None
    assert scene.seam.operations == {}
    return operation.outcome


def test_progress_is_for_who_waits(scene: SeamScene) -> None:
    operation = scene.seam.operations[5] = Operation()
    scene.seam.do(actions.Progress(5, "half"))
    scene.seam.do(actions.Progress(6, "nobody"))
    assert list(operation._unread) == ["half"]


def test_success_needs_no_last_words(scene: SeamScene) -> None:
    os.write(scene.seam.reports.write_end, next(encode_report(7, "ERROR", "oh", None)))
    outcome = finished(scene, actions.Finish(5, Code.DONE, "serving with 2 workers", 1, 7))
    assert outcome == Outcome(ok=True, code="done", message="serving with 2 workers")


def test_failure_has_the_last_words_of_the_blamed_worker(scene: SeamScene) -> None:
    for datagram in (*encode_report(7, "ERROR", "first", None), next(encode_report(7, "ERROR", "x" * 50_000, None))):
        os.write(scene.seam.reports.write_end, datagram)
    outcome = finished(scene, actions.Finish(5, Code.FAILED, "rolled back", 1, 7))
    assert (outcome.ok, outcome.code) == (False, "failed")
    assert outcome.details.startswith("first\nxxx")
    assert outcome.details.endswith("[the rest was lost]")


def test_failure_without_a_blamed_worker_has_the_masters_last_words(scene: SeamScene) -> None:
    pid = scene.start(2)
    os.write(scene.seam.reports.write_end, next(encode_report(pid, "ERROR", "cannot preload", None)))
    assert finished(scene, actions.Finish(5, Code.FAILED, "rolled back", 2)).details == "cannot preload"


def test_end_that_nobody_waits_for_is_nothing(scene: SeamScene) -> None:
    scene.seam.do(actions.Finish(5, Code.FAILED, "rolled back"))


def test_upgrade_is_begun(scene: SeamScene) -> None:
    begun: list[bool] = []

    async def upgrade() -> None:
        begun.append(True)

    scene.seam.upgrade = upgrade
    scene.seam.do(actions.Upgrade())
    scene.loop.run_ready()
    assert begun == [True]


def test_first_exit_counts(scene: SeamScene) -> None:
    scene.seam.do(actions.Exit(3))
    scene.seam.do(actions.Exit(0))
    assert scene.seam.ended.result() == 3


def test_what_is_no_action_is_an_error(scene: SeamScene) -> None:
    with pytest.raises(TypeError, match="not an action: 1"):
        scene.seam.do(cast("Any", 1))


def test_every_action_can_be_done() -> None:
    registry = vars(Seam)["do"].dispatcher.registry
    assert set(Action.__args__) <= registry.keys()


def test_read_service_passes_the_childs_words_on(scene: SeamScene) -> None:
    scene.python("echo oh >&2; exit 1")
    task = scene.loop.create_task(scene.seam.read_service())
    scene.until(task.done, "the child")
    with pytest.raises(ConfigurationError, match="oh"):
        task.result()
