"""What the supervisor does to the world."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from outrider.errors import ConfigurationError
from outrider.scoreboard import Scoreboard
from outrider_supervisor import actions
from outrider_supervisor.actions import READ_TIMEOUT, Action, Code, Level, Readiness
from outrider_supervisor.events import ConfigurationRead, ConfigurationRefused, Event, MasterExited, WorkerGone
from outrider_supervisor.journal import Journal
from outrider_supervisor.listeners import Listeners
from outrider_supervisor.messages import SetTarget
from outrider_supervisor.operations import Operation, Outcome
from outrider_supervisor.processes import MOST_COMPLAINT
from outrider_supervisor.report_inbox import ReportInbox
from outrider_supervisor.reports import Report, encode_report
from outrider_supervisor.seam import KEPT_MASTER_PIDS, Seam
from outrider_supervisor.service import Service, ServiceRefused
from outrider_testing.admin_stage import make_admin
from outrider_testing.fake_masters import FakeNotifier
from outrider_testing.fakes import ManualLoop
from outrider_testing.processes import is_running, read_process
from outrider_testing.services import make_service
from outrider_testing.waiting import until

T = TypeVar("T")


class Scene:
    """A seam whose child programs are shell scripts in the place of Python."""

    def __init__(self, loop: ManualLoop, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = loop
        self.directory = directory
        self.log = directory / "log"
        self.events: list[Event] = []
        self.notifier = FakeNotifier()
        self.journal = Journal()
        self.journal.configure(str(self.log), "info")
        self._monkeypatch = monkeypatch
        self.seam = loop.run_until_complete(self._make())
        descriptor = os.memfd_create("table")
        Scoreboard.create_in(descriptor)
        self.seam.open_shared(descriptor, ReportInbox(loop, self._keep))
        self.seam.admin = make_admin(self.journal)
        self.python("exit 0")

    async def _make(self) -> Seam:
        listeners = Listeners(lambda text: self.journal.write(Level.WARNING, text))
        environ = {"PATH": os.environ["PATH"], "LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())}
        return Seam(("app:app",), environ, self.journal, listeners, cast("Any", self.notifier), self.events.append)

    def _keep(self, report: Report) -> None:
        self.journal.keep_report(report.pid, report.text)

    def python(self, script: str) -> None:
        """What the next child does."""
        program = self.directory / "python"
        program.unlink(missing_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        self._monkeypatch.setattr(sys, "executable", str(program))

    def until(self, condition: Callable[[], T], what: str) -> T:
        def look() -> T:
            self.loop.run_ready()
            return condition()

        return until(look, what=what)

    def do(self, action: Action, event: type[T]) -> T:
        """Do something, and wait for the event that it leads to."""
        self.seam.do(action)
        found = self.until(lambda: [each for each in self.events if isinstance(each, event)], event.__name__)
        return found[0]

    def start(self, number: int = 1) -> int:
        """Start a master that sleeps."""
        self.python("exec sleep 60")
        service = make_service()
        self.loop.run_until_complete(self.seam.open_listeners(service))
        self.seam.do(actions.StartMaster(number, service, 1))
        return self.seam.master_pids[number]

    def close(self) -> None:
        self.seam.listeners.close_all()
        children = list(self.seam.children._known)
        for process in list(self.seam.children._known.values()):
            process.signal(signal.SIGKILL)
        self.loop.run_until_complete(self.seam.close())
        for pid in children:
            if read_process(pid) is not None:
                os.waitpid(pid, 0)
        self.journal.close()


@pytest.fixture
def scene(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(loop, tmp_path, monkeypatch)
    yield scene
    scene.close()


def quoted(text: str) -> str:
    return f"cat <<'END'\n{text}\nEND"


# -- reading the configuration


def test_configuration_is_read_by_a_child_and_its_listeners_opened(scene: Scene) -> None:
    service = make_service(notes=("a note",), errorlog=str(scene.log))
    scene.python(f'echo "$@" >{scene.directory}/argv\n{quoted(service.to_json())}')
    assert scene.do(actions.ReadConfiguration(), ConfigurationRead) == ConfigurationRead(service)
    assert (scene.directory / "argv").read_text() == "-P -m outrider_supervisor.read_config app:app\n"
    assert len(scene.seam.listeners.sockets(service)) == 1
    assert "[WARNING] a note" in scene.log.read_text()


def test_reader_of_the_configuration_does_not_hear_of_sockets_that_were_handed_over(scene: Scene) -> None:
    scene.seam.listeners.adopt(scene.seam.environ)
    scene.python(f"env >{scene.directory}/environ\n{quoted(make_service().to_json())}")
    scene.loop.run_until_complete(scene.seam.read_service())
    assert "LISTEN_" not in (scene.directory / "environ").read_text()


def refusal(scene: Scene) -> str:
    return scene.do(actions.ReadConfiguration(), ConfigurationRefused).reason


def test_refusal_is_a_sentence_and_the_traceback_is_its_details(scene: Scene) -> None:
    answer = ServiceRefused("KeyError: 'shop'", "Traceback: line 7\n").to_json()
    scene.python(f"echo printed >&2\n{quoted(answer)}\nexit 1")
    refused = scene.do(actions.ReadConfiguration(), ConfigurationRefused)
    assert refused == ConfigurationRefused("KeyError: 'shop'", "printed\nTraceback: line 7\n")
    assert "[ERROR] the configuration can't be used:\nprinted\nTraceback: line 7\n" in scene.log.read_text()


def test_refusal_without_details_is_left_to_the_machine_to_log(scene: Scene) -> None:
    scene.python(f"{quoted(ServiceRefused('workers is 0').to_json())}\nexit 1")
    assert scene.do(actions.ReadConfiguration(), ConfigurationRefused) == ConfigurationRefused("workers is 0")
    assert scene.log.read_text() == ""


def test_child_that_fails_is_a_refusal_in_its_words(scene: Scene) -> None:
    scene.python("echo 'no such setting' >&2; exit 1")
    assert refusal(scene) == "no such setting"


def test_child_that_fails_with_a_traceback_is_a_refusal_in_its_last_words(scene: Scene) -> None:
    scene.python("echo 'Traceback:' >&2; echo 'MemoryError' >&2; exit 1")
    refused = scene.do(actions.ReadConfiguration(), ConfigurationRefused)
    assert refused == ConfigurationRefused("MemoryError", "Traceback:\nMemoryError")


def test_child_that_fails_in_silence_is_a_refusal(scene: Scene) -> None:
    scene.python("exit 7")
    assert refusal(scene) == "reading the configuration failed with status 7"


def test_child_that_takes_too_long_is_killed_and_a_refusal(scene: Scene) -> None:
    scene.python("echo waiting for the network >&2; exec sleep 60")
    scene.seam.do(actions.ReadConfiguration())
    (pid,) = scene.until(lambda: list(scene.seam.children._known), "the child")
    scene.until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"), "the child's sleep")
    scene.loop.advance(READ_TIMEOUT)
    (refused,) = scene.until(lambda: scene.events, "the refusal")
    assert refused == ConfigurationRefused("reading the configuration took longer than 60 s", "waiting for the network")
    scene.until(lambda: not is_running(pid), "the end of the child")


@pytest.mark.parametrize("output", ["nonsense", "[]", "{}", '{"addresses": [], "notes": []}', "1"])
def test_child_that_writes_nonsense_is_a_refusal_with_advice(scene: Scene, output: str) -> None:
    scene.python(quoted(output))
    assert "run `outrider upgrade` first" in refusal(scene)


def test_field_of_a_newer_version_is_a_refusal_with_advice(scene: Scene) -> None:
    scene.python(quoted(make_service().to_json().replace("{", '{"new_setting": 1, ', 1)))
    reason = refusal(scene)
    assert "run `outrider upgrade` first" in reason
    assert "new_setting" in reason


def test_child_that_ends_without_an_answer_is_a_refusal(scene: Scene) -> None:
    assert refusal(scene) == "gunicorn.conf.py ended the process that read it; it must not call os._exit"


def test_configuration_that_forks_is_a_refusal(scene: Scene) -> None:
    answer = make_service().to_json()
    scene.python(quoted(answer + answer))
    assert refusal(scene).startswith("gunicorn.conf.py answered twice: it forked;")


def test_end_of_a_long_complaint_is_the_refusal(scene: Scene) -> None:
    scene.python("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo 'KeyError: 1' >&2; exit 1")
    reason = refusal(scene)
    assert reason.endswith("xKeyError: 1")
    assert len(reason) < MOST_COMPLAINT + 10


def test_log_of_a_configuration_counts_once_its_generation_is_kept(scene: Scene) -> None:
    """What is rolled back must not take the supervisor's log with it."""
    other = scene.directory / "other.log"
    service = make_service(errorlog=str(other))
    scene.python(quoted(service.to_json()))
    assert scene.do(actions.ReadConfiguration(), ConfigurationRead) == ConfigurationRead(service)
    assert not other.exists()
    scene.seam.do(actions.KeepListeners(service))
    scene.seam.do(actions.Log(Level.INFO, "from now on"))
    assert "from now on" in other.read_text()


def test_reload_comes_back_from_a_full_disk(scene: Scene) -> None:
    scene.journal.configure("/dev/full", "info")
    scene.journal.write(Level.INFO, "lost")
    service = make_service(errorlog=str(scene.log), notes=("a note",))
    scene.python(quoted(service.to_json()))
    assert scene.do(actions.ReadConfiguration(), ConfigurationRead) == ConfigurationRead(service)
    scene.seam.do(actions.KeepListeners(service))
    scene.seam.do(actions.Log(Level.INFO, "written"))
    assert "written" in scene.log.read_text()


def test_start_without_processes_is_an_error_of_the_configuration(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "posix_spawn", fail)
    with pytest.raises(ConfigurationError, match=r"\(Resource temporarily unavailable\); see the limits of processes"):
        scene.loop.run_until_complete(scene.seam.read_service())


def test_process_ids_of_past_masters_are_forgotten_and_of_living_ones_kept(scene: Scene) -> None:
    first = scene.start(1)
    past = dict.fromkeys(range(2, 2 + 2 * KEPT_MASTER_PIDS), 0)
    scene.seam.master_pids.update(past)
    scene.seam.adopt_master(scene.seam.masters[1])
    assert scene.seam.master_pids == {1: first} | dict(list(past.items())[-KEPT_MASTER_PIDS:])


def test_child_that_cannot_be_started_is_a_refusal(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "No such file or directory" in refusal(scene)


def test_listener_that_cannot_be_opened_is_a_refusal(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        scene.python(quoted(make_service(addresses=(taken.getsockname(),)).to_json()))
        assert "in use" in refusal(scene)


def test_listener_that_cannot_be_opened_leaves_the_admin_endpoint_as_it_was(scene: Scene) -> None:
    scene.loop.run_until_complete(scene.seam.admin.open(make_service(admin_bind="127.0.0.1:0")))
    before = scene.seam.admin.addresses
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = make_service(addresses=(taken.getsockname(),), admin_bind="localhost:0")
        scene.python(quoted(service.to_json()))
        assert "in use" in refusal(scene)
    assert scene.seam.admin.addresses == before
    scene.loop.run_until_complete(scene.seam.admin.close())


def test_admin_endpoint_that_cannot_be_opened_is_a_refusal(scene: Scene) -> None:
    scene.python(quoted(make_service(admin_bind="unix:/nowhere/admin.sock").to_json()))
    assert refusal(scene) == "admin_bind: unix:/nowhere/admin.sock: there is no directory /nowhere; create it first"
    assert scene.seam.admin.addresses == []


def test_exception_that_nobody_thought_of_is_a_refusal_and_logged(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_service: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(scene.seam, "open_listeners", fail)
    scene.python(quoted(make_service().to_json()))
    assert refusal(scene) == "ZeroDivisionError('oh')"
    assert "Traceback" in scene.log.read_text()


@pytest.mark.parametrize("kept", [None, make_service()])
def test_stop_ends_the_reading_lest_it_opens_listeners(kept: Service | None, scene: Scene) -> None:
    scene.python("exec sleep 60")
    scene.seam.do(actions.ReadConfiguration())
    (pid,) = scene.until(lambda: list(scene.seam.children._known), "the child")
    scene.seam.do(actions.KeepListeners(kept))
    scene.until(lambda: not is_running(pid), "the end of the child")
    assert scene.events == []


def test_close_ends_the_reading(scene: Scene) -> None:
    scene.python("exec sleep 60")
    scene.seam.do(actions.ReadConfiguration())
    (pid,) = scene.until(lambda: list(scene.seam.children._known), "the child")
    scene.loop.run_until_complete(scene.seam.close())
    scene.until(lambda: not is_running(pid), "the child's end")
    with contextlib.suppress(ChildProcessError):  # it was reaped in time
        os.waitpid(pid, 0)


# -- masters and workers


def test_master_is_started_with_the_listeners_of_its_service(scene: Scene) -> None:
    pid = scene.start(3)
    assert is_running(pid)
    assert scene.seam.masters[3].process.pid == pid


def test_master_that_cannot_be_started_has_exited(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service()
    scene.loop.run_until_complete(scene.seam.open_listeners(service))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    event = scene.do(actions.StartMaster(2, service, 1), MasterExited)
    assert event.number == 2
    assert event.how.startswith("could not be started: ")
    assert scene.seam.masters == {}


def test_master_whose_listeners_are_not_open_has_exited(scene: Scene) -> None:
    event = scene.do(actions.StartMaster(2, make_service(), 1), MasterExited)
    assert "is not open" in event.how


def test_message_for_a_master_that_is_gone_is_dropped(scene: Scene) -> None:
    scene.start()
    scene.seam.do(actions.Tell(1, SetTarget(2)))
    scene.seam.do(actions.Tell(2, SetTarget(2)))


def test_worker_without_master_is_retired(scene: Scene) -> None:
    worker = scene.seam.children.spawn(["/bin/sleep", "60"], {})
    scene.seam.workers.add(worker.pid, None)
    scene.seam.do(actions.Retire(worker.pid))
    scene.until(lambda: scene.events == [WorkerGone(worker.pid)], "the worker's end")
    assert worker.status == -signal.SIGTERM
    scene.seam.do(actions.Retire(worker.pid))


def test_what_is_left_of_a_generation_is_killed(scene: Scene) -> None:
    pid = scene.start()
    worker = scene.seam.children.spawn(["/bin/sleep", "60"], {})
    scene.seam.workers.add(worker.pid, pid)
    scene.seam.do(actions.Kill(1, (worker.pid, 1)))
    scene.until(lambda: len(scene.events) == 2, "both ends")
    assert set(scene.events) == {WorkerGone(worker.pid), MasterExited(1, "was killed by SIGKILL")}
    del scene.seam.masters[1]
    scene.seam.do(actions.Kill(1, ()))


# -- listeners and files


def test_listeners_of_the_current_service_are_kept_and_its_pidfile_placed(scene: Scene) -> None:
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


def test_pidfile_that_cannot_be_moved_is_a_warning(scene: Scene) -> None:
    scene.seam.do(actions.KeepListeners(make_service(pidfile="/nowhere/pid", errorlog=str(scene.log))))
    assert "[WARNING] pidfile /nowhere/pid cannot be written" in scene.log.read_text()


def test_listeners_of_another_supervisor_are_not_stored_again(scene: Scene) -> None:
    listeners = Listeners(lambda _text: None)
    scene.loop.run_until_complete(listeners.open(make_service()))
    scene.seam.take_listeners(listeners)
    scene.loop.run_until_complete(scene.seam.open_listeners(make_service()))
    assert scene.notifier.told == []


def test_listener_that_is_opened_again_is_stored_again(scene: Scene) -> None:
    service = make_service(addresses=(f"{scene.directory}/web.sock",))
    for _ in range(2):
        scene.loop.run_until_complete(scene.seam.open_listeners(service))
        scene.seam.do(actions.KeepListeners(None))
    assert [each.split()[0] for each in scene.notifier.told] == ["store", "forget"] * 2


def test_listener_that_the_manager_had_no_room_for_is_stored_later(scene: Scene) -> None:
    scene.notifier.is_deaf = True
    scene.loop.run_until_complete(scene.seam.open_listeners(make_service()))
    scene.notifier.is_deaf = False
    scene.seam.catch_up()
    scene.seam.catch_up()
    (told,) = scene.notifier.told
    assert told.startswith("store ")


# -- operations


def test_log_and_readiness_are_passed_on(scene: Scene) -> None:
    scene.seam.do(actions.Log(Level.ERROR, "oh"))
    assert "[ERROR] oh" in scene.log.read_text()
    for readiness in Readiness:
        scene.seam.do(actions.Notify(readiness))
    assert scene.notifier.told == ["ready", "reloading", "stopping"]


def finished(scene: Scene, action: actions.Finish) -> Outcome:
    operation = scene.seam.operations[action.operation] = Operation()
    scene.seam.do(action)
    assert operation.outcome is not None
    assert scene.seam.operations == {}
    return operation.outcome


def test_progress_is_for_who_waits(scene: Scene) -> None:
    operation = scene.seam.operations[5] = Operation()
    scene.seam.do(actions.Progress(5, "half"))
    scene.seam.do(actions.Progress(6, "nobody"))
    assert list(operation._unread) == ["half"]


def test_success_needs_no_last_words(scene: Scene) -> None:
    os.write(scene.seam.reports.write_end, next(encode_report(7, "ERROR", "oh", None)))
    outcome = finished(scene, actions.Finish(5, Code.DONE, "serving with 2 workers", 1, 7))
    assert outcome == Outcome(ok=True, code="done", message="serving with 2 workers")


def test_failure_has_the_last_words_of_the_blamed_worker(scene: Scene) -> None:
    for datagram in (*encode_report(7, "ERROR", "first", None), next(encode_report(7, "ERROR", "x" * 50_000, None))):
        os.write(scene.seam.reports.write_end, datagram)
    outcome = finished(scene, actions.Finish(5, Code.FAILED, "rolled back", 1, 7))
    assert (outcome.ok, outcome.code) == (False, "failed")
    assert outcome.details.startswith("first\nxxx")
    assert outcome.details.endswith("[the rest was lost]")


def test_failure_without_a_blamed_worker_has_the_masters_last_words(scene: Scene) -> None:
    pid = scene.start(2)
    os.write(scene.seam.reports.write_end, next(encode_report(pid, "ERROR", "cannot preload", None)))
    assert finished(scene, actions.Finish(5, Code.FAILED, "rolled back", 2)).details == "cannot preload"


def test_end_that_nobody_waits_for_is_nothing(scene: Scene) -> None:
    scene.seam.do(actions.Finish(5, Code.FAILED, "rolled back"))


def test_upgrade_is_begun(scene: Scene) -> None:
    begun: list[bool] = []

    async def upgrade() -> None:
        begun.append(True)

    scene.seam.upgrade = upgrade
    scene.seam.do(actions.Upgrade())
    scene.loop.run_ready()
    assert begun == [True]


def test_first_exit_counts(scene: Scene) -> None:
    scene.seam.do(actions.Exit(3))
    scene.seam.do(actions.Exit(0))
    assert scene.seam.ended.result() == 3


def test_what_is_no_action_is_an_error(scene: Scene) -> None:
    with pytest.raises(TypeError, match="not an action: 1"):
        scene.seam.do(cast("Any", 1))


def test_every_action_can_be_done() -> None:
    registry = vars(Seam)["do"].dispatcher.registry
    assert set(Action.__args__) <= registry.keys()


def test_read_service_passes_the_childs_words_on(scene: Scene) -> None:
    scene.python("echo oh >&2; exit 1")
    task = scene.loop.create_task(scene.seam.read_service())
    scene.until(task.done, "the child")
    with pytest.raises(ConfigurationError, match="oh"):
        task.result()
