"""How a WebSocket ends, and what the application and the client are told: RFC 6455 §7."""

from __future__ import annotations

import pytest

from outrider.errors import Aborted
from outrider.http_stream import ClientDisconnected
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import ManualLoop
from outrider_testing.fakes.websocket import WebSocketExchange, close_frame, disconnect

# By the client


def test_client_closes(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    receiving = exchange.call.receiving()
    exchange.feed(ws.close(1001, b"bye"))
    assert exchange.channel.take() == close_frame(1001)
    assert exchange.channel.ended == "close"
    assert receiving.result() == disconnect(1001, "bye")
    assert exchange.call.receive() == disconnect(1001, "bye")
    assert exchange.runtime.websockets == 0


def test_close_without_code_is_1005(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.close(None))
    assert exchange.channel.take() == b"\x88\x00"
    assert exchange.call.receive() == disconnect(1005)


def test_client_that_vanishes_is_1006(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.stream.disconnect()
    assert exchange.call.receive() == disconnect(1006)
    assert exchange.runtime.websockets == 0


def test_messages_before_the_close_are_received(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.frame(ws.TEXT, b"last") + ws.close(1000) + ws.frame(ws.TEXT, b"too late"))
    assert exchange.call.receive()["text"] == "last"
    assert exchange.call.receive() == disconnect(1000)


def test_send_after_the_clients_close_raises(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.close(1000))
    with pytest.raises(ClientDisconnected):
        exchange.call.send({"type": "websocket.send", "text": "a"})
    exchange.call.send({"type": "websocket.close"})  # which many applications do at their end


def test_call_is_cancelled_when_the_grace_period_is_over(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, disconnect_grace=3)
    exchange.feed(ws.close(1000))
    exchange.stream.disconnect()
    exchange.stream.disconnect()
    cancelled = []
    for _ in range(2):
        loop.advance(2)
        cancelled.append(exchange.call.cancelled)
    assert cancelled == [False, True]
    assert exchange.log.messages("error") == []


def test_application_that_lets_the_disconnect_out_is_no_error(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.close(1000))
    exchange.call.fail(ClientDisconnected("x"))
    assert exchange.log.messages("error") == []


def test_error_that_stands_for_the_disconnect_is_no_error(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.stream.disconnect()
    error = ValueError("what a framework raises in its place")
    error.__context__ = ClientDisconnected("x")
    exchange.call.fail(error)
    assert exchange.log.messages("error") == []
    assert len(exchange.log.messages("debug")) == 1


def test_disconnect_of_another_websocket_closes_this_one_with_1011(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.fail(ClientDisconnected("as when broadcasting"))
    assert exchange.channel.take() == close_frame(1011)
    assert len(exchange.log.exceptions) == 1


# By the application


def test_application_closes(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.send({"type": "websocket.close", "code": 3000, "reason": "enough"})
    assert exchange.channel.take() == close_frame(3000, b"enough")
    assert exchange.channel.ended == ""
    assert exchange.call.receive() == disconnect(3000, "enough")
    exchange.feed(ws.frame(ws.TEXT, b"late") + ws.frame(ws.PING) + ws.close(3000))
    assert exchange.channel.take() == b""
    assert exchange.channel.ended == "close"
    assert exchange.call.receive() == disconnect(3000, "enough")


def test_code_is_1000_unless_the_application_gives_one(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.send({"type": "websocket.close", "reason": None})
    assert exchange.channel.take() == close_frame(1000)


def test_application_may_close_without_code(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.send({"type": "websocket.close", "code": 1005})
    assert exchange.channel.take() == b"\x88\x00"


@pytest.mark.parametrize("code", [1006, 1015, 42])
def test_code_that_may_not_be_sent_is_refused(loop: ManualLoop, code: int) -> None:
    exchange = WebSocketExchange(loop)
    with pytest.raises(RuntimeError, match="close code"):
        exchange.call.send({"type": "websocket.close", "code": code})


def test_application_that_returns_closes(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.finish()
    assert exchange.channel.take() == close_frame(1000)
    assert not exchange.runtime.streams


def test_application_that_fails_closes_with_1011(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.fail(ValueError("x"))
    assert exchange.channel.take() == close_frame(1011)
    assert isinstance(exchange.log.exceptions[0], ValueError)


def test_close_with_1011_counts_as_an_error_as_a_500_does(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.fail(ValueError("x"))
    counters = exchange.runtime.counters
    assert (counters.requests, counters.errors_5xx) == (1, 1)


def test_end_that_is_no_fault_of_the_application_is_no_error(loop: ManualLoop) -> None:
    closed, returned, silent, drained = (WebSocketExchange(loop, websocket_ping_timeout=5) for _ in range(4))
    closed.feed(ws.close(1000))
    closed.call.fail(ValueError("after the end"))
    returned.call.finish()
    silent.pass_time(20)
    silent.pass_time(5)
    drained.runtime.draining = True
    drained.stream.cancel()
    loop.run_ready()
    for exchange in (closed, returned, silent, drained):
        counters = exchange.runtime.counters
        assert (counters.requests, counters.errors_5xx) == (1, 0)


def test_client_that_does_not_answer_the_close_is_cut(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_close_timeout=10)
    exchange.call.send({"type": "websocket.close"})
    exchange.pass_time(9)
    assert exchange.channel.ended == ""
    exchange.pass_time(1)
    assert exchange.channel.ended == "abort"
    assert exchange.runtime.websockets == 0


def test_close_is_answered_although_the_application_did_not_receive(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_max_queue=2)
    exchange.feed(ws.frame(ws.TEXT, b"a") * 5)
    assert not exchange.channel.is_reading()
    exchange.call.send({"type": "websocket.close"})
    assert exchange.channel.is_reading()
    exchange.feed(ws.close(1000))
    assert exchange.channel.ended == "close"


# Because of what the client did


def test_broken_protocol_closes_with_its_code(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    receiving = exchange.call.receiving()
    exchange.feed(ws.frame(ws.TEXT, b"\xff"))
    assert exchange.channel.take()[2:4] == (1007).to_bytes(2, "big")
    assert exchange.channel.ended == "linger"
    assert receiving.result()["code"] == 1007
    assert "1007" in exchange.log.messages("info")[0]


def test_too_large_message_closes_with_1009(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_max_message_size=10)
    exchange.feed(ws.frame(ws.BINARY, b"x" * 11)[:6])
    assert exchange.channel.take()[2:4] == (1009).to_bytes(2, "big")
    assert exchange.call.receive()["code"] == 1009


def test_messages_before_the_fault_are_answered_first(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.frame(ws.TEXT, b"a") + ws.frame(0x3))
    assert exchange.call.receive()["text"] == "a"
    exchange.call.send({"type": "websocket.send", "text": "b"})
    assert exchange.channel.take() == b"\x81\x01b"
    assert exchange.call.receive()["code"] == 1002
    assert exchange.channel.take()[2:4] == (1002).to_bytes(2, "big")
    assert exchange.channel.ended == "linger"


def test_fault_does_not_wait_for_ever_for_the_application(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_close_timeout=10)
    exchange.feed(ws.frame(ws.TEXT, b"a") + ws.frame(0x3))
    assert not exchange.channel.is_reading()
    exchange.pass_time(10)
    assert exchange.channel.ended == "linger"


def test_fault_behind_waiting_messages_is_found_when_they_are_taken(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_max_queue=1)
    exchange.feed(ws.frame(ws.TEXT, b"a") + ws.frame(ws.TEXT, b"b") + ws.frame(0x3))
    assert [exchange.call.receive().get("text") for _ in range(2)] == ["a", "b"]
    assert exchange.call.receive()["code"] == 1002


def test_fault_in_answer_to_a_close_ends_it(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.send({"type": "websocket.close", "code": 3000})
    exchange.channel.take()
    exchange.feed(ws.frame(0x3))
    assert exchange.channel.take() == b""
    assert exchange.channel.ended == "linger"
    assert exchange.call.receive() == disconnect(3000)


# What happens only once, or never


def test_client_that_goes_on_after_its_close_is_not_heard(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.close(1000) + ws.frame(ws.PING) + ws.close(1001) + ws.frame(0x3))
    assert exchange.channel.take() == close_frame(1000)
    assert exchange.channel.ended == "close"
    assert exchange.call.receive() == disconnect(1000)
    assert exchange.log.messages("info") == []


def test_websocket_that_is_over_holds_no_buffers(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, headers=[(b"sec-websocket-extensions", b"permessage-deflate")])
    exchange.feed(ws.frame(ws.BINARY, bytes(1000), 0) + ws.close(1000))
    assert not hasattr(exchange.stream, "_reader")
    assert exchange.stream._compressor is None


def test_client_that_leaves_during_the_handshake_leaves_nothing(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.stream.feed(bytes(1000))
    exchange.stream.disconnect()
    assert exchange.stream.buffered == 0


def test_what_comes_during_a_denial_is_not_kept(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.stream.feed(bytes(1000))
    exchange.call.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    exchange.stream.feed(bytes(1000))
    assert exchange.stream.buffered == 0


def test_close_timeout_of_0_is_none(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_close_timeout=0)
    exchange.call.send({"type": "websocket.close"})
    exchange.pass_time(10_000)
    assert exchange.channel.ended == ""


def test_application_that_sends_after_its_own_close_is_told(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.send({"type": "websocket.close"})
    with pytest.raises(ClientDisconnected):
        exchange.call.send({"type": "websocket.send", "text": "a"})


def test_messages_that_wait_are_thrown_away_when_the_application_closes(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.frame(ws.TEXT, b"a"))
    exchange.call.send({"type": "websocket.close"})
    assert exchange.call.receive() == disconnect(1000)


def test_task_that_waits_for_a_message_is_told_that_the_application_has_closed(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    receiving = exchange.call.receiving()
    exchange.call.send({"type": "websocket.close"})
    assert receiving.result() == disconnect(1000)


def test_nothing_more_is_read_behind_a_fault(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.frame(ws.TEXT, b"a") * 2 + ws.frame(0x3))
    for _ in range(2):
        exchange.call.receive()
        assert not exchange.channel.is_reading()


def test_call_that_is_cancelled_after_the_close_is_no_error(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.send({"type": "websocket.close"})
    exchange.stream.cancel()
    loop.run_ready()
    assert exchange.call.cancelled
    assert exchange.log.messages("error") == []


def test_abort_of_the_worker_passes_through(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    with pytest.raises(Aborted):
        exchange.call.fail(Aborted(1))
    assert exchange.channel.take() == b""
