"""What is done to the sockets below the transports, on real connections and the loops that serve them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import uvloop

from outrider.transports import end_now
from outrider_testing.server_fakes import listen, listen_unix

LARGE = bytes(16 << 20)  # far more than a kernel keeps for a client
PATIENCE = 10.0


class Connection(NamedTuple):
    """A loop's transport and the client at its other end."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    client: socket.socket

    def run(self, *callbacks: Callable[[], None]) -> None:
        """Run all of them in one turn of the loop."""
        for callback in (*callbacks, self.loop.stop):
            self.loop.call_soon(callback)
        self.loop.run_forever()

    def end(self) -> None:
        """Close it as an idle one is closed."""
        end_now(self.transport)
        self.transport.close()


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.SelectorEventLoop])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop: asyncio.AbstractEventLoop = request.param()
    yield loop
    loop.close()


@pytest.fixture(params=["tcp", "unix"])
def connection(loop: asyncio.AbstractEventLoop, request: pytest.FixtureRequest) -> Iterator[Connection]:
    listening = listen() if request.param == "tcp" else listen_unix(b"")
    with listening, socket.socket(listening.family) as client:
        client.connect(listening.getsockname())
        client.settimeout(PATIENCE)
        sock, _ = listening.accept()
        opening = loop.connect_accepted_socket(asyncio.Protocol, sock)
        transport, _ = loop.run_until_complete(opening)
        yield Connection(loop, transport, client)
        loop.run_until_complete(asyncio.sleep(0))


def test_client_knows_of_the_end_before_anything_else_runs(connection: Connection) -> None:
    """What runs before the loop closes the socket may take long: a client that sends meanwhile would be reset."""
    received: list[bytes] = []
    connection.run(connection.end, lambda: received.append(connection.client.recv(1)))
    assert received == [b""]


def test_what_is_unsent_comes_before_the_end(connection: Connection) -> None:
    connection.transport.write(LARGE)
    assert connection.transport.get_write_buffer_size()
    connection.run(connection.end)

    async def read() -> int:
        connection.client.setblocking(False)
        size = 0
        while data := await connection.loop.sock_recv(connection.client, 1 << 20):
            size += len(data)
        return size

    reading = asyncio.wait_for(read(), PATIENCE)
    assert connection.loop.run_until_complete(reading) == len(LARGE)


def test_connection_whose_client_has_gone_is_closed_all_the_same(connection: Connection) -> None:
    connection.client.close()
    connection.run(connection.end)
    assert connection.transport.is_closing()
