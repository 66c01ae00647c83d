"""WebSockets of a worker that drains."""

from __future__ import annotations

from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import ManualLoop
from outrider_testing.fakes.websocket import WebSocketExchange, close_frame, disconnect


def drain(exchange: WebSocketExchange, *, last_call: bool = False) -> None:
    exchange.runtime.draining = True
    exchange.stream.notify_drain(last_call=last_call)


def test_drain_closes_with_1012(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    drain(exchange)
    assert exchange.channel.take() == b""
    exchange.pass_time(1)
    assert exchange.channel.take() == close_frame(1012)
    assert exchange.channel.deadline == loop.time() + exchange.stream.config.close_timeout
    exchange.feed(ws.close(1012))
    assert exchange.channel.ended == "close"
    assert exchange.call.receive() == disconnect(1012)


def test_drain_spreads_many_over_the_window(loop: ManualLoop) -> None:
    exchanges = [WebSocketExchange(loop, graceful_timeout=30, websocket_ping_interval=0) for _ in range(100)]
    for exchange in exchanges:
        exchange.runtime.websockets = 1_000_000
        drain(exchange)
    deadlines = [exchange.channel.deadline - loop.time() for exchange in exchanges]
    assert min(deadlines) < 7
    assert 14 < max(deadlines) <= 21


def test_drain_lets_few_go_at_once(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, graceful_timeout=30)
    drain(exchange)
    drain(exchange)
    assert exchange.channel.deadline - loop.time() <= 0.01


def test_last_call_closes_at_once(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    drain(exchange, last_call=True)
    assert exchange.channel.take() == close_frame(1012)
    drain(exchange, last_call=True)
    assert exchange.channel.take() == b""


def test_messages_on_their_way_are_received_in_a_drain(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_max_queue=1)
    drain(exchange, last_call=True)
    exchange.feed(ws.frame(ws.TEXT, b"a") + ws.frame(ws.TEXT, b"b") + ws.close(1012))
    assert [exchange.call.receive().get("text") for _ in range(2)] == ["a", "b"]
    assert exchange.call.receive() == disconnect(1012)


def test_drain_leaves_a_handshake_to_the_application(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    drain(exchange, last_call=True)
    exchange.call.receive()
    exchange.call.send({"type": "websocket.accept"})
    assert exchange.wire.accepted == []


def test_cut_at_the_end_of_a_drain_is_1012(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.runtime.draining = True
    exchange.stream.cancel()
    loop.run_ready()
    assert exchange.call.cancelled
    assert exchange.channel.take() == close_frame(1012)


def test_cut_during_the_handshake_is_503(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.stream.cancel()
    loop.run_ready()
    assert exchange.wire.events[0][0] == 503


def test_ping_in_a_drain_does_not_put_the_close_off(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_ping_interval=20, websocket_ping_timeout=0)
    exchange.stream._leave_at = loop.time() + 25
    exchange.pass_time(20)
    assert exchange.channel.take() == b"\x89\x00"
    exchange.pass_time(5)
    assert exchange.channel.take() == close_frame(1012)


def test_second_notice_of_a_drain_changes_nothing(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, graceful_timeout=30, websocket_ping_interval=0)
    exchange.runtime.websockets = 1_000_000
    drain(exchange)
    deadline = exchange.channel.deadline
    for _ in range(20):  # each would draw another time
        drain(exchange)
    assert exchange.channel.deadline == exchange.stream._leave_at == deadline


def test_drain_does_not_put_a_ping_off(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, graceful_timeout=1_000_000, websocket_ping_interval=1)
    exchange.runtime.websockets = 100_000_000
    drain(exchange)
    assert exchange.channel.deadline <= loop.time() + 1


def test_call_that_ends_may_be_what_the_drain_waited_for(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    changes: list[int] = []
    exchange.runtime.on_change = lambda: changes.append(len(exchange.runtime.streams))
    drain(exchange, last_call=True)
    exchange.call.finish()
    assert changes == [0]
