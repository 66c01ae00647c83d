"""Our own server inside the supervisor: what it lets a client keep."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import socket
from types import SimpleNamespace
from typing import Any

from outrider_supervisor.embedded_server import SEND_BUFFER, EmbeddedServer, RoomySocket


def test_client_that_takes_nothing_keeps_little_in_the_kernel() -> None:
    runtime: Any = SimpleNamespace(held=0, connections=())
    with RoomySocket() as listening, socket.socket() as client:
        listening.runtime = runtime
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        client.connect(listening.getsockname())
        connection, _ = listening.accept()
        with connection:
            # The kernel takes twice as much, for its own accounts.
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER


async def never_called(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError


def test_requests_that_are_refused_do_not_fill_the_log() -> None:
    log = logging.Logger("test")  # noqa: LOG001  # apart from the loggers that other tests see
    records = logging.handlers.BufferingHandler(100)
    log.addHandler(records)

    async def ask() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = EmbeddedServer(never_called, log, "endpoint")
            server.start(listening)
            for _ in range(3):
                reader, writer = await asyncio.open_connection(*listening.getsockname())
                writer.write(b"\0\r\n\r\n")
                assert b" 400 " in await reader.read()
                writer.close()
                await writer.wait_closed()
            await server.stop()

    asyncio.run(ask())
    assert [record.getMessage().partition(" from ")[0] for record in records.buffer] == ["Refused a request"]
