"""A WebSocket whose client leaves while some of what it sent is still to be read."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.http_stream import ClientDisconnected
from outrider.websocket_frames import FRAMES_PER_TURN
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import Client, FakeTLSTransport, ManualLoop
from outrider_testing.fakes.websocket import ACCEPT, WebSocketExchange, disconnect, opened

MANY = 5 * FRAMES_PER_TURN
TEXTS = [str(number) for number in range(MANY)]
FRAMES = b"".join(ws.frame(ws.TEXT, text.encode()) for text in TEXTS)


def send_last(client: Client, data: bytes, end: str) -> None:
    """Send and leave: with a closure alert that comes with the bytes, or by breaking the connection."""
    assert isinstance(client.transport, FakeTLSTransport)
    if end == "alert":
        client.transport.feed_last(data)
    else:
        client.transport.feed(data)
        client.transport.lose(ConnectionResetError())


def lost(loop: ManualLoop, data: bytes, **config: Any) -> WebSocketExchange:
    """A WebSocket whose client has sent this and left, of which a message waits and the rest is still to be read."""
    exchange = WebSocketExchange(loop, websocket_max_queue=1, **config)
    exchange.feed(data)
    exchange.stream.disconnect()
    loop.run_ready()
    return exchange


# What the application gets


@pytest.mark.parametrize("end", ["alert", "break"])
def test_application_receives_all_that_came_before_the_end(loop: ManualLoop, end: str) -> None:
    client = opened(loop, over_tls=True)
    send_last(client, FRAMES, end)
    loop.run_ready()
    assert [client.call.receive()["text"] for _ in TEXTS] == TEXTS
    assert client.call.receive() == disconnect(1006)
    assert not client.runtime.connections
    assert client.runtime.websockets == 0


@pytest.mark.parametrize("end", ["alert", "break"])
def test_application_that_waits_receives_all_that_came_before_the_end(loop: ManualLoop, end: str) -> None:
    received: list[Any] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        while "text" in (message := await receive()):
            received.append(message["text"])
        received.append(message["code"])

    client = Client.over_tls(loop, app)
    client.feed(ws.handshake())
    send_last(client, FRAMES, end)
    loop.run_ready()
    assert received == [*TEXTS, 1006]
    assert not client.runtime.streams


@pytest.mark.parametrize("end", ["alert", "break"])
def test_close_behind_held_frames_is_told(loop: ManualLoop, end: str) -> None:
    client = opened(loop, over_tls=True)
    send_last(client, ws.frame(ws.PING) * MANY + ws.close(4000, b"bye"), end)
    loop.run_ready()
    assert client.call.receive() == disconnect(4000, "bye")


@pytest.mark.parametrize("end", ["alert", "break"])
def test_client_that_has_left_leaves_turns_of_the_loop_to_others(loop: ManualLoop, end: str) -> None:
    client = opened(loop, over_tls=True, websocket_max_queue=0)
    send_last(client, FRAMES, end)
    (stream,) = client.runtime.streams
    before = 0
    while before < 1024:  # which is as many as may wait
        now = len(stream._messages)  # type: ignore[attr-defined]  # of a WebSocketStream
        assert now - before <= FRAMES_PER_TURN
        before = now
        loop.run_turn()


@pytest.mark.parametrize("end", ["alert", "break"])
def test_nothing_is_written_behind_the_end(loop: ManualLoop, end: str) -> None:
    client = opened(loop, over_tls=True)
    send_last(client, ws.frame(ws.PING) * MANY + ws.frame(ws.TEXT, b"last") + ws.frame(0x3), end)
    loop.run_ready()
    assert client.call.receive()["text"] == "last"
    with pytest.raises(ClientDisconnected):
        client.call.send({"type": "websocket.send", "text": "a"})
    assert client.call.receive()["code"] == 1002
    assert client.transport.written_late == b""
    assert not client.runtime.connections


def test_fault_behind_the_rest_is_told(loop: ManualLoop) -> None:
    exchange = lost(loop, ws.frame(ws.TEXT, b"a") + ws.frame(ws.TEXT, b"b") + ws.frame(0x3))
    assert [exchange.call.receive().get("text") for _ in range(2)] == ["a", "b"]
    assert exchange.call.receive()["code"] == 1002
    assert exchange.channel.ended == ""
    assert exchange.channel.take() == b""


def test_fault_that_waits_for_the_application_is_told(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.frame(ws.TEXT, b"a") + ws.frame(0x3))
    exchange.stream.disconnect()
    assert exchange.call.receive()["text"] == "a"
    assert exchange.call.receive()["code"] == 1002
    assert exchange.channel.ended == ""
    assert exchange.channel.take() == b""


def test_code_of_the_servers_close_is_told(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_max_queue=1)
    exchange.stream.notify_drain(last_call=True)
    exchange.feed(b"".join(ws.frame(ws.TEXT, text) for text in (b"a", b"b", b"c")) + ws.close(4000))
    exchange.stream.disconnect()
    assert [exchange.call.receive().get("text") for _ in range(3)] == ["a", "b", "c"]
    assert exchange.call.receive() == disconnect(1012)


# What the application does


def test_send_raises_although_something_is_left_to_receive(loop: ManualLoop) -> None:
    exchange = lost(loop, ws.frame(ws.TEXT, b"a") * 3)
    with pytest.raises(ClientDisconnected):
        exchange.call.send({"type": "websocket.send", "text": "x"})
    exchange.call.send({"type": "websocket.close"})
    assert [exchange.call.receive()["type"] for _ in range(4)] == ["websocket.receive"] * 3 + ["websocket.disconnect"]


@pytest.mark.parametrize("error", [None, ClientDisconnected("as send() raises")])
def test_application_that_leaves_the_rest_is_no_error(loop: ManualLoop, error: Exception | None) -> None:
    exchange = lost(loop, ws.frame(ws.TEXT, b"a") * 3)
    exchange.call.finish() if error is None else exchange.call.fail(error)
    assert exchange.log.messages("error") == []
    assert exchange.runtime.websockets == 0
    assert not hasattr(exchange.stream, "_reader")
    assert exchange.channel.take() == b""


def test_call_that_receives_nothing_is_cancelled_when_the_grace_period_is_over(loop: ManualLoop) -> None:
    exchange = lost(loop, ws.frame(ws.TEXT, b"a") * 3, disconnect_grace=3)
    cancelled = []
    for _ in range(2):
        loop.advance(2)
        cancelled.append(exchange.call.cancelled)
    assert cancelled == [False, True]
    assert exchange.log.messages("error") == []
    assert exchange.runtime.websockets == 0


def test_grace_period_begins_anew_while_the_application_receives_the_rest(loop: ManualLoop) -> None:
    exchange = lost(loop, ws.frame(ws.TEXT, b"a") * 10, disconnect_grace=3)
    for _ in range(10):
        loop.advance(2)
        assert exchange.call.receive()["text"] == "a"
    assert exchange.call.receive()["code"] == 1006
    for _ in range(2):
        assert not exchange.call.cancelled
        loop.advance(3)
    assert exchange.call.cancelled


def test_second_notice_of_the_end_changes_nothing(loop: ManualLoop) -> None:
    exchange = lost(loop, ws.frame(ws.TEXT, b"a") * 3)
    exchange.stream.disconnect()
    assert [exchange.call.receive()["type"] for _ in range(4)] == ["websocket.receive"] * 3 + ["websocket.disconnect"]
    assert exchange.runtime.websockets == 0
