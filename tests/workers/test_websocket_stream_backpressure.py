"""A WebSocket's messages wait for who does not read them: the client, or the application."""

from __future__ import annotations

from outrider.http_stream import HIGH_WATER
from outrider.websocket_stream import MOST_WAITING
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import ManualLoop
from outrider_testing.fakes.websocket import WebSocketExchange


def test_send_waits_for_a_client_that_does_not_read(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    writable = exchange.channel.writable = loop.create_future()
    sending = exchange.call.sending({"type": "websocket.send", "text": "a"})
    other = exchange.call.sending({"type": "websocket.send", "text": "b"})
    other.cancel()
    loop.run_ready()
    assert not sending.done()
    writable.set_result(None)
    loop.run_ready()
    assert sending.result() is None


def test_reading_stops_at_as_many_messages_as_may_wait(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_max_queue=4)
    exchange.feed(ws.frame(ws.TEXT, b"a") * 10)
    assert not exchange.channel.is_reading()
    for _ in range(8):
        assert exchange.call.receive()["text"] == "a"
        assert not exchange.channel.is_reading()
    exchange.call.receive()
    assert exchange.channel.is_reading()
    exchange.call.receive()
    assert not exchange.call.receiving().done()


def test_reading_stops_at_as_many_bytes_as_may_wait(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_max_queue=0)
    exchange.feed(ws.frame(ws.BINARY, bytes(HIGH_WATER)))
    assert exchange.channel.is_reading()
    exchange.feed(ws.frame(ws.BINARY, b"x"))
    assert not exchange.channel.is_reading()
    exchange.call.receive()
    assert exchange.channel.is_reading()


def test_one_message_that_is_large_stops_reading(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.frame(ws.BINARY, bytes(HIGH_WATER + 1)))
    assert not exchange.channel.is_reading()


def test_queue_of_0_still_has_a_bound(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_max_queue=0)
    exchange.feed(ws.frame(ws.TEXT, b"a") * (MOST_WAITING - 1))
    assert exchange.channel.is_reading()
    exchange.feed(ws.frame(ws.TEXT, b"a"))
    assert not exchange.channel.is_reading()


def test_reading_does_not_go_on_where_early_messages_fill_the_queue(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False, websocket_max_queue=1)
    exchange.call.receive()
    exchange.stream.feed(ws.frame(ws.BINARY, bytes(HIGH_WATER)) * 2)
    exchange.channel.pause_reading()
    exchange.call.send({"type": "websocket.accept"})
    assert not exchange.channel.is_reading()
