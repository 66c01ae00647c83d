"""What an HTTP/1.1 connection carries over to its next request: a pause, bytes held back, a count of dropped ones."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from outrider.http1 import FEED_SLICE, MOST_DISCARDED, HTTP1Connection
from outrider.http1_pipeline import MOST_QUEUED
from outrider.http_stream import HIGH_WATER
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import Client, ManualLoop, constant

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"

BEFORE = 20
AFTER = 14


def connections_in_memory() -> int:
    return sum(type(each) is HTTP1Connection for each in gc.get_objects())


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is freed in the test is freed by its reference count."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("request_bytes", [GET, POST % 10 + b"part", b"GET / HT"])
def test_lost_connection_is_freed_without_the_collector(loop: ManualLoop, request_bytes: bytes) -> None:
    before = connections_in_memory()
    client = Client.of(loop, constant())
    client.feed(request_bytes)
    assert connections_in_memory() == before + 1
    client.lose()
    client.transport.set_protocol(asyncio.Protocol())  # a real transport forgets its protocol
    del client
    assert connections_in_memory() == before


@pytest.mark.usefixtures("no_collector")
def test_connection_that_became_a_websocket_is_freed_without_the_collector(loop: ManualLoop) -> None:
    before = connections_in_memory()
    client = Client.of(loop)
    client.feed(ws.handshake())
    client.call.receive()
    client.call.send({"type": "websocket.accept"})
    transport, runtime = client.transport, client.runtime
    del client
    assert not transport.is_closing()
    assert runtime.websockets == 1
    assert connections_in_memory() == before


def feed_held_back(client: Client, rest: bytes) -> None:
    """Fill the queue in one read, so that `rest` is held back until the large body in the middle is running.

    By then the queue is short: `rest` does not fill it again, which would set the deadline anew.
    """
    room = 3 * FEED_SLICE - len(GET * (BEFORE + AFTER)) - len(POST % FEED_SLICE)
    large = POST % room + bytes(room)
    assert room > HIGH_WATER
    assert BEFORE + AFTER >= MOST_QUEUED > AFTER + 1
    client.feed(GET * BEFORE + large + GET * AFTER + rest)
    assert client.connection._held == rest


def answer_all_but_last(client: Client) -> None:
    for number in range(BEFORE + 1 + AFTER):
        client.calls[number].respond()
    assert client.connection._held == b""


# -- paused


@pytest.mark.parametrize("reads", [1, 3])
@pytest.mark.parametrize("receives", [True, False])
def test_connection_reads_on_behind_a_large_body(loop: ManualLoop, reads: int, *, receives: bool) -> None:
    client = Client.of(loop)
    client.feed(POST % (reads * FEED_SLICE * 3))
    for _ in range(reads):
        client.feed(bytes(FEED_SLICE * 3))
    while receives and client.call.receive()["more_body"]:
        pass
    client.call.respond()
    client.feed(GET)
    client.calls[-1].respond()
    assert client.statuses == [200, 200]


def test_app_learns_at_once_that_the_client_of_a_large_body_left(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(POST % (HIGH_WATER + 1) + bytes(HIGH_WATER + 1))
    assert not client.call.receive()["more_body"]
    receiving = client.call.receiving()
    client.feed_eof()
    assert receiving.result() == {"type": "http.disconnect"}


# -- held back


def test_late_body_of_a_request_that_was_held_back_is_answered_with_408(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30)
    feed_held_back(client, POST % 5)
    answer_all_but_last(client)
    client.sweep(29)
    assert not client.is_closed()
    client.sweep(2)
    assert client.statuses == [200] * (BEFORE + 1 + AFTER) + [408]


def test_body_of_a_request_that_was_held_back_may_come_in_its_time(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30)
    feed_held_back(client, POST % 5 + b"he")
    answer_all_but_last(client)
    client.sweep(29)
    client.feed(b"llo")
    assert client.calls[-1].receive()["body"] == b"hello"
    client.sweep(10_000)
    client.calls[-1].respond()
    assert client.statuses == [200] * (BEFORE + 1 + AFTER + 1)


def test_late_head_that_was_held_back_is_answered_with_408(loop: ManualLoop) -> None:
    client = Client.of(loop, header_timeout=10)
    feed_held_back(client, b"GET / HT")
    answer_all_but_last(client)
    client.sweep(9)
    assert not client.is_closed()
    client.sweep(2)
    assert client.statuses == [200] * (BEFORE + 1 + AFTER) + [408]


def test_client_that_waits_for_100_and_was_held_back_is_not_blamed(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30)
    feed_held_back(client, EXPECT)
    answer_all_but_last(client)
    client.sweep(10_000)
    assert not client.is_closed()
    client.calls[-1].receiving()
    client.sweep(31)
    assert client.statuses[-2:] == [100, 408]


def test_oversized_head_that_was_held_back_is_refused(loop: ManualLoop) -> None:
    client = Client.of(loop, limit_request_fields=10)
    feed_held_back(client, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 12)
    answer_all_but_last(client)
    assert client.statuses == [200] * (BEFORE + 1 + AFTER) + [431]


# -- dropped


def test_unwanted_bodies_are_not_added_up(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    size = MOST_DISCARDED // 2 + 1
    for _ in range(2):
        client.feed(POST % size)
        client.feed(bytes(size))
    client.feed(GET)
    assert client.statuses == [200, 200, 200]
    assert not client.is_closed()
