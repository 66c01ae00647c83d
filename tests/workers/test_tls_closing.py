"""How far the output of a connection has got, by the kernel's account."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from outrider import tls_closing
from outrider.tls_closing import is_flushed, measure_backlog
from outrider_testing.fakes import FakeTransport, ManualLoop
from outrider_testing.server_fakes import listen
from outrider_testing.waiting import until

# struct tcp_info of linux/tcp.h as far as tcpi_bytes_acked: eight octets, 24 numbers of 32 bits, three of 64.
TCP_INFO = struct.Struct("8B24I3Q")
LAST_DATA_SENT = 8 + 9


class Connection:
    """A transport and its socket, on a real TCP connection; `quiet` is how many milliseconds nothing was sent."""

    def __init__(self, sock: socket.socket, client: socket.socket) -> None:
        self.sock = sock
        self.client = client
        self.quiet: int | None = None
        self.known = TCP_INFO.size

    def get_extra_info(self, name: str) -> Connection:
        assert name == "socket"
        return self

    def get_write_buffer_size(self) -> int:
        return 5

    def fileno(self) -> int:
        return self.sock.fileno()

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        info = self.sock.getsockopt(level, option, size)
        if self.quiet is not None:
            fields = list(TCP_INFO.unpack(info))
            fields[LAST_DATA_SENT] = self.quiet
            info = TCP_INFO.pack(*fields)
        return info[: self.known]

    def fill(self) -> None:
        """Send as much as the kernel takes for a client that does not read."""
        with suppress(BlockingIOError):
            while True:
                self.sock.send(bytes(65536))

    def read_everything(self) -> None:
        """The client's side."""
        with suppress(BlockingIOError):
            while self.client.recv(1 << 20):
                pass


@pytest.fixture
def connection() -> Iterator[Any]:
    with listen() as listening, socket.create_connection(listening.getsockname()) as client:
        sock, _ = listening.accept()
        with sock:
            sock.setblocking(False)
            client.setblocking(False)
            yield Connection(sock, client)


@pytest.fixture
def unix_connection() -> Iterator[Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Connection(ours, theirs)


@pytest.mark.parametrize("quiet, is_over", [(0, False), (999, False), (1000, True), (1 << 31, True)])
def test_connection_that_has_been_quiet_for_a_second_is_flushed(connection: Any, quiet: int, is_over: bool) -> None:
    connection.quiet = quiet
    assert is_flushed(connection) is is_over


def test_kernel_knows_for_how_long_a_connection_has_been_quiet(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_closing, "_QUIET", 1)
    connection.sock.send(b"x")
    until(lambda: is_flushed(connection))


def test_quiet_connection_is_not_flushed_before_the_client_has_everything(connection: Any) -> None:
    connection.quiet = 60_000
    connection.fill()
    assert not is_flushed(connection)

    def is_flushed_by_now() -> bool:
        connection.read_everything()
        return is_flushed(connection)

    until(is_flushed_by_now)


def test_backlog_shrinks_by_each_byte_that_is_acknowledged(connection: Any) -> None:
    before = measure_backlog(connection)
    connection.sock.send(bytes(300))
    until(lambda: measure_backlog(connection) == before - 300)


def test_kernel_that_tells_less_leaves_it_to_the_transport(connection: Any) -> None:
    connection.quiet = 60_000
    connection.known -= 8
    assert measure_backlog(connection) == 5
    assert not is_flushed(connection)


def test_system_that_tells_nothing_leaves_it_to_the_transport(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "TCP_INFO")
    assert measure_backlog(connection) == 5
    assert not is_flushed(connection)


def test_unix_socket_leaves_it_to_the_transport(unix_connection: Any) -> None:
    assert measure_backlog(unix_connection) == 5
    assert not is_flushed(unix_connection)


def test_backlog_that_no_kernel_knows_is_the_transports(loop: ManualLoop) -> None:
    transport = FakeTransport(loop, asyncio.Protocol())
    transport.congested = True
    transport.write(b"12345")
    assert measure_backlog(transport) == 5
    assert not is_flushed(transport)
