"""A client that sends many small frames at once: other connections have their turns of the loop in between."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from outrider.http2_engine import ErrorCode
from outrider.http2_frames import FRAMES_PER_TURN
from outrider.http2_guard import BURST
from outrider_testing.fakes import FakeTLSTransport, FakeTransport, ManualLoop, constant
from outrider_testing.http2_client import GET, POST, HTTP2Client

PRIORITY_ON_0 = b"\0\0\5\2\0\0\0\0\0" + bytes(5)


@pytest.fixture
def peers() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection of real sockets: the server's end and the client's."""
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def pieces(client: HTTP2Client, stream: int, count: int, size: int = 1, *, more: bool = True) -> bytes:
    """DATA frames with as many bytes each."""
    for number in range(count):
        client.h2.send_data(stream, bytes(size), end_stream=not more and number == count - 1)
    return client.h2.data_to_send()


def received(client: HTTP2Client) -> int:
    """Bytes of the only request that are with its stream."""
    return client.connection._exchanges[1].stream.buffered


def test_small_data_frames_leave_turns_of_the_loop_to_others(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    count = 10 * FRAMES_PER_TURN
    client.transport.feed(pieces(client, stream, count))
    before = 0
    while before < count:
        now = received(client)
        assert now - before <= FRAMES_PER_TURN
        before = now
        loop.run_turn()
    assert not client.goaways


def test_frames_in_a_large_read_are_counted_together(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, http2_initial_window_size=1 << 20)
    stream = client.request(POST, more=True)
    client.give(1, None)
    client.transport.feed(pieces(client, stream, 600, 300, more=False))
    assert 0 < received(client) <= 300 * FRAMES_PER_TURN
    loop.run_ready()
    assert len(client.call.receive()["body"]) == 600 * 300


def test_requests_are_answered_in_their_order_over_several_turns(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(body=b"ok"))
    for _ in range(80):
        stream = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream, POST)
        for _ in range(9):
            client.h2.send_data(stream, b"x")
        client.h2.end_stream(stream)
    client.exchange()
    assert [(each.status, each.body) for each in client.responses.values()] == [(200, b"ok")] * 80
    assert client.transport.is_reading()


def test_what_is_held_comes_before_the_end_of_the_connection(loop: ManualLoop) -> None:
    bodies: list[bytes] = []

    async def app(_: Any, receive: Any, __: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            bodies.append(message["body"])

    client = HTTP2Client.of(loop, app)
    stream = client.request(POST, more=True)
    client.transport.feed(pieces(client, stream, 2000, more=False))
    client.transport.feed_eof()
    loop.run_ready()
    assert len(b"".join(bodies)) == 2000
    assert client.transport.closing


def test_transport_that_goes_on_although_it_was_paused_loses_nothing(
    loop: ManualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTransport, "pause_reading", lambda _: None)
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    for position in range(0, 1000, 10):
        client.transport.feed(pieces(client, stream, 10, more=position < 990))
    assert received(client) <= FRAMES_PER_TURN
    loop.run_ready()
    assert len(client.call.receive()["body"]) == 1000


@pytest.mark.parametrize("end", ["lose", "abort"])
def test_connection_that_ends_while_frames_are_held_is_over(loop: ManualLoop, end: str) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    client.transport.feed(pieces(client, stream, 1000))
    if end == "lose":
        client.transport.lose()
    else:
        client.connection.abort()
    loop.run_ready()
    assert client.call.receive()["type"] == "http.request"
    assert client.call.receive()["type"] == "http.disconnect"
    assert not client.runtime.connections


def over_tls(loop: ManualLoop, app: Any = None) -> HTTP2Client:
    """A client over TLS that has a request with a body under way."""
    client = HTTP2Client.of(loop, app)
    client.transport = FakeTLSTransport(loop, client.connection)
    client.connection._transport = client.transport
    client.h2.send_headers(1, POST)
    client.transport.feed(client.h2.data_to_send())
    return client


def send_last(client: HTTP2Client, data: bytes, end: str) -> None:
    """Send and leave: with a closure alert that comes with the bytes, or by breaking the connection."""
    assert isinstance(client.transport, FakeTLSTransport)
    if end == "alert":
        client.transport.feed_last(data)
    else:
        client.transport.feed(data)
        client.transport.lose(ConnectionResetError())


@pytest.mark.parametrize("end", ["alert", "break"])
def test_what_is_held_is_received_although_the_transport_has_told_of_the_end(loop: ManualLoop, end: str) -> None:
    client = over_tls(loop)
    send_last(client, pieces(client, 1, 2000, more=False), end)
    loop.run_ready()
    message = client.call.receive()
    assert (len(message["body"]), message["more_body"]) == (2000, False)
    assert client.call.receive() == {"type": "http.disconnect"}
    assert not client.runtime.connections
    assert client.transport.written_late == b""


@pytest.mark.parametrize("end", ["alert", "break"])
def test_client_that_has_left_leaves_turns_of_the_loop_to_others(loop: ManualLoop, end: str) -> None:
    client = over_tls(loop)
    loop.run_ready()
    stream = client.connection._exchanges[1].stream
    send_last(client, pieces(client, 1, 2000), end)
    before = 0
    while before < 2000:
        assert 0 < stream.buffered - before <= FRAMES_PER_TURN
        before = stream.buffered
        loop.run_turn()


@pytest.mark.parametrize("end", ["alert", "break"])
def test_nothing_is_written_to_a_client_that_has_left(loop: ManualLoop, end: str) -> None:
    client = over_tls(loop, constant(body=b"ok"))
    send_last(client, pieces(client, 1, 2000, more=False) + PRIORITY_ON_0, end)
    loop.run_ready()
    assert client.transport.written_late == b""
    assert not client.runtime.connections
    assert not client.runtime.streams


PING = b"\0\0\x08\6\0\0\0\0\0" + bytes(8)


def test_request_of_a_client_that_has_left_waits_for_nobody(loop: ManualLoop) -> None:
    client = over_tls(loop, constant(body=bytes(1 << 18)))
    client.h2.send_headers(3, GET, end_stream=True)
    send_last(client, PING * FRAMES_PER_TURN + client.h2.data_to_send(), "break")
    loop.run_ready()
    assert not client.runtime.streams
    assert not client.runtime.blocked_writers


def test_what_is_held_when_the_server_has_ended_the_connection_is_ignored(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.transport.feed(PING * 2 * FRAMES_PER_TURN + PRIORITY_ON_0)
    for _ in range(2):  # the first time, what is held is given its time
        client.connection.expire()
    loop.run_turn()
    assert client.transport.eof_written
    client.transport.lose()
    loop.run_ready()
    assert client.log.entries == []
    assert not client.runtime.connections


def test_client_that_broke_the_protocol_behind_held_frames_can_read_why(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    client.feed(pieces(client, stream, 1000) + PRIORITY_ON_0 + bytes(1000))
    assert len(client.goaways) == 1
    assert client.transport.eof_written
    assert client.transport.is_reading()


def test_client_that_is_given_up_at_the_end_of_a_turn_can_read_why(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.feed((b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 2 * BURST)
    assert [goaway.error_code for goaway in client.goaways] == [ErrorCode.ENHANCE_YOUR_CALM]
    assert client.transport.eof_written
    assert client.transport.is_reading()


# -- what is readable, and not read


def test_idle_connection_whose_next_request_is_unread_is_not_closed(
    loop: ManualLoop, peers: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = peers
    client = HTTP2Client.of(loop, constant(), keepalive=2)
    client.transport.socket = ours  # type: ignore[assignment]  # a real one, to be looked at
    theirs.send(b"x")
    for _ in range(3):
        stream = client.request(GET)
        client.sweep(5)
        assert client.response(stream).status == 200
    assert not client.is_closed()


def test_idle_connection_of_which_nothing_readable_is_ever_read_is_closed(
    loop: ManualLoop, peers: tuple[socket.socket, socket.socket]
) -> None:
    """A TLS transport that waits for the rest of a record never tells of the end of the connection."""
    ours, theirs = peers
    client = HTTP2Client.of(loop, constant(), keepalive=2)
    client.transport.socket = ours  # type: ignore[assignment]  # a real one, to be looked at
    client.request(GET)
    theirs.close()
    client.sweep(5)
    assert not client.is_closed()
    client.sweep(0.5)
    assert client.is_closed()


def test_client_of_an_idle_connection_is_told_of_its_end_at_once(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), keepalive=2)
    stream = client.request(GET)
    client.runtime.now += 3
    client.connection.expire()
    assert client.transport.eof_written
    client.exchange()
    assert [goaway.last_stream_id for goaway in client.goaways] == [stream]


def test_idle_connection_whose_next_request_is_held_is_not_closed(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), keepalive=2)
    stream = client.request(GET)
    client.h2.send_headers(3, GET, end_stream=True)
    client.transport.feed(b"\0\0\0\xbb\0\0\0\0\0" * (2 * FRAMES_PER_TURN) + client.h2.data_to_send())
    client.runtime.now = loop.time() + 3
    client.connection.expire()
    client.exchange()
    assert client.response(stream).status == client.responses[3].status == 200
