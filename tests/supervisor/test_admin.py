"""The admin endpoint, served by the real server on real sockets, as reloads and upgrades change it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor import admin as admin_module
from outrider_supervisor import embedded_server
from outrider_supervisor.actions import Level
from outrider_supervisor.admin import Admin
from outrider_supervisor.event_feed import EventFeed
from outrider_supervisor.journal import Journal
from outrider_supervisor.service import Service
from outrider_testing.admin_stage import TOKEN
from outrider_testing.control_stage import FakeHandler
from outrider_testing.services import make_service

PATIENCE = 20.0
LOOPBACK = "127.0.0.1:0"


class Stage:
    """One endpoint."""

    def __init__(self) -> None:
        self.handler = FakeHandler()
        self.journal = Journal()
        self.pauses = 0
        self.admin = self.another()

    def another(self) -> Admin:
        return Admin(self.handler, EventFeed(self.journal, self.handler.status), self.journal, self._pause)

    async def _pause(self, _seconds: float) -> None:
        self.pauses += 1
        await asyncio.sleep(0)

    @property
    def port(self) -> int:
        (address,) = self.admin.addresses
        return int(address.rpartition(":")[2])

    @property
    def log(self) -> list[str]:
        return [event["text"] for event in self.journal.events]


def run(scenario: Callable[[Stage], Awaitable[None]]) -> None:
    async def main() -> None:
        stage = Stage()
        async with asyncio.timeout(PATIENCE):
            try:
                await scenario(stage)
            finally:
                await stage.admin.close()
        assert stage.admin.addresses == []

    asyncio.run(main())


def service(bind: str = LOOPBACK, token: str = "", **fields: object) -> Service:
    return make_service(admin_bind=bind, admin_token=token, **fields)


async def get(where: int | str, path: str = "/livez", token: str = "") -> tuple[int, bytes]:
    """Status and body."""
    if isinstance(where, str):
        reader, writer = await asyncio.open_unix_connection(where)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", where)
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def refused(where: int | str) -> bool:
    try:
        await get(where)
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


def test_without_an_address_there_is_none() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service(""))
        assert stage.admin.addresses == []
        stage.admin.keep_only(service(""))

    run(scenario)


def test_endpoint_is_served_at_its_address() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service())
        assert await get(stage.port) == (200, b"ok\n")
        assert json.loads((await get(stage.port, "/api/status"))[1]) == stage.handler.status()
        assert stage.log == [f"admin endpoint opened: http://127.0.0.1:{stage.port}"]

    run(scenario)


def test_endpoint_is_served_over_ipv6() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service("[::1]:0"))
        assert stage.admin.addresses[0].startswith("http://[::1]:")
        reader, writer = await asyncio.open_connection("::1", stage.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: [::1]\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()

    run(scenario)


def test_unix_socket_is_for_the_supervisors_user_and_group(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service("unix:admin.sock", directory=str(tmp_path)))
        path = tmp_path / "admin.sock"
        assert stat.S_IMODE(path.lstat().st_mode) == 0o660
        assert (path.lstat().st_uid, path.lstat().st_gid) == (os.geteuid(), os.getegid())
        assert (await get(str(path)))[0] == 200
        await stage.admin.close()
        assert not path.exists()

    run(scenario)


def test_address_that_is_taken_is_an_error_of_this_setting() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service())
        other = stage.another()
        with pytest.raises(
            ConfigurationError, match=rf"^admin_bind: 127.0.0.1:{stage.port} is in use by .*; stop that"
        ):
            await other.open(service(f"127.0.0.1:{stage.port}"))
        assert other.addresses == []

    run(scenario)


def test_first_start_waits_for_an_address_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service())
        bind = f"127.0.0.1:{stage.port}"
        other = stage.another()
        opening = asyncio.create_task(other.open(service(bind), patience=PATIENCE))
        while not stage.pauses:
            await asyncio.sleep(0)
        await stage.admin.close()
        await opening
        assert other.addresses == [f"http://{bind}"]
        await other.close()

    monkeypatch.setattr(admin_module, "RETRY", 0.0)
    run(scenario)


@pytest.mark.parametrize(
    "bind, problem",
    [("unix:/nowhere/admin.sock", "there is no directory /nowhere"), ("192.0.2.1:0", "this machine has no address")],
)
def test_address_that_cannot_be_opened_is_an_error(bind: str, problem: str) -> None:
    async def scenario(stage: Stage) -> None:
        with pytest.raises(ConfigurationError, match=f"^admin_bind: .*{problem}"):
            await stage.admin.open(service(bind))

    run(scenario)


# -- a reload


def test_reload_to_another_address_opens_it_first_and_closes_the_old_one_last(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")

    async def scenario(stage: Stage) -> None:
        old = service()
        await stage.admin.open(old)
        port = stage.port
        new = service(f"unix:{path}", TOKEN)
        await stage.admin.open(new)
        assert (await get(port, "/metrics"))[0] == 200
        assert (await get(path, "/metrics"))[0] == 401
        stage.admin.keep_only(new)
        assert stage.admin.addresses == [f"unix:{path}"]
        while not await refused(port):
            await asyncio.sleep(0)
        assert (await get(path, "/metrics", TOKEN))[0] == 200

    run(scenario)


def test_reload_that_is_rolled_back_closes_the_new_address(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")

    async def scenario(stage: Stage) -> None:
        old = service()
        await stage.admin.open(old)
        await stage.admin.open(service(f"unix:{path}"))
        stage.admin.keep_only(old)
        while not await refused(path):
            await asyncio.sleep(0)
        assert (await get(stage.port))[0] == 200

    run(scenario)


def test_reload_that_changes_only_the_token_counts_when_it_is_committed() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service())
        new = service(token=TOKEN)
        await stage.admin.open(new)
        assert (await get(stage.port, "/metrics"))[0] == 200
        stage.admin.keep_only(new)
        assert (await get(stage.port, "/metrics"))[0] == 401
        assert (await get(stage.port, "/metrics", TOKEN))[0] == 200

    run(scenario)


# -- the end, and an upgrade


@pytest.mark.parametrize("end", ["close", "suspend"])
def test_event_streams_end_at_once(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = dataclasses.replace(embedded_server.CONFIG, graceful_timeout=3 * PATIENCE)
    monkeypatch.setattr(embedded_server, "CONFIG", patient)

    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service())
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"event: status")
        await getattr(stage.admin, end)()
        assert (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()

    run(scenario)


def test_events_reach_their_readers() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service())
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 1\r\n\r\n")
        await reader.readuntil(b"event: status")
        stage.journal.write(Level.INFO, "hello")
        assert b'"text": "hello"' in await reader.readuntil(b'hello"}')
        writer.close()

    run(scenario)


def test_connections_that_say_nothing_give_way() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service())
        silent = [await asyncio.open_connection("127.0.0.1", stage.port) for _ in range(150)]
        assert (await get(stage.port))[0] == 200
        for _, writer in silent:
            writer.close()

    run(scenario)


def test_successor_serves_at_the_same_listener() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service(token=TOKEN))
        port = stage.port
        await stage.admin.suspend()
        waiting = asyncio.create_task(get(port, "/metrics", TOKEN))  # in the queue
        state = json.loads(json.dumps(stage.admin.to_state()))
        state[0]["descriptor"] = os.dup(state[0]["descriptor"])  # as it comes out of an execve
        os.set_inheritable(state[0]["descriptor"], True)
        successor = stage.another()
        successor.take_state(state, service(token=TOKEN))
        assert (await waiting)[0] == 200
        assert (await get(port, "/metrics"))[0] == 401
        assert not os.get_inheritable(state[0]["descriptor"])
        successor.keep_only(service(token=TOKEN))
        assert successor.addresses == [f"http://127.0.0.1:{port}"]
        await successor.close()

    run(scenario)


def test_upgrade_that_fails_goes_on_serving() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.admin.open(service())
        stage.admin.set_inheritable(True)
        assert os.get_inheritable(stage.admin.to_state()[0]["descriptor"])
        stage.admin.set_inheritable(False)
        await stage.admin.suspend()
        stage.admin.go_on()
        assert (await get(stage.port))[0] == 200

    run(scenario)
