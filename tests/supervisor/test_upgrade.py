"""What comes before another supervisor is in the place of this one. The integration tests have the real execve."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider_supervisor import control_commands as commands
from outrider_supervisor import upgrade
from outrider_supervisor.actions import Level
from outrider_supervisor.handled_signals import HANDLED_SIGNALS
from outrider_supervisor.messages import Stop
from outrider_supervisor.operations import Operation, Outcome
from outrider_supervisor.upgrade import CHECK_TIMEOUT, STATE_VERSION
from outrider_testing.fake_masters import SupervisorScene
from outrider_testing.fakes import ManualLoop
from outrider_testing.processes import is_running, read_process
from outrider_testing.upgrades import blocked, check_goes_on, descriptors_of, inheritable
from outrider_testing.waiting import until

GOES_ON = "the new supervisor does not start, the old one goes on: "


class Exec:
    """What os.execve was called with; it fails, as nothing else can be done in a test."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.state: dict[str, Any] = {}
        self.inheritable: set[int] = set()
        self.blocked: set[int] = set()

    def __call__(self, *call: Any) -> None:
        self.calls.append(call)
        descriptor = call[1][-1]
        self.state = upgrade.read(f"/proc/self/fd/{descriptor}")
        self.inheritable = inheritable()
        self.blocked = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        raise PermissionError(13, "Permission denied", call[0])


@pytest.fixture
def scene(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SupervisorScene]:
    """A supervisor that serves with one worker, and whose successor says in its check that it can take over."""
    scene = SupervisorScene(loop, tmp_path, monkeypatch)
    supervisor = scene.supervisor
    supervisor.seam.upgrade = lambda: upgrade.replace(supervisor)
    scene.start()
    python(tmp_path, monkeypatch, "exit 0")
    yield scene
    scene.close()
    assert not blocked()


def python(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """What the check does."""
    program = directory / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))


def begin(scene: SupervisorScene) -> Operation:
    return scene.supervisor.submit(commands.Upgrade())


def failure(scene: SupervisorScene) -> str:
    outcome = scene.outcome(begin(scene))
    assert (outcome.ok, outcome.code) == (False, "failed")
    check_goes_on(scene)
    return outcome.message.removeprefix(GOES_ON)


# -- it cannot take over


def test_check_that_fails_is_told_in_its_words(
    scene: SupervisorScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(tmp_path, monkeypatch, f"echo $@ >{tmp_path}/argv; echo 'ImportError: no' >&2; exit 1")
    assert failure(scene) == "ImportError: no"
    argv = (tmp_path / "argv").read_text()
    assert argv.startswith(f"-P -m outrider_supervisor.main --check /proc/{os.getpid()}/fd/")


def test_check_that_raises_is_told_in_a_sentence_and_its_traceback_beside_it(
    scene: SupervisorScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = "Traceback (most recent call last):\n  File main.py\nImportError: no"
    python(tmp_path, monkeypatch, f"cat >&2 <<'END'\n{trace}\nEND\nexit 1")
    outcome = scene.outcome(begin(scene))
    assert (outcome.message, outcome.details) == (f"{GOES_ON}ImportError: no", trace)
    assert scene.journal.events[-1]["text"].endswith("goes on: ImportError: no")
    assert trace in scene.logged()
    python(tmp_path, monkeypatch, "exit 7")
    assert scene.outcome(begin(scene)).details == ""


def test_state_of_this_supervisor_passes_the_check(scene: SupervisorScene) -> None:
    scene.supervisor.journal.write(Level.INFO, "hello")
    upgrade.check(json.loads(json.dumps(upgrade.save(scene.supervisor))))


def test_check_that_fails_in_silence_is_told(
    scene: SupervisorScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(tmp_path, monkeypatch, "exit 7")
    assert failure(scene) == "it exited with code 7"


def test_warning_of_a_check_that_succeeds_is_no_failure(
    scene: SupervisorScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(tmp_path, monkeypatch, "echo DeprecationWarning >&2")
    monkeypatch.setattr(os, "execve", Exec())
    assert scene.outcome(begin(scene)).ok


def test_check_that_hangs_is_killed(scene: SupervisorScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python(tmp_path, monkeypatch, "exec sleep 60")
    operation = begin(scene)
    known = set(scene.supervisor.seam.children._known)
    (pid,) = scene.until(lambda: set(scene.supervisor.seam.children._known) - known, "the check")
    scene.loop.advance(CHECK_TIMEOUT)
    assert scene.outcome(operation).message == f"{GOES_ON}it does not answer within 30 s"
    scene.until(lambda: not is_running(pid), "the end of the check")
    check_goes_on(scene)


def test_check_that_cannot_be_started_is_told(scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert failure(scene) == "/nowhere/python: No such file or directory"


def test_memory_file_that_cannot_be_made_is_told(scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", refuse)
        message = scene.outcome(begin(scene)).message
    assert message == f"{GOES_ON}[Errno 24] Too many open files"
    assert "Traceback" in scene.logged()
    check_goes_on(scene)


# -- execve


def test_exec_that_fails_leaves_the_old_supervisor_as_it_was(
    scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Exec()
    monkeypatch.setattr(os, "execve", call)
    before = inheritable()
    scene.notifier.told.clear()
    outcome = scene.outcome(begin(scene))
    assert outcome == Outcome(ok=True, code="done", message="the new supervisor takes over")
    scene.until(lambda: scene.supervisor.machine.operation is None, "the end of the upgrade")
    (program, arguments, environ), *_ = call.calls
    assert program == sys.executable
    assert arguments[:4] == [sys.executable, "-P", "-m", "outrider_supervisor.main"]
    assert environ == scene.environ
    assert f"extend {upgrade.EXEC_PATIENCE:g}" in scene.notifier.told
    assert call.blocked >= set(HANDLED_SIGNALS)
    state = int(arguments[4])
    assert call.inheritable == before | {state, *descriptors_of(call.state)}
    assert inheritable() == before
    assert "upgrade failed, this supervisor goes on: [Errno 13] Permission denied" in scene.logged()
    check_goes_on(scene)


def test_admin_endpoint_survives_an_exec_and_goes_on_where_that_fails(
    loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = SupervisorScene(loop, tmp_path, monkeypatch, admin_bind="127.0.0.1:0")
    supervisor = scene.supervisor
    supervisor.seam.upgrade = lambda: upgrade.replace(supervisor)
    scene.start()
    python(tmp_path, monkeypatch, "exit 0")
    call = Exec()
    monkeypatch.setattr(os, "execve", call)
    assert scene.outcome(begin(scene)).ok
    scene.until(lambda: supervisor.machine.operation is None, "the end of the upgrade")
    (endpoint,) = call.state["admin"]
    assert endpoint["descriptor"] in call.inheritable
    assert endpoint["descriptor"] not in inheritable()
    (server,) = (each.server for each in supervisor.seam.admin._open.values())
    assert server._serving is not None
    scene.close()


def test_signal_that_comes_meanwhile_is_not_lost(scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch) -> None:
    def exec_and_fail(*_call: Any) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "execve", exec_and_fail)
    scene.supervisor.listen_to_signals()
    begin(scene)
    scene.serve(2)
    assert scene.supervisor.machine.fleet.last_number == 2


def test_master_that_has_just_been_reaped_is_not_handed_over(
    scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, master = scene.supervisor, scene.masters[1].master
    scene.loop.remove_reader(master.process.pidfd)
    os.kill(master.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, master.process.pid, os.WEXITED | os.WNOWAIT)
    master.process.look()
    assert 1 in supervisor.seam.masters
    state = upgrade.save(supervisor)
    assert state["masters"] == []
    kept: set[int] = set()

    def refuse(*_call: Any) -> None:
        kept.update(inheritable())
        raise PermissionError

    monkeypatch.setattr(os, "execve", refuse)
    with pytest.raises(PermissionError):
        upgrade._become_new(supervisor, state["scoreboard"])
    assert state["scoreboard"] in kept
    assert master.channel.fileno() not in kept


# -- a stop comes in between


@pytest.mark.parametrize("fast", [False, True])
def test_stop_during_the_check_is_not_forgotten_by_a_new_supervisor(
    scene: SupervisorScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    python(tmp_path, monkeypatch, f"while ! [ -e {tmp_path}/go ]; do sleep 0.02; done")
    call = Exec()
    monkeypatch.setattr(os, "execve", call)
    operation = begin(scene)
    scene.loop.run_ready()
    scene.supervisor.submit(commands.StopService(fast))
    assert scene.outcome(operation).code == "stopping"
    (tmp_path / "go").touch()
    task = scene.supervisor.seam._upgrading
    assert task is not None
    scene.until(task.done, "the end of the upgrade")
    assert call.calls == []
    assert Stop(fast) in scene.masters[1].told()
    assert scene.get_status()["state"] == "stopping"


def test_stop_while_the_last_answers_are_given_is_not_forgotten(
    scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Exec()
    monkeypatch.setattr(os, "execve", call)
    supervisor = scene.supervisor
    suspend = supervisor.control_server.suspend

    async def suspend_and_stop() -> None:
        await suspend()
        supervisor.submit(commands.StopService(fast=False))

    monkeypatch.setattr(supervisor.control_server, "suspend", suspend_and_stop)
    operation = begin(scene)
    assert scene.outcome(operation).ok  # it was about to happen
    scene.until(lambda: supervisor.machine.is_stopping, "the stop")
    monkeypatch.setattr(supervisor.control_server, "suspend", suspend)
    assert call.calls == []
    assert scene.get_status()["state"] == "stopping"
    assert not blocked()


def test_control_socket_is_not_opened_again_when_all_is_over(
    scene: SupervisorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = scene.supervisor
    suspend = supervisor.control_server.suspend

    async def suspend_and_end() -> None:
        await suspend()
        supervisor.machine.agenda.is_stopping = True
        supervisor.seam.ended.set_result(0)

    started: list[bool] = []

    async def note_start() -> None:
        started.append(True)

    with monkeypatch.context() as patch:
        patch.setattr(supervisor.control_server, "suspend", suspend_and_end)
        patch.setattr(supervisor.control_server, "start", note_start)
        scene.finish(upgrade.replace(supervisor))
    assert started == []


def test_close_ends_the_check(scene: SupervisorScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python(tmp_path, monkeypatch, "exec sleep 60")
    known = set(scene.supervisor.seam.children._known)
    begin(scene)
    (pid,) = scene.until(lambda: set(scene.supervisor.seam.children._known) - known, "the check")
    scene.close_supervisor()
    until(lambda: not is_running(pid), what="the end of the check")
    if read_process(pid) is not None:
        os.waitpid(pid, 0)


# -- the state


def test_state_of_another_version_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text(json.dumps({"version": STATE_VERSION + 1}))
    with pytest.raises(ValueError, match="the state has version 2, this supervisor knows 1"):
        upgrade.read(str(path))


def test_shorter_state_replaces_a_longer_one() -> None:
    descriptor = os.memfd_create("state")
    for state in ({"version": STATE_VERSION, "text": "x" * 1000}, {"version": STATE_VERSION}):
        upgrade._write(descriptor, state)
        assert upgrade.read(f"/proc/self/fd/{descriptor}") == state
    os.close(descriptor)
