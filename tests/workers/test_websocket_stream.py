"""A WebSocket as the application sees it: the handshake, messages both ways, and what waits."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest

from outrider.http_stream import HIGH_WATER, ClientDisconnected
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import ManualLoop
from outrider_testing.fakes.websocket import WebSocketExchange

# Before the application has accepted


def test_connect_comes_first(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    assert exchange.call.receive() == {"type": "websocket.connect"}


def test_accept_answers_with_headers_and_subprotocol(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.call.send({"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"x-a", b"1")]})
    assert exchange.wire.accepted == [(b"x-a", b"1"), (b"sec-websocket-protocol", b"chat")]
    assert exchange.runtime.websockets == 1
    assert (exchange.runtime.counters.requests, exchange.runtime.counters.websockets) == (1, 1)


def test_deflate_is_agreed_upon_by_setting(loop: ManualLoop) -> None:
    offer = (b"sec-websocket-extensions", b"permessage-deflate")
    agreed = WebSocketExchange(loop, headers=[offer])
    assert agreed.wire.accepted == [(b"sec-websocket-extensions", b"permessage-deflate; client_no_context_takeover")]
    declined = WebSocketExchange(loop, headers=[offer], websocket_per_message_deflate=False)
    assert declined.wire.accepted == []


def test_what_comes_before_accept_waits_for_it(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.stream.feed(ws.frame(ws.TEXT, b"early"))
    assert exchange.stream.buffered > 0
    exchange.call.receive()
    exchange.call.send({"type": "websocket.accept"})
    assert exchange.call.receive() == {"type": "websocket.receive", "text": "early"}
    assert exchange.stream.buffered == 0


def test_reading_that_the_wire_paused_before_accept_goes_on(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.call.receive()
    exchange.stream.feed(ws.frame(ws.BINARY, bytes(HIGH_WATER))[:-1])
    exchange.channel.pause_reading()
    exchange.call.send({"type": "websocket.accept"})
    assert exchange.channel.is_reading()


def test_close_before_accept_is_403(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.call.send({"type": "websocket.close", "code": 1000})
    assert exchange.wire.events[0][0] == 403
    assert exchange.wire.events[-1] == "complete"
    exchange.call.receive()
    assert exchange.call.receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    assert exchange.runtime.counters.requests == 1


def test_denial_is_an_http_response(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.call.send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-a", b"1")]})
    exchange.call.send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
    exchange.call.send({"type": "websocket.http.response.body", "body": b"pe"})
    assert exchange.wire.events == [(401, b"x-a: 1\r\n", b"", True), (b"no", True), (b"pe", False), "complete"]
    with pytest.raises(ClientDisconnected):
        exchange.call.send({"type": "websocket.send", "text": "a"})


def test_denial_waits_for_a_client_that_does_not_read(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.call.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    exchange.wire.writable = loop.create_future()
    sending = exchange.call.sending({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
    assert not sending.done()
    exchange.wire.writable.set_result(None)
    loop.run_ready()
    assert sending.done()


def test_client_that_leaves_during_the_handshake_is_1006(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.stream.disconnect()
    exchange.call.receive()
    assert exchange.call.receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    with pytest.raises(ClientDisconnected):
        exchange.call.send({"type": "websocket.send", "text": "a"})
    exchange.call.finish()
    assert exchange.observer.events[-1][2] == 499


@pytest.mark.parametrize(
    "answer",
    [
        {"type": "websocket.accept"},
        {"type": "websocket.http.response.start", "status": 401, "headers": []},
    ],
)
def test_answer_to_a_client_that_left_during_the_handshake_raises_what_is_no_error(
    loop: ManualLoop, answer: dict[str, Any]
) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.stream.disconnect()
    error = exchange.call.sending(answer).exception()
    assert isinstance(error, ClientDisconnected)
    exchange.call.send({"type": "websocket.close"})  # which many applications do at their end
    exchange.call.fail(error)
    assert exchange.log.messages("error") == []
    assert exchange.observer.events[-1][2] == 499
    assert exchange.runtime.counters.requests == 1


def test_client_that_leaves_during_a_denial_is_told(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.call.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    exchange.stream.disconnect()
    with pytest.raises(ClientDisconnected):
        exchange.call.send({"type": "websocket.http.response.body", "body": b"no"})
    exchange.call.finish()
    assert exchange.observer.events[-1][2] == 401


@pytest.mark.parametrize(
    "kind", ["websocket.send", "websocket.http.response.body", "http.response.start", "websocket.nonsense"]
)
def test_message_out_of_order_is_refused(loop: ManualLoop, kind: str) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    with pytest.raises(RuntimeError, match=kind):
        exchange.call.send({"type": kind, "text": "a"})


def test_second_accept_is_refused(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    with pytest.raises(RuntimeError, match="open"):
        exchange.call.send({"type": "websocket.accept"})


def test_accept_with_bad_headers_fails_the_handshake(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    with pytest.raises(RuntimeError, match="CR, LF"):
        exchange.call.send({"type": "websocket.accept", "headers": [(b"x", b"a\r\nb")]})
    exchange.call.fail(RuntimeError("as an application would"))
    assert exchange.wire.events[0][0] == 500


def test_application_that_returns_at_once_is_500(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.call.finish()
    assert exchange.wire.events[0][0] == 500
    assert "without accepting" in exchange.log.messages("error")[0]
    assert exchange.runtime.counters.errors_5xx == 1
    assert not exchange.runtime.streams


def test_application_that_fails_is_500(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.call.fail(ValueError("x"))
    assert exchange.wire.events[0][0] == 500
    assert isinstance(exchange.log.exceptions[0], ValueError)


def test_denial_that_is_not_completed_is_cut(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.call.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    exchange.call.finish()
    assert exchange.wire.events[-1] == "cut"


def test_application_that_takes_too_long_to_accept_is_cancelled(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False, websocket_handshake_timeout=5)
    assert exchange.wire.deadline == loop.time() + 5
    exchange.stream.expire()
    loop.run_ready()
    assert exchange.call.cancelled
    assert exchange.wire.events[0][0] == 503
    assert "websocket_handshake_timeout" in exchange.log.messages("warning")[0]


# Messages


def test_client_sends_text_and_bytes(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.frame(ws.TEXT, b"a") + ws.frame(ws.BINARY, b"b") + ws.frame(ws.TEXT, b""))
    assert exchange.call.receive() == {"type": "websocket.receive", "text": "a"}
    assert exchange.call.receive() == {"type": "websocket.receive", "bytes": b"b"}
    assert exchange.call.receive() == {"type": "websocket.receive", "text": ""}


def test_application_waits_for_a_message(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    receiving = exchange.call.receiving()
    assert not receiving.done()
    exchange.feed(ws.frame(ws.TEXT, b"a"))
    assert receiving.result() == {"type": "websocket.receive", "text": "a"}


def test_two_tasks_may_wait_for_messages(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    first, second = exchange.call.receiving(), exchange.call.receiving()
    exchange.feed(ws.frame(ws.TEXT, b"a"))
    assert first.done()
    assert not second.done()
    exchange.feed(ws.frame(ws.TEXT, b"b"))
    assert {first.result()["text"], second.result()["text"]} == {"a", "b"}


def test_cancelled_receive_takes_no_message(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    first, second = exchange.call.receiving(), exchange.call.receiving()
    first.cancel()
    loop.run_ready()
    exchange.feed(ws.frame(ws.TEXT, b"a"))
    assert second.result() == {"type": "websocket.receive", "text": "a"}


@pytest.mark.parametrize(
    "message,frame",
    [
        ({"text": "hé"}, b"\x81\x03h\xc3\xa9"),
        ({"bytes": b"\xff"}, b"\x82\x01\xff"),
        ({"bytes": None, "text": "a"}, b"\x81\x01a"),
        ({"bytes": b"", "text": None}, b"\x82\x00"),
        ({"bytes": bytearray(b"ab")}, b"\x82\x02ab"),
        ({"text": "x" * 126}, b"\x81\x7e\x00\x7e" + b"x" * 126),
        ({"bytes": b"x" * 70_000}, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x11\x70" + b"x" * 70_000),
    ],
)
def test_application_sends(loop: ManualLoop, message: dict[str, object], frame: bytes) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.send({"type": "websocket.send", **message})
    assert exchange.channel.take() == frame


@pytest.mark.parametrize("content", [{}, {"text": None}, {"bytes": None, "text": None}, {"text": b"a"}])
def test_message_without_content_is_an_error(loop: ManualLoop, content: dict[str, object]) -> None:
    exchange = WebSocketExchange(loop)
    with pytest.raises((KeyError, AttributeError)):
        exchange.call.send({"type": "websocket.send", **content})
    assert exchange.channel.take() == b""


def test_number_is_no_bytes(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    with pytest.raises(TypeError):
        exchange.call.send({"type": "websocket.send", "bytes": 5})


def test_long_message_is_compressed_and_short_one_is_not(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, headers=[(b"sec-websocket-extensions", b"permessage-deflate")])
    exchange.call.send({"type": "websocket.send", "text": "x" * 127})
    assert exchange.channel.take() == b"\x81\x7e\x00\x7f" + b"x" * 127
    exchange.call.send({"type": "websocket.send", "text": "x" * 128})
    assert exchange.channel.take()[0] == 0xC1
    exchange.call.send({"type": "websocket.send", "text": "x" * 1000})
    frame = exchange.channel.take()
    assert frame[0] == 0xC1
    assert len(frame) < 50


# Observer, counters, names


def test_observer_is_told_once_at_the_end(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.call.send({"type": "websocket.send", "text": "abc"})
    exchange.feed(ws.close(1000))
    assert [event[0] for event in exchange.observer.events] == ["started"]
    exchange.call.finish()
    assert exchange.observer.events[-1] == ("token", "/x", 101, [], 3, 1000)
    assert exchange.runtime.counters.requests == 1


def test_websocket_counts_towards_max_requests(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    reached: list[bool] = []
    exchange.runtime.max_requests = 1
    exchange.runtime.on_max_requests = lambda: reached.append(True)
    exchange.call.send({"type": "websocket.accept"})
    assert reached == [True]


def test_websocket_is_described_among_the_streams(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    assert exchange.runtime.describe_streams()[0].startswith("WebSocket /x from ")


def test_call_that_is_cancelled_before_its_start_is_no_stream(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, start=False)
    exchange.stream.start()
    exchange.stream.cancel()
    assert not exchange.runtime.streams
    loop.run_ready()
    assert asyncio.all_tasks(loop) == set()


def test_many_small_messages_do_not_cost_more_than_linear_time(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, websocket_max_queue=0)
    count = 20_000
    exchange.feed(ws.frame(ws.TEXT, b"a") * count)

    async def drain() -> None:
        for _ in range(count):
            await exchange.stream.receive()

    began = time.process_time()
    loop.run_until_complete(drain())
    assert time.process_time() - began < 2.0  # far less; half a minute if each were weighed against all that wait


# Settings of 0, and deadlines


def test_handshake_timeout_of_0_is_none(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False, websocket_handshake_timeout=0)
    assert exchange.wire.deadline == math.inf


def test_application_that_takes_too_long_is_cancelled_once(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False, websocket_handshake_timeout=5)
    exchange.stream.expire()
    assert exchange.wire.deadline == math.inf


def test_accept_takes_any_iterable_of_headers(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    headers = [(b"x-b", b"1"), (b"x-a", b"2")]
    exchange.call.send({"type": "websocket.accept", "headers": iter(headers)})
    assert exchange.wire.accepted == headers
    exchange.call.finish()
    assert exchange.observer.events[-1][3] == headers


@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.close", "websocket.send"])
def test_websocket_message_within_a_denial_is_refused(loop: ManualLoop, kind: str) -> None:
    exchange = WebSocketExchange(loop, accept=False)
    exchange.call.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    with pytest.raises(RuntimeError, match=f"{kind}.*denying"):
        exchange.call.send({"type": kind, "text": "a"})


def test_denial_has_no_deadline_of_the_handshake(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, accept=False, websocket_handshake_timeout=5)
    exchange.call.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    assert exchange.wire.deadline == math.inf
