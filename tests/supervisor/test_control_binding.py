"""Where the control socket is bound: by one supervisor of a name, and again where its path was removed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor import control
from outrider_supervisor.control import LOCK_PATIENCE
from outrider_supervisor.control_commands import Reload
from outrider_supervisor.operations import Outcome
from outrider_testing.control_stage import ControlStage, ask, run_control, until

# -- one supervisor of a name


def test_second_supervisor_of_a_name_is_told_who_runs(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        with pytest.raises(
            ConfigurationError, match=rf"^another supervisor named shop is running \(pid {os.getpid()}\); stop it"
        ):
            await stage.another().start()
        assert (await ask(stage.server.path))["name"] == "shop"

    run_control(tmp_path, scenario)


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        os.close(stage.directory.open(os.geteuid()))
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(stage.server.path))
        await stage.server.start()
        assert (await ask(stage.server.path))["name"] == "shop"

    run_control(tmp_path, scenario)


def test_supervisors_that_start_at_once_bind_one_after_the_other(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        lock = stage.directory.open(os.geteuid())
        fcntl.flock(lock, fcntl.LOCK_EX)
        pauses = 0

        async def pause(_seconds: float) -> None:
            nonlocal pauses
            pauses += 1
            os.close(lock)

        second = stage.another(pause)
        await second.start()
        assert pauses == 1
        with pytest.raises(ConfigurationError, match="another supervisor named shop is running"):
            await stage.server.start()
        await second.close()

    run_control(tmp_path, scenario)


def test_lock_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(stage: ControlStage) -> None:
        lock = stage.directory.open(os.geteuid())
        fcntl.flock(lock, fcntl.LOCK_EX)
        loop = asyncio.get_running_loop()
        start = loop.time()
        ahead = 0.0

        async def pause(_seconds: float) -> None:
            nonlocal ahead
            ahead += LOCK_PATIENCE

        with monkeypatch.context() as patch:
            patch.setattr(loop, "time", lambda: start + ahead)
            with pytest.raises(ConfigurationError, match="holds the lock"):
                await stage.another(pause).start()
        os.close(lock)

    run_control(tmp_path, scenario)


def test_file_in_the_place_of_the_socket_is_refused(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        os.close(stage.directory.open(os.geteuid()))
        stage.server.path.write_text("precious")
        with pytest.raises(ConfigurationError, match="exists and is no socket"):
            await stage.server.start()
        stage.server.path.unlink()

    run_control(tmp_path, scenario)


def test_socket_that_cannot_be_made_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> None:
        raise OSError(30, "Read-only file system")

    async def scenario(stage: ControlStage) -> None:
        monkeypatch.setattr(control, "remove_stale", refuse)
        with pytest.raises(ConfigurationError, match=r"can't bind .*shop\.sock \(Read-only file system\)"):
            await stage.server.start()

    run_control(tmp_path, scenario)


# -- a path that is gone


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked often whether the path is there."""
    monkeypatch.setattr(control, "LOOK_PERIOD", 0.001)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("gone", ["socket", "directory"])
def test_path_that_is_removed_is_bound_again(tmp_path: Path, gone: str) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        before, listening = stage.server.to_state(), stage.server._socket
        stage.server.path.unlink()
        if gone == "directory":
            stage.server.path.parent.rmdir()
        await until(lambda: stage.log.messages("warning"))
        assert (await ask(stage.server.path))["name"] == "shop"
        assert stage.server.to_state()["identity"] != before["identity"]
        assert stat.S_IMODE(stage.server.path.lstat().st_mode) == 0o600
        assert listening is not None
        assert listening.fileno() == -1

    stage = run_control(tmp_path, scenario, warnings=1)
    assert stage.log.messages("warning") == [f"{stage.server.path} was removed, and has been made again"]


@pytest.mark.usefixtures("often")
def test_path_that_is_another_supervisors_by_now_is_left_alone_and_told_of_once(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        stage.server.path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(stage.server.path))
            other.listen(500)  # it is looked at whether it lives
            tries: list[object] = []
            bind = stage.server._bind_alone

            def count_and_bind() -> Any:
                tries.append(None)
                return bind()

            stage.server._bind_alone = count_and_bind  # type: ignore[method-assign]  # to see that it is tried again
            await until(lambda: len(tries) > 2)
            identity = stage.server.path.lstat().st_ino
            await stage.server.close()
            assert stage.server.path.lstat().st_ino == identity
            stage.server.path.unlink()

    stage = run_control(tmp_path, scenario, warnings=1)
    (warning,) = stage.log.messages("warning")
    assert f"another supervisor named shop is running (pid {os.getpid()})" in warning
    assert "commands do not reach this supervisor" in warning


@pytest.mark.usefixtures("often")
def test_reader_of_events_does_not_keep_a_path_from_being_bound_again(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        reader, writer = await asyncio.open_unix_connection(stage.server.path)
        writer.write(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"event: status")
        stage.server.path.unlink()
        await until(lambda: stage.log.messages("warning"))
        assert (await ask(stage.server.path))["name"] == "shop"
        await reader.read()  # its end: it comes again, to the new one
        writer.close()

    run_control(tmp_path, scenario, warnings=1)


@pytest.mark.usefixtures("often")
def test_client_that_is_being_answered_is_not_cut_when_the_path_is_removed(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        lines = asyncio.create_task(asyncio.to_thread(lambda: list(stage.client.run(Reload()))))
        await stage.supervisor.has_command.wait()
        stage.server.path.unlink()
        timers = {stage.server._next_look}
        while len(timers) < 4:  # it has been looked again and again
            await asyncio.sleep(0)
            timers.add(stage.server._next_look)
        assert not stage.server.path.exists()
        stage.supervisor.operation.finish(Outcome(ok=True, code="done", message="generation 2"))
        assert (await lines)[-1]["message"] == "generation 2"
        await until(lambda: stage.log.messages("warning"))
        assert stage.server.path.exists()

    run_control(tmp_path, scenario, warnings=1)


@pytest.mark.usefixtures("often")
def test_socket_that_is_closed_on_purpose_is_not_bound_again(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        stage.server.path.unlink()
        await stage.server.suspend()
        assert stage.server._next_look is not None
        assert stage.server._next_look.cancelled()
        assert not stage.server.path.exists()

    run_control(tmp_path, scenario)
