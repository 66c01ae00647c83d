"""The application's side of a request: order of messages, errors, disconnects. The wire is a fake."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.http_stream import HIGH_WATER, Response
from outrider_testing.fakes import Exchange, ManualLoop

BODY = {"type": "http.response.body"}
START = {"type": "http.response.start", "status": 200, "headers": []}
START_WITH_LENGTH = START | {"headers": [(b"content-length", b"4")]}
DISCONNECT = {"type": "http.disconnect"}


@pytest.fixture
def exchange(loop: ManualLoop) -> Exchange:
    return Exchange(loop)


# -- receive


def test_app_receives_an_empty_body_then_waits(exchange: Exchange) -> None:
    exchange.stream.end_body()
    assert exchange.call.receive() == {"type": "http.request", "body": b"", "more_body": False}
    assert not exchange.call.receiving().done()


def test_app_receives_all_that_has_come(exchange: Exchange) -> None:
    exchange.stream.feed_body(b"a")
    exchange.stream.feed_body(b"b")
    assert exchange.call.receive() == {"type": "http.request", "body": b"ab", "more_body": True}
    exchange.stream.feed_body(b"c")
    exchange.stream.end_body()
    assert exchange.call.receive() == {"type": "http.request", "body": b"c", "more_body": False}


def test_app_that_waits_gets_what_comes(exchange: Exchange) -> None:
    receiving = exchange.call.receiving()
    exchange.stream.feed_body(b"a")
    exchange.loop.run_ready()
    assert receiving.result() == {"type": "http.request", "body": b"a", "more_body": True}
    receiving = exchange.call.receiving()
    exchange.stream.end_body()
    exchange.loop.run_ready()
    assert receiving.result() == {"type": "http.request", "body": b"", "more_body": False}


def test_wire_is_told_when_a_full_body_is_taken(exchange: Exchange) -> None:
    exchange.stream.feed_body(bytes(HIGH_WATER))
    exchange.call.receive()
    assert exchange.wire.events == []
    exchange.stream.feed_body(bytes(HIGH_WATER + 1))
    assert exchange.stream.buffered == HIGH_WATER + 1
    exchange.call.receive()
    assert exchange.stream.buffered == 0
    assert exchange.wire.events == ["consumed"]


def test_body_that_came_before_the_client_left_is_received(exchange: Exchange) -> None:
    exchange.stream.feed_body(bytes(HIGH_WATER + 1))
    exchange.stream.disconnect(connection_lost=True)
    message = exchange.call.receive()
    assert (len(message["body"]), message["more_body"]) == (HIGH_WATER + 1, True)
    assert exchange.call.receive() == DISCONNECT
    assert exchange.wire.events == [], "there is nobody to read on from"


def test_end_of_the_body_that_came_before_the_client_left_is_received(exchange: Exchange) -> None:
    exchange.stream.feed_body(b"a")
    exchange.call.receive()
    exchange.stream.end_body()
    exchange.stream.disconnect(connection_lost=True)
    assert exchange.call.receive() == {"type": "http.request", "body": b"", "more_body": False}
    assert exchange.call.receive() == DISCONNECT


def test_cancelled_receive_leaves_another_one_waiting(exchange: Exchange) -> None:
    first, second = exchange.call.receiving(), exchange.call.receiving()
    first.cancel()
    exchange.loop.run_ready()
    assert first.cancelled()
    assert not second.done()
    exchange.stream.feed_body(b"a")
    exchange.loop.run_ready()
    assert second.result()["body"] == b"a"


def test_continue_is_sent_when_the_app_first_receives(exchange: Exchange) -> None:
    exchange.stream.expects_continue = True
    assert exchange.wire.events == []
    exchange.call.receiving()
    exchange.call.receiving()
    assert exchange.wire.events == ["continue"]


def test_continue_is_not_sent_behind_the_head_of_the_response(exchange: Exchange) -> None:
    exchange.stream.expects_continue = True
    exchange.call.send(START)
    receiving = exchange.call.receiving()
    assert exchange.wire.events == [(200, b"", b"", True)]
    exchange.stream.feed_body(b"sent all the same")
    exchange.loop.run_ready()
    assert receiving.result()["body"] == b"sent all the same"


def test_continue_is_not_sent_once_the_body_has_begun(exchange: Exchange) -> None:
    exchange.stream.expects_continue = True
    exchange.stream.feed_body(b"a")
    exchange.call.receive()
    exchange.call.receiving()
    assert exchange.wire.events == []


# -- send


def test_response_with_a_length_waits_for_its_first_body(exchange: Exchange) -> None:
    exchange.call.send(START_WITH_LENGTH)
    assert exchange.wire.events == []
    exchange.call.send(BODY | {"body": b"text"})
    assert exchange.wire.events == [(200, b"content-length: 4\r\n", b"text", False), "complete"]
    assert exchange.stream.response is Response.COMPLETE
    assert exchange.stream.sent == 4


def test_response_without_a_length_starts_at_once(exchange: Exchange) -> None:
    exchange.call.send({"type": "http.response.start", "status": 201})
    assert exchange.wire.events == [(201, b"", b"", True)]
    exchange.call.send(BODY | {"body": bytearray(b"a"), "more_body": True})
    exchange.call.send(BODY)
    assert exchange.wire.events[1:] == [(b"a", True), (b"", False), "complete"]


def test_send_waits_for_the_wire(exchange: Exchange) -> None:
    exchange.wire.writable = exchange.loop.create_future()
    exchange.call.send(START)
    sending = exchange.call.sending(BODY | {"body": b"a", "more_body": True})
    assert not sending.done()
    exchange.wire.writable.set_result(None)
    exchange.loop.run_ready()
    assert sending.done()


@pytest.mark.parametrize("status", [100, 101, 199, 1000, 0, -1, "200", None])
def test_status_that_is_not_final_is_an_error(exchange: Exchange, status: Any) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        exchange.call.send(START | {"status": status})
    exchange.call.fail(RuntimeError())
    assert exchange.wire.events[0][0] == 500


@pytest.mark.parametrize(
    "before, message, state",
    [
        ([], BODY, "pending"),
        ([], {"type": "http.response.trailers"}, "pending"),
        ([], {"type": "websocket.accept"}, "pending"),
        ([START_WITH_LENGTH], START, "started"),
        ([START], START, "streaming"),
        ([START], {"type": "lifespan.startup.complete"}, "streaming"),
    ],
)
def test_message_out_of_order_is_an_error(exchange: Exchange, before: list[Any], message: Any, state: str) -> None:
    for earlier in before:
        exchange.call.send(earlier)
    with pytest.raises(RuntimeError, match=f"'{message['type']}' was sent while the response was {state}"):
        exchange.call.send(message)


@pytest.mark.parametrize(
    "before, message",
    [
        ([], {}),
        ([], {"type": "http.response.start"}),
        ([], {"type": "http.response.early_hint"}),
        ([START], {"type": "http.response.pathsend"}),
        ([START], {"type": "http.response.zerocopysend"}),
    ],
)
def test_message_without_a_required_key_is_an_error(exchange: Exchange, before: list[Any], message: Any) -> None:
    for earlier in before:
        exchange.call.send(earlier)
    with pytest.raises(KeyError):
        exchange.call.send(message)


def test_additional_keys_are_no_error(exchange: Exchange) -> None:
    exchange.call.send(START_WITH_LENGTH | {"reason": "fine"})
    exchange.call.send(BODY | {"body": b"text", "encoding": "utf-8"})
    assert exchange.wire.events == [(200, b"content-length: 4\r\n", b"text", False), "complete"]


def test_late_receive_tells_of_the_end(exchange: Exchange) -> None:
    receiving = exchange.call.receiving()
    exchange.call.send(START)
    exchange.call.send(BODY)
    assert receiving.result() == DISCONNECT
    assert exchange.call.receive() == DISCONNECT


def test_body_that_comes_late_is_dropped(exchange: Exchange) -> None:
    exchange.call.send(START)
    exchange.call.send(BODY)
    exchange.stream.feed_body(b"late")
    assert exchange.stream.buffered == 0
    exchange.call.finish()
    assert exchange.log.entries == []
    assert exchange.runtime.streams == set()


@pytest.mark.parametrize("pieces", [[b"a"], [b"a", b"b"]])
def test_app_receives_byte_strings_and_nothing_like_them(exchange: Exchange, pieces: list[bytes]) -> None:
    for piece in pieces:
        exchange.stream.feed_body(piece)
    assert type(exchange.call.receive()["body"]) is bytes
