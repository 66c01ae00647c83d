"""WebSockets over HTTP/2 (RFC 8441): the handshake, and its bytes as DATA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outrider.http2_engine import ErrorCode
from outrider.http_stream import HIGH_WATER
from outrider.websocket_frames import FRAMES_PER_TURN
from outrider_testing.fakes import ManualLoop
from outrider_testing.http2_client import GET, HTTP2Client

if TYPE_CHECKING:
    import asyncio

CONNECT = (
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"http"),
    (b":authority", b"a"),
    (b":path", b"/chat?x=1"),
    (b"sec-websocket-version", b"13"),
)
MASK = b"\0\0\0\0"


def frame(first: int, payload: bytes) -> bytes:
    """A frame of the client's, masked with zeros."""
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + MASK + payload
    return bytes((first, 0x80 | 127)) + size.to_bytes(8, "big") + MASK + payload


def connect(client: HTTP2Client, fields: tuple[tuple[bytes, bytes], ...] = CONNECT) -> int:
    client.h2.config.validate_outbound_headers = False
    return client.request(fields, more=True)


def accept(client: HTTP2Client, **message: object) -> int:
    stream = connect(client)
    call = client.calls[-1]
    assert call.receive() == {"type": "websocket.connect"}
    call.send({"type": "websocket.accept", **message})
    client.exchange()
    return stream


def test_extended_connect_becomes_a_websocket_scope(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    connect(client, (*CONNECT, (b"sec-websocket-protocol", b"one, two")))
    scope = client.call.scope
    assert scope["type"] == "websocket"
    assert scope["http_version"] == "2"
    assert scope["scheme"] == "ws"
    assert (scope["path"], scope["query_string"]) == ("/chat", b"x=1")
    assert scope["subprotocols"] == ["one", "two"]
    assert "method" not in scope
    assert scope["headers"][0] == (b"host", b"a")


def test_accepted_handshake_is_answered_with_200(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client, subprotocol="one", headers=[(b"X-A", b"b")])
    assert client.response(stream).headers == [
        (b":status", b"200"),
        (b"x-a", b"b"),
        (b"sec-websocket-protocol", b"one"),
    ]
    assert not client.response(stream).complete


def test_messages_go_both_ways(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client)
    client.send(stream, frame(0x81, b"hello"), more=True)
    assert client.call.receive() == {"type": "websocket.receive", "text": "hello"}
    client.call.send({"type": "websocket.send", "bytes": b"back"})
    client.exchange()
    assert client.response(stream).body == b"\x82\x04back"


def test_frames_may_be_split_over_data_frames(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client)
    for byte in frame(0x82, b"hello"):
        client.send(stream, bytes((byte,)), more=True)
    assert client.call.receive() == {"type": "websocket.receive", "bytes": b"hello"}


def test_bytes_before_the_accept_are_kept(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = connect(client)
    client.send(stream, frame(0x81, b"early"), more=True)
    client.call.receive()
    client.call.send({"type": "websocket.accept"})
    assert client.call.receive() == {"type": "websocket.receive", "text": "early"}


@pytest.mark.parametrize("by_app", [True, False])
def test_closing_handshake_ends_the_stream(loop: ManualLoop, by_app: bool) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client)
    if by_app:
        client.call.send({"type": "websocket.close", "code": 4000, "reason": "bye"})
        client.exchange()
        assert client.response(stream).body == b"\x88\x05\x0f\xa0bye"
        assert not client.response(stream).complete
    client.send(stream, frame(0x88, b"\x0f\xa0bye"), more=True)
    assert client.response(stream).complete
    assert client.call.receive() == {"type": "websocket.disconnect", "code": 4000, "reason": "bye"}
    client.h2.end_stream(stream)
    client.call.finish()
    client.exchange()
    assert client.connection.finishing == set()
    assert client.response(client.request()).reset is None


def test_stream_that_ends_before_the_accept_is_heard_to_its_end(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = connect(client)
    client.send(stream, frame(0x81, b"hello") + frame(0x88, b"\x0f\xa0bye"))
    assert client.call.receive() == {"type": "websocket.connect"}
    client.call.send({"type": "websocket.accept"})
    client.exchange()
    assert client.call.receive()["text"] == "hello"
    assert client.call.receive()["code"] == 4000
    assert client.response(stream).complete


def test_broken_frame_ends_the_stream_but_not_the_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client)
    client.send(stream, b"\xff\xff\xff", more=True)
    assert client.response(stream).complete
    assert client.response(stream).reset == ErrorCode.NO_ERROR
    assert client.call.receive()["code"] == 1002
    assert not client.is_closed()


@pytest.mark.parametrize("how", ["reset", "end", "lose"])
def test_client_that_leaves_without_close_is_gone_with_1006(loop: ManualLoop, how: str) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client)
    if how == "reset":
        client.reset(stream)
    elif how == "end":
        client.h2.end_stream(stream)
        client.exchange()
    else:
        client.lose()
    assert client.call.receive()["code"] == 1006
    assert client.runtime.websockets == 0


@pytest.mark.parametrize(
    "fields, status",
    [
        (CONNECT[:-1], 426),
        ((CONNECT[0], (b":protocol", b"tea"), *CONNECT[2:]), 501),
        ((*CONNECT[:-1], (b"sec-websocket-version", b"8")), 426),
    ],
)
def test_connect_for_something_else_is_refused(
    loop: ManualLoop, fields: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    client = HTTP2Client.of(loop)
    stream = connect(client, fields)
    assert client.response(stream).status == status
    assert client.response(stream).all("sec-websocket-version") == ([b"13"] if status == 426 else [])
    assert client.response(stream).reset == ErrorCode.NO_ERROR
    assert client.calls == []


def test_connect_that_ends_at_once_is_refused(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.h2.config.validate_outbound_headers = False
    assert client.response(client.request(CONNECT)).status == 400


def test_websockets_can_be_switched_off(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, websocket=None)
    assert 8 not in client.settings
    stream = connect(client)
    assert client.response(stream).status == 501 or client.response(stream).reset == ErrorCode.PROTOCOL_ERROR
    assert client.calls == []


# -- refusals


def test_app_refuses_with_403(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = connect(client)
    client.call.receive()
    client.call.send({"type": "websocket.close"})
    client.exchange()
    assert client.response(stream).status == 403
    assert client.response(stream).complete
    assert client.response(stream).reset == ErrorCode.NO_ERROR
    assert client.connection.finishing == set()


def test_app_refuses_with_a_response_of_its_own(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = connect(client)
    client.call.receive()
    client.call.send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x", b"y")]})
    client.call.send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
    client.send(stream, b"ignored", more=True)
    client.call.send({"type": "websocket.http.response.body", "body": b"!"})
    client.exchange()
    assert client.response(stream).status == 401
    assert client.response(stream).body == b"no!"
    assert client.response(stream).complete


def test_client_that_leaves_during_a_refusal_is_noticed(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = connect(client)
    client.call.receive()
    client.call.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    client.exchange()
    client.reset(stream)
    assert client.runtime.websockets == 0
    client.call.finish()
    assert client.runtime.streams == set()


# -- flow control


def test_client_is_held_up_while_the_app_does_not_receive(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client)
    message = frame(0x82, bytes(16000))
    sent = 0
    while client.h2.local_flow_control_window(stream) >= len(message):
        client.send(stream, message, more=True)
        sent += 1
        assert sent < 100
    assert HIGH_WATER < sent * 16000 < 3 * HIGH_WATER
    for _ in range(sent):
        assert len(client.call.receive()["bytes"]) == 16000
    client.exchange()
    assert client.h2.local_flow_control_window(stream) > HIGH_WATER // 2


def test_client_is_held_up_before_the_accept(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = connect(client)
    sent = 0
    while client.h2.local_flow_control_window(stream) >= 16014:
        client.send(stream, frame(0x82, bytes(16000)), more=True)
        sent += 1
        assert sent < 100
    client.call.receive()
    client.call.send({"type": "websocket.accept"})
    for _ in range(sent):
        assert len(client.call.receive()["bytes"]) == 16000
    client.exchange()
    assert client.h2.local_flow_control_window(stream) > HIGH_WATER // 2


def test_app_waits_for_a_client_that_takes_nothing(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.acknowledges = False
    stream = accept(client)
    sendings: list[asyncio.Task[None]] = []
    while not sendings or sendings[-1].done():
        sendings.append(client.call.sending({"type": "websocket.send", "bytes": bytes(16000)}))
        client.exchange()
        assert len(sendings) < 100
    client.h2.acknowledge_received_data(len(client.response(stream).body), stream)
    client.exchange()
    assert sendings[-1].done()


def test_client_that_takes_nothing_for_long_loses_its_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, write_timeout=30, websocket_ping_interval=0)
    client.acknowledges = False
    stream = accept(client)
    while True:
        sending = client.call.sending({"type": "websocket.send", "bytes": bytes(16000)})
        client.exchange()
        if not sending.done():
            break
    client.sweep(30)
    client.sweep(30)
    assert client.response(stream).reset == ErrorCode.CANCEL
    assert sending.done()


def test_client_that_never_ends_a_stream_that_is_closed_loses_it(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, write_timeout=30)
    stream = accept(client)
    client.send(stream, frame(0x88, b""), more=True)
    assert client.response(stream).complete
    client.sweep(30)
    assert client.response(stream).reset == ErrorCode.CANCEL
    assert client.connection.finishing == set()


def test_client_is_not_blamed_for_what_is_added_while_it_takes_its_messages(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={4: 0}, write_timeout=30, min_body_rate=240, websocket_ping_interval=0)
    client.acknowledges = False
    accept(client)
    for _ in range(3):
        client.call.sending({"type": "websocket.send", "bytes": bytes(HIGH_WATER + 1)})
        client.exchange()
        client.give(240 * 30, 1)
        client.sweep(30)
    assert client.response().reset is None
    client.sweep(30)
    assert client.response().reset == ErrorCode.CANCEL


# -- deadlines and the drain


def test_client_is_pinged_and_given_up(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, websocket_ping_interval=20, websocket_ping_timeout=20)
    stream = accept(client)
    client.sweep(21)
    client.exchange()
    assert client.response(stream).body == b"\x89\x00"
    client.sweep(21)
    client.exchange()
    assert client.response(stream).complete
    assert client.call.receive()["code"] == 1006


def test_drain_closes_websockets_with_1012(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client)
    client.drain()
    for each in list(client.runtime.streams):
        each.notify_drain(last_call=True)
    client.exchange()
    assert client.response(stream).body == b"\x88\x02\x03\xf4"
    client.send(stream, frame(0x88, b"\x03\xf4"))
    client.call.finish()
    assert client.is_closed()


def test_websocket_and_requests_share_a_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client)
    other = client.request(GET)
    client.calls[1].respond(b"ok")
    client.send(stream, frame(0x81, b"hello"), more=True)
    assert client.response(other).body == b"ok"
    assert client.calls[0].receive()["text"] == "hello"


def test_client_that_does_not_answer_the_close_loses_its_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, websocket_close_timeout=5)
    stream = accept(client)
    client.call.send({"type": "websocket.close"})
    client.exchange()
    client.sweep(4)
    assert client.response(stream).reset is None
    client.sweep(1.5)
    assert client.response(stream).reset == ErrorCode.CANCEL
    assert not client.is_closed()


def test_end_of_the_stream_comes_after_what_the_websocket_holds(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, websocket_max_queue=2)
    stream = accept(client)
    messages = b"".join(frame(0x81, b"%d" % number) for number in range(5))
    client.send(stream, frame(0x89, b"") * (FRAMES_PER_TURN + 100) + messages)
    assert [client.call.receive()["text"] for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert client.call.receive()["code"] == 1006
    client.exchange()
    assert client.response(stream).complete


def test_pings_in_few_frames_leave_turns_of_the_loop_to_others(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client)
    pings = 8 * FRAMES_PER_TURN
    client.h2.send_data(stream, frame(0x89, b"") * pings)
    client.transport.feed(client.h2.data_to_send())
    answered = [client.sent.count(b"\x8a\0")]
    while answered[-1] < pings:
        loop.run_turn()
        answered.append(client.sent.count(b"\x8a\0"))
    assert max(later - before for before, later in zip([0, *answered], answered, strict=False)) <= FRAMES_PER_TURN
    client.exchange()
    assert client.response(stream).body == b"\x8a\0" * pings
