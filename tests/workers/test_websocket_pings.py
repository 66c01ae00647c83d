"""Pings of an open WebSocket, both ways, and what becomes of a client that does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

from outrider.tls_closing import LINGER
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import ManualLoop
from outrider_testing.fakes.websocket import WebSocketExchange, disconnect, opened


def test_client_is_pinged_and_answers(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_ping_interval=20, websocket_ping_timeout=20)
    for _ in range(3):
        exchange.pass_time(20)
        assert exchange.channel.take() == b"\x89\x00"
        exchange.feed(ws.frame(ws.PONG))


def test_client_that_answered_is_not_pinged_again_before_the_interval_is_over(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_ping_interval=20, websocket_ping_timeout=5)
    exchange.pass_time(20)
    exchange.channel.take()
    exchange.feed(ws.frame(ws.PONG))
    exchange.pass_time(5)
    assert exchange.channel.take() == b""


def test_client_that_does_not_answer_has_gone(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_ping_interval=20, websocket_ping_timeout=5)
    receiving = exchange.call.receiving()
    exchange.pass_time(20)
    exchange.channel.take()
    exchange.pass_time(5)
    assert exchange.channel.take()[2:4] == (1011).to_bytes(2, "big")
    assert exchange.channel.ended == "close"
    assert receiving.result() == disconnect(1006, "no answer to a ping")


def test_client_that_is_given_up_still_has_time_to_take_what_is_left(loop: ManualLoop) -> None:
    client = opened(loop, websocket_ping_interval=20, websocket_ping_timeout=5)
    client.transport.congested = True
    client.sweep(20)
    client.sweep(6)
    assert client.transport.is_closing()
    (connection,) = client.runtime.connections
    assert connection.deadline == loop.time() + LINGER


def test_client_is_not_given_up_while_the_application_makes_it_wait(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_ping_interval=20, websocket_ping_timeout=5, websocket_max_queue=1)
    exchange.feed(ws.frame(ws.TEXT, b"a") * 2)
    for _ in range(10):
        exchange.pass_time(5)
    assert exchange.channel.ended == ""


def test_client_that_does_not_read_is_not_pinged(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.channel.writable = loop.create_future()
    exchange.pass_time(20)
    assert exchange.channel.take() == b""


def test_ping_is_answered(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.frame(ws.PING, b"abc"))
    assert exchange.channel.take() == b"\x8a\x03abc"


def test_only_the_last_ping_is_answered_to_a_client_that_does_not_read(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    writable = exchange.channel.writable = loop.create_future()
    exchange.feed(ws.frame(ws.PING, b"1") + ws.frame(ws.PING, b"2") + ws.frame(ws.PING, b"3"))
    assert exchange.channel.take() == b""
    exchange.channel.writable = None
    writable.set_result(None)
    loop.run_ready()
    assert exchange.channel.take() == b"\x8a\x013"


class Awaited(asyncio.Future[None]):
    """Counts who is to be called when it is done."""

    calls = 0

    def add_done_callback(self, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        super().add_done_callback(*args, **kwargs)


def test_flood_of_pings_leaves_nothing_behind_for_each(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    writable = exchange.channel.writable = Awaited(loop=loop)
    exchange.feed(ws.frame(ws.PING) * 10)
    assert writable.calls == 1


def test_quiet_connection_holds_no_compressor(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, headers=[(b"sec-websocket-extensions", b"permessage-deflate")])
    exchange.call.send({"type": "websocket.send", "text": "x" * 1000})
    compressor = exchange.stream._compressor
    assert compressor is not None
    assert compressor._stream is not None
    exchange.pass_time(20)
    assert compressor._stream is None


def test_late_pong_is_sent_each_time_that_the_client_reads_again(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    for payload in (b"1", b"2"):
        writable = exchange.channel.writable = loop.create_future()
        exchange.feed(ws.frame(ws.PING, payload))
        exchange.channel.writable = None
        writable.set_result(None)
        loop.run_ready()
        assert exchange.channel.take() == b"\x8a\x01" + payload


def test_clients_that_connect_at_once_are_not_pinged_at_once(loop: ManualLoop) -> None:
    exchanges = [WebSocketExchange(loop, websocket_ping_interval=20) for _ in range(100)]
    deadlines = [exchange.channel.deadline - loop.time() for exchange in exchanges]
    assert 10 <= min(deadlines) < 13
    assert 17 < max(deadlines) <= 20
