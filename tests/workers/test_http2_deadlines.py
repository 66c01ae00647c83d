"""How long the client of a request over HTTP/2 may take to send its body."""

from __future__ import annotations

from outrider.http2_engine import ErrorCode
from outrider_testing.fakes import ManualLoop, constant
from outrider_testing.http2_client import GET, POST, HTTP2Client

HEAD = ((b":method", b"HEAD"), *GET[1:])


def test_body_that_does_not_come_is_answered_with_408(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30)
    stream = client.request(POST, b"x", more=True)
    client.sweep(30.5)
    assert client.response(stream).status == 408
    assert client.response(stream).reset == ErrorCode.NO_ERROR
    client.call.receive()
    assert client.call.receive() == {"type": "http.disconnect"}
    assert not client.is_closed()


def test_body_of_a_head_request_that_does_not_come_is_answered_without_one(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30)
    stream = client.request(HEAD, b"x", more=True)
    client.sweep(30.5)
    assert client.response(stream).status == 408
    assert client.response(stream).body == b""
    assert client.response(stream).complete


def test_body_that_does_not_come_ends_a_response_that_has_begun(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30)
    stream = client.request(POST, b"x", more=True)
    client.call.start()
    client.exchange()
    client.sweep(30.5)
    assert client.response(stream).reset == ErrorCode.CANCEL


def test_body_that_trickles_is_held_to_min_body_rate(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30, min_body_rate=240)
    stream = client.request(POST, b"x", more=True)
    for _ in range(3):
        client.sweep(9.9)
        client.send(stream, b"x", more=True)
    client.sweep(1)
    assert client.response(stream).status == 408


def test_body_at_a_fair_rate_may_take_its_time(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30, min_body_rate=240)
    stream = client.request(POST, b"x", more=True)
    for _ in range(20):
        client.sweep(20)
        client.send(stream, bytes(240 * 20), more=True)
        client.call.receive()
        client.exchange()
    assert client.response(stream).reset is None


def test_client_is_not_hurried_while_the_app_does_not_receive(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30)
    stream = client.request(POST, more=True)
    while client.h2.local_flow_control_window(stream) >= 16384:
        client.send(stream, bytes(16384), more=True)
    client.sweep(1000)
    assert client.response(stream).reset is None
    client.call.receive()
    client.exchange()
    client.sweep(30.5)
    assert client.response(stream).status == 408


def test_client_that_expects_a_continue_is_not_hurried(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30)
    stream = client.request((*POST, (b"expect", b"100-continue")), more=True)
    client.sweep(1000)
    assert client.response(stream).status == 0
    client.call.receiving()
    client.exchange()
    client.sweep(30.5)
    assert client.response(stream).status == 408


def test_rest_of_a_body_that_does_not_come_ends_the_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), body_timeout=30)
    stream = client.request(POST, b"x", more=True)
    client.sweep(30.5)
    assert client.response(stream).complete
    assert client.response(stream).reset == ErrorCode.NO_ERROR


def test_deadlines_of_streams_are_their_own(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30)
    first = client.request(POST, more=True)
    client.sweep(20)
    second = client.request(POST, more=True)
    client.sweep(10.5)
    assert client.response(first).status == 408
    assert client.response(second).status == 0
    client.sweep(20)
    assert client.response(second).status == 408


def test_app_may_take_its_time_when_the_body_is_whole(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30)
    stream = client.request(POST, b"x", more=True)
    client.send(stream, b"y")
    client.sweep(1000)
    client.call.respond(b"ok")
    client.exchange()
    assert client.response(stream).status == 200


def test_large_piece_of_a_body_earns_no_more_than_body_timeout(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30, min_body_rate=1)
    stream = client.request(POST, bytes(16384), more=True)
    client.sweep(30.5)
    assert client.response(stream).status == 408


def test_body_timeout_can_be_switched_off(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=0)
    stream = client.request(POST, b"x", more=True)
    client.send(stream, b"y", more=True)
    client.sweep(10_000)
    assert client.response(stream).status == 0
    assert client.response(stream).reset is None
