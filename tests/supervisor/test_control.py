"""The control socket, served by the real server on a real unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import ConfigurationError
from outrider.server import Server
from outrider_supervisor import control
from outrider_supervisor.client import ControlClient
from outrider_supervisor.control import LOCK_PATIENCE, ControlServer
from outrider_supervisor.control_app import ControlApp
from outrider_supervisor.control_commands import Command, Reload
from outrider_supervisor.operations import Operation, Outcome
from outrider_supervisor.paths import Directory
from outrider_testing.fakes import FakeLog

PATIENCE = 20.0


class Supervisor:
    """Takes commands and leaves their operations to the test."""

    def __init__(self) -> None:
        self.operation = Operation()
        self.has_command = asyncio.Event()

    def status(self) -> dict[str, Any]:
        return {"name": "shop", "pid": os.getpid()}

    def submit(self, command: Command) -> Operation:
        self.has_command.set()
        return self.operation


class Stage:
    """A control socket in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.log = FakeLog()
        self.supervisor = Supervisor()
        self.app = ControlApp(self.supervisor)
        self.directory = Directory(directory)
        self.server = ControlServer(self.directory, "shop", self.app, self.log)
        self.client = ControlClient(self.server.path)

    def another(self, pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> ControlServer:
        return ControlServer(self.directory, "shop", self.app, self.log, pause)


def run(directory: Path, scenario: Callable[[Stage], Awaitable[None]]) -> Stage:
    """Run a scenario; nothing is logged as a warning or an error, and no path is left."""

    async def main() -> Stage:
        stage = Stage(directory / "outrider")
        async with asyncio.timeout(PATIENCE):
            await scenario(stage)
            await stage.server.close()
        return stage

    stage = asyncio.run(main())
    assert not stage.server.path.exists()
    assert stage.log.messages("warning") == stage.log.messages("error") == []
    return stage


async def ask(path: Path) -> dict[str, Any]:
    status: dict[str, Any] = await asyncio.to_thread(ControlClient(path).status)
    return status


def test_client_gets_the_status_and_carries_out_a_command(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.server.start()
        assert await ask(stage.server.path) == {"name": "shop", "pid": os.getpid()}
        lines = asyncio.create_task(asyncio.to_thread(lambda: list(stage.client.run(Reload()))))
        await stage.supervisor.has_command.wait()
        stage.supervisor.operation.progress("starting")
        stage.supervisor.operation.finish(Outcome(ok=True, code="done", message="generation 2"))
        assert await lines == [
            {"progress": "starting"},
            {"ok": True, "code": "done", "message": "generation 2", "details": ""},
        ]

    run(tmp_path, scenario)


def test_any_http_client_may_ask(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.server.start()
        reader, writer = await asyncio.open_unix_connection(stage.server.path)
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: whatever.example\r\n\r\n")
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(body)["name"] == "shop"

    run(tmp_path, scenario)


@pytest.mark.external
def test_curl_may_ask(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.server.start()
        command = ["curl", "-sS", "--unix-socket", str(stage.server.path), "http://localhost/v1/status"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=PATIENCE, check=True)
        assert json.loads(done.stdout)["name"] == "shop"

    run(tmp_path, scenario)


def test_socket_is_private_from_the_moment_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    class Looking(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:
            modes.append(os.lstat(self.getsockname()).st_mode)
            super().listen(backlog)

    async def scenario(stage: Stage) -> None:
        monkeypatch.setattr(socket, "socket", Looking)
        before = os.umask(0)
        try:
            await stage.server.start()
            assert os.umask(0) == 0
        finally:
            os.umask(before)
            monkeypatch.undo()
        assert [stat.S_IMODE(mode) for mode in modes] == [0o600]
        assert stat.S_IMODE(stage.server.path.parent.stat().st_mode) == 0o700

    run(tmp_path, scenario)


def test_stranger_is_turned_away_and_others_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = [os.geteuid() + 4321, 0, os.geteuid()]

    async def scenario(stage: Stage) -> None:
        monkeypatch.setattr(control, "peer_credentials", lambda _sock: (1, uids.pop(0), 1))
        await stage.server.start()
        reader, writer = await asyncio.open_unix_connection(stage.server.path)
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):  # closed with the request unread
            assert await reader.read() == b""
        writer.close()
        assert (await ask(stage.server.path))["name"] == "shop"
        assert (await ask(stage.server.path))["name"] == "shop"
        assert uids == []

    run(tmp_path, scenario)


# -- one supervisor of a name


def test_second_supervisor_of_a_name_is_told_who_runs(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.server.start()
        with pytest.raises(
            ConfigurationError, match=rf"^another supervisor named shop is running \(pid {os.getpid()}\); stop it"
        ):
            await stage.another().start()
        assert (await ask(stage.server.path))["name"] == "shop"

    run(tmp_path, scenario)


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        os.close(stage.directory.open(os.geteuid()))
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(stage.server.path))
        await stage.server.start()
        assert (await ask(stage.server.path))["name"] == "shop"

    run(tmp_path, scenario)


def test_supervisors_that_start_at_once_bind_one_after_the_other(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
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

    run(tmp_path, scenario)


def test_lock_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(stage: Stage) -> None:
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

    run(tmp_path, scenario)


def test_file_in_the_place_of_the_socket_is_refused(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        os.close(stage.directory.open(os.geteuid()))
        stage.server.path.write_text("precious")
        with pytest.raises(ConfigurationError, match="exists and is no socket"):
            await stage.server.start()
        stage.server.path.unlink()

    run(tmp_path, scenario)


def test_socket_that_cannot_be_made_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> None:
        raise OSError(30, "Read-only file system")

    async def scenario(stage: Stage) -> None:
        monkeypatch.setattr(control, "remove_stale", refuse)
        with pytest.raises(ConfigurationError, match=r"can't bind .*shop\.sock \(Read-only file system\)"):
            await stage.server.start()

    run(tmp_path, scenario)


# -- its end, and an execve


def test_close_lets_a_response_finish(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.server.start()
        lines = asyncio.create_task(asyncio.to_thread(lambda: list(stage.client.run(Reload()))))
        await stage.supervisor.has_command.wait()
        closing = asyncio.create_task(stage.server.close())
        await asyncio.sleep(0)
        assert not stage.server.path.exists()
        stage.supervisor.operation.finish(Outcome(ok=True, code="done", message="stopped"))
        assert (await lines)[-1]["message"] == "stopped"
        await closing

    run(tmp_path, scenario)


def test_close_leaves_the_path_of_a_successor(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.server.start()
        stage.server.path.rename(stage.server.path.with_suffix(".old"))
        successor = stage.another()
        await successor.start()
        await stage.server.close()
        assert (await ask(successor.path))["name"] == "shop"
        await successor.close()

    run(tmp_path, scenario)


def test_clients_wait_in_the_queue_while_the_supervisor_is_replaced(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.server.start()
        await stage.server.suspend()
        answer = asyncio.create_task(ask(stage.server.path))
        stage.server.set_inheritable(True)
        state = json.loads(json.dumps(stage.server.to_state()))
        assert os.get_inheritable(state["descriptor"])
        state["descriptor"] = os.dup(state["descriptor"])  # as execve(2) would leave it
        successor = ControlServer.from_state(state, stage.app, stage.log)
        assert not os.get_inheritable(state["descriptor"])
        await successor.start()
        assert (await answer)["name"] == "shop"
        await successor.close()
        assert not stage.server.path.exists()

    run(tmp_path, scenario)


def test_supervisor_that_could_not_be_replaced_serves_on(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.server.start()
        await stage.server.suspend()
        stage.server.set_inheritable(False)
        await stage.server.start()
        assert (await ask(stage.server.path))["name"] == "shop"

    run(tmp_path, scenario)


def test_state_needs_an_open_socket(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        with pytest.raises(RuntimeError, match="not open"):
            stage.server.to_state()
        stage.server.set_inheritable(True)
        state = {
            "directory": str(tmp_path),
            "managed": False,
            "name": "shop",
            "descriptor": 1 << 20,
            "identity": None,
        }
        with pytest.raises(ConfigurationError, match="descriptor 1048576: Bad file descriptor"):
            ControlServer.from_state(state, stage.app, stage.log)

    run(tmp_path, scenario)


REPLACED_IN_PLACE = """
import asyncio, json, logging, os, socket, sys
from pathlib import Path
from outrider_supervisor.control import ControlServer
from outrider_supervisor.control_app import ControlApp
from outrider_supervisor.listeners import Listeners
from outrider_supervisor.paths import Directory
from outrider_testing.services import make_service

class Supervisor:
    def status(self):
        return {"pid": os.getpid(), "replaced": "STATE" in os.environ, "port": port}

async def main():
    global port
    app, log = ControlApp(Supervisor()), logging.getLogger()
    if "STATE" in os.environ:
        state = json.loads(os.environ["STATE"])
        listeners = Listeners.from_state(state["listeners"], print)
        control = ControlServer.from_state(state["control"], app, log)
    else:
        listeners = Listeners(print)
        control = ControlServer(Directory(Path(sys.argv[1])), "shop", app, log)
    [listener] = await listeners.open(make_service())
    port = listener.getsockname()[1]
    await control.start()
    print("ready", flush=True)
    command = await asyncio.to_thread(sys.stdin.readline)
    if command == "replace\\n":
        await control.suspend()
        listeners.set_inheritable(True)
        control.set_inheritable(True)
        state = {"listeners": listeners.to_state(), "control": control.to_state()}
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "STATE": json.dumps(state)})
    await control.close()
    listeners.close_all()
    print(sorted(os.listdir(sys.argv[1])))

asyncio.run(main())
"""


def test_sockets_survive_an_execve(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REPLACED_IN_PLACE, str(tmp_path / "outrider")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    client = ControlClient(tmp_path / "outrider/shop.sock")
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            before = client.status()
            process.stdin.write("replace\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
            assert client.status() == {**before, "replaced": True}
            with socket.create_connection(("127.0.0.1", before["port"])):
                process.stdin.close()
                assert process.stdout.readline() == "[]\n"
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_end_of_the_server_itself_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(server: Server, _probe_path: str) -> None:
        for listener in server._listeners:
            listener.abandon()
        raise MemoryError

    async def scenario() -> FakeLog:
        stage = Stage(tmp_path / "outrider")
        monkeypatch.setattr(Server, "serve", fail)
        await stage.server.start()
        await stage.server.close()
        return stage.log

    log = asyncio.run(scenario())
    assert log.messages("error") == ["The control socket is not served any more; the service itself goes on"]
    assert isinstance(log.exceptions[0], MemoryError)


# -- what it costs

FOOTPRINT = """
import sys
from outrider_supervisor import client, control, control_app, listeners, notify, paths, processes
from pathlib import Path
[resident] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
print(resident.split()[1], sorted({"gunicorn", "uvloop", "uvicorn"} & set(sys.modules)))
"""


def test_supervisor_needs_no_gunicorn_and_little_memory() -> None:
    command = [sys.executable, "-c", FOOTPRINT]
    # No other variables: the measurement of coverage would take memory as well.
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=True)
    kilobytes, _, modules = done.stdout.strip().partition(" ")
    assert modules == "[]"
    assert int(kilobytes) < 32 * 1024
