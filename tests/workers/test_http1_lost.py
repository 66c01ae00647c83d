"""A client of HTTP/1.1 that leaves while some of what it sent is still to be dealt with."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.http1_pipeline import MOST_QUEUED
from outrider.http_stream import HIGH_WATER, ClientDisconnected
from outrider_testing.fakes import Client, ManualLoop

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SIZE = 3 * HIGH_WATER
DISCONNECT = {"type": "http.disconnect"}


def post(size: int, body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body


def leave(client: Client, end: str, data: bytes) -> None:
    """Send the last bytes, and then the end of the connection in one way or another."""
    if end == "alert":
        client.feed_last(data)
    else:
        client.feed(data)
        client.feed_eof() if end == "half-close" else client.lose(ConnectionResetError())


def connect(loop: ManualLoop, end: str, **config: Any) -> Client:
    return Client.over_tls(loop, **config) if end == "alert" else Client.of(loop, **config)


ENDS = pytest.mark.parametrize("end", ["alert", "half-close", "break"])


@ENDS
@pytest.mark.parametrize("missing", [0, 10])
def test_application_receives_the_body_that_came_before_the_end(loop: ManualLoop, end: str, missing: int) -> None:
    client = connect(loop, end)
    client.feed(post(SIZE + missing, bytes(HIGH_WATER + 1)))
    assert not client.transport.is_reading()
    leave(client, end, bytes(SIZE - HIGH_WATER - 1))
    received = 0
    while (message := client.call.receive())["type"] == "http.request":
        received += len(message["body"])
        assert message["more_body"] is (missing > 0 or received < SIZE)
        if not message["more_body"]:
            break
    # Without TLS, what a client that broke the connection sent while it had to wait is lost with it.
    assert received == (HIGH_WATER + 1 if end == "break" else SIZE)


@ENDS
def test_application_is_told_of_the_end_behind_the_body(loop: ManualLoop, end: str) -> None:
    client = connect(loop, end)
    leave(client, end, post(10, b"abc"))
    assert client.call.receive() == {"type": "http.request", "body": b"abc", "more_body": True}
    assert client.call.receive() == DISCONNECT
    with pytest.raises(ClientDisconnected):
        client.call.start()
    assert not client.runtime.connections


def test_pipelined_requests_behind_a_slow_one_are_all_answered_to_a_client_that_half_closes(loop: ManualLoop) -> None:
    client = Client.of(loop)
    count = 3 * MOST_QUEUED
    for _ in range(count):
        client.feed(GET)
    client.feed_eof()
    assert client.transport.waiting > 0
    for number in range(count):
        client.calls[number].respond(b"%d" % number)
    assert [answer.body for answer in client.answers()] == [b"%d" % number for number in range(count)]
    assert not client.runtime.connections


def test_held_requests_are_all_answered_to_a_client_that_half_closes(loop: ManualLoop) -> None:
    client = Client.of(loop)
    count = 5000
    client.transport.feed(GET * count)
    client.feed_eof()
    for number in range(count):
        client.calls[number].respond()
    assert client.statuses == [200] * count
    assert not client.runtime.connections


def test_pipelined_requests_of_a_client_that_ended_tls_are_not_begun(loop: ManualLoop) -> None:
    client = Client.over_tls(loop)
    client.feed_last(GET * 5000)
    assert client.call.receive()["type"] == "http.request"
    assert client.call.receive() == DISCONNECT
    client.call.finish()
    assert len(client.calls) == 1
    assert not client.runtime.connections
