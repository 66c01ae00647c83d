from __future__ import annotations

import asyncio

import pytest

from tally import Tally
from unix_client import Connection

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def connection(tally: Tally, transport: FakeTransport) -> Connection:
    connection = Connection(b"request", len(RESPONSE), tally)
    connection.connection_made(transport)
    return connection


def test_connection_sends_next_request_after_each_response(
    connection: Connection, transport: FakeTransport, tally: Tally
) -> None:
    connection.data_received(RESPONSE)
    connection.data_received(RESPONSE)
    assert transport.written == [b"request"] * 3
    assert len(tally.latencies) == 2
    assert not any(tally.errors.values())


def test_connection_waits_for_split_response(connection: Connection, transport: FakeTransport, tally: Tally) -> None:
    connection.data_received(RESPONSE[:20])
    assert transport.written == [b"request"]
    connection.data_received(RESPONSE[20:])
    assert transport.written == [b"request"] * 2
    assert not any(tally.errors.values())


def test_connection_counts_wrong_status(connection: Connection, tally: Tally) -> None:
    connection.data_received(RESPONSE.replace(b"200", b"500"))
    assert tally.errors["status"] == 1


def test_connection_counts_bytes_too_many(connection: Connection, tally: Tally) -> None:
    connection.data_received(RESPONSE + b"!")
    assert tally.errors["read"] == 1


def test_connection_counts_close_while_running_only(connection: Connection, tally: Tally) -> None:
    connection.connection_lost(None)
    tally.running = False
    connection.connection_lost(None)
    assert tally.errors["read"] == 1


def test_connection_stops_when_the_time_is_over(connection: Connection, transport: FakeTransport, tally: Tally) -> None:
    tally.running = False
    connection.data_received(RESPONSE)
    assert transport.written == [b"request"]
    assert not tally.latencies
