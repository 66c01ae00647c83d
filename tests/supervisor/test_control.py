"""The control socket, served by the real server on a real unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.errors import ConfigurationError
from outrider.server import Server
from outrider_supervisor import control
from outrider_supervisor.client import ControlClient
from outrider_supervisor.control import ControlServer
from outrider_supervisor.control_commands import Reload
from outrider_supervisor.embedded_server import MOST_WAITING
from outrider_supervisor.operations import Outcome
from outrider_testing.control_stage import PATIENCE, ControlStage, ask, run_control, until
from outrider_testing.fakes import FakeLog


def test_client_gets_the_status_and_carries_out_a_command(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
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

    run_control(tmp_path, scenario)


def test_any_http_client_may_ask(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        reader, writer = await asyncio.open_unix_connection(stage.server.path)
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: whatever.example\r\n\r\n")
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(body)["name"] == "shop"

    run_control(tmp_path, scenario)


@pytest.mark.external
def test_curl_may_ask(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        command = ["curl", "-sS", "--unix-socket", str(stage.server.path), "http://localhost/v1/status"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=PATIENCE, check=True)
        assert json.loads(done.stdout)["name"] == "shop"

    run_control(tmp_path, scenario)


def test_socket_is_private_from_the_moment_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    class Looking(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:
            modes.append(os.lstat(self.getsockname()).st_mode)
            super().listen(backlog)

    async def scenario(stage: ControlStage) -> None:
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

    run_control(tmp_path, scenario)


def test_stranger_is_turned_away_and_others_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = [os.geteuid() + 4321, 0, os.geteuid()]

    async def scenario(stage: ControlStage) -> None:
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

    run_control(tmp_path, scenario)


# -- clients that only connect


async def connect(path: Path, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return [await asyncio.open_unix_connection(path) for _ in range(count)]


def test_connections_without_a_request_keep_nobody_out(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        idle = await connect(stage.server.path, MOST_WAITING + 10)
        assert (await ask(stage.server.path))["name"] == "shop"  # well before header_timeout is over
        await until(lambda: sum(reader.at_eof() for reader, _ in idle) >= 11)
        assert sum(reader.at_eof() for reader, _ in idle) == 11
        for _, writer in idle:
            writer.close()

    run_control(tmp_path, scenario)


def test_connection_that_is_being_answered_makes_no_room_for_others(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        lines = asyncio.create_task(asyncio.to_thread(lambda: list(stage.client.run(Reload()))))
        await stage.supervisor.has_command.wait()
        idle = await connect(stage.server.path, 2 * MOST_WAITING)
        await until(lambda: sum(reader.at_eof() for reader, _ in idle) > MOST_WAITING)
        stage.supervisor.operation.finish(Outcome(ok=True, code="done", message="generation 2"))
        assert (await lines)[-1]["message"] == "generation 2"
        for _, writer in idle:
            writer.close()

    run_control(tmp_path, scenario)


# -- its end, and an execve


def test_close_lets_a_response_finish(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        lines = asyncio.create_task(asyncio.to_thread(lambda: list(stage.client.run(Reload()))))
        await stage.supervisor.has_command.wait()
        closing = asyncio.create_task(stage.server.close())
        await asyncio.sleep(0)
        assert not stage.server.path.exists()
        stage.supervisor.operation.finish(Outcome(ok=True, code="done", message="stopped"))
        assert (await lines)[-1]["message"] == "stopped"
        await closing

    run_control(tmp_path, scenario)


def test_close_leaves_the_path_of_a_successor(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        stage.server.path.rename(stage.server.path.with_suffix(".old"))
        successor = stage.another()
        await successor.start()
        await stage.server.close()
        assert (await ask(successor.path))["name"] == "shop"
        await successor.close()

    run_control(tmp_path, scenario)


def test_clients_wait_in_the_queue_while_the_supervisor_is_replaced(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
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

    run_control(tmp_path, scenario)


def test_supervisor_that_could_not_be_replaced_serves_on(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
        await stage.server.start()
        await stage.server.suspend()
        stage.server.set_inheritable(False)
        await stage.server.start()
        assert (await ask(stage.server.path))["name"] == "shop"

    run_control(tmp_path, scenario)


def test_state_needs_an_open_socket(tmp_path: Path) -> None:
    async def scenario(stage: ControlStage) -> None:
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

    run_control(tmp_path, scenario)


REPLACED_IN_PLACE = """
import asyncio, json, logging, os, socket, sys
from pathlib import Path
from outrider_supervisor.control import ControlServer
from outrider_supervisor.control_app import ControlApp
from outrider_supervisor.event_feed import EventFeed
from outrider_supervisor.journal import Journal
from outrider_supervisor.listeners import Listeners
from outrider_supervisor.paths import Directory
from outrider_testing.services import make_service

class Supervisor:
    def status(self):
        return {"pid": os.getpid(), "replaced": "STATE" in os.environ, "port": port}

async def main():
    global port
    supervisor = Supervisor()
    app, log = ControlApp(supervisor, EventFeed(Journal(), supervisor.status)), logging.getLogger()
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
        stage = ControlStage(tmp_path / "outrider")
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
