"""WebSockets over HTTP/2 that are refused or over: what the client still sends is taken, and thrown away."""

from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING

import pytest

from outrider.http2_engine import LEAST_CONNECTION_WINDOW, ErrorCode
from outrider.http2_guard import BURST, LOST_STREAM
from outrider.http2_websocket import Tunnel
from outrider_testing.fakes import ManualLoop
from outrider_testing.http2_client import GET, HTTP2Client

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT = ((b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:], (b"sec-websocket-version", b"13"))
CLOSE = b"\x88\x80\0\0\0\0"
MESSAGE = b"\x82\xfe\x3e\x80\0\0\0\0" + bytes(16000)


def connect(client: HTTP2Client) -> int:
    client.h2.config.validate_outbound_headers = False
    stream = client.request(CONNECT, more=True)
    client.calls[-1].receive()
    return stream


def accept(client: HTTP2Client) -> int:
    stream = connect(client)
    client.calls[-1].send({"type": "websocket.accept"})
    client.exchange()
    return stream


def refuse(client: HTTP2Client) -> int:
    stream = connect(client)
    client.call.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    client.exchange()
    return stream


def close(client: HTTP2Client) -> int:
    stream = accept(client)
    client.send(stream, CLOSE, more=True)
    assert client.response(stream).complete
    return stream


@pytest.mark.parametrize("end", [refuse, close], ids=["refused", "closed"])
def test_client_that_goes_on_holds_nothing_up(loop: ManualLoop, end: Callable[[HTTP2Client], int]) -> None:
    client = HTTP2Client.of(loop)
    stream = end(client)
    for _ in range(2 * LEAST_CONNECTION_WINDOW // 16384):
        client.send(stream, bytes(16384), more=True)  # h2 raises where there is no window
    assert not client.is_closed()
    assert client.calls[0].receiving().done() is (end is close)


def test_client_that_goes_on_after_the_end_loses_its_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, write_timeout=30)
    stream = close(client)
    for _ in range(2):
        client.send(stream, b"x", more=True)
        client.sweep(15)
    assert client.response(stream).reset == ErrorCode.CANCEL


def test_stream_that_is_over_has_no_deadline(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, write_timeout=0, websocket_ping_interval=20)
    close(client)
    client.sweep(30)
    assert client.connection.deadline == math.inf


def test_connection_gets_back_what_its_websockets_have_held(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, websocket_max_queue=1)
    held = 0
    while held < 2 * LEAST_CONNECTION_WINDOW:
        stream = accept(client)
        for _ in range(4):
            client.send(stream, MESSAGE, more=True)
        held += client.connection._exchanges[stream].withheld
        client.reset(stream)


def test_websocket_that_was_held_up_goes_on(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, websocket_max_queue=1)
    stream = accept(client)
    for _ in range(3):
        for _ in range(2):
            client.send(stream, MESSAGE, more=True)
        assert client.connection._exchanges[stream].withheld > 0
        for _ in range(2):
            assert client.call.receive()["type"] == "websocket.receive"
        client.exchange()
        assert client.connection._exchanges[stream].withheld == 0
    assert not client.call.receiving().done()


def test_stream_that_is_closed_is_closed_once(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = accept(client)
    tunnel = client.connection._exchanges[stream]
    assert isinstance(tunnel, Tunnel)
    client.reset(stream)
    tunnel.close(linger=False)
    assert client.connection.finishing == set()


def test_websocket_that_is_over_leaves_no_garbage(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    gc.collect()
    gc.disable()
    try:
        stream = close(client)
        client.h2.end_stream(stream)
        client.call.finish()
        client.calls.clear()
        client.exchange()
        assert not any(type(each) is Tunnel for each in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.parametrize("is_proper", [True, False])
def test_websocket_that_is_broken_off_costs_its_client_points(loop: ManualLoop, is_proper: bool) -> None:
    client = HTTP2Client.of(loop)
    for _ in range(BURST // LOST_STREAM + 1):
        if client.is_closed():
            break
        stream = accept(client)
        if is_proper:
            client.send(stream, CLOSE, more=True)
            client.h2.end_stream(stream)
        else:
            client.h2.reset_stream(stream)
        client.exchange()
    assert client.is_closed() is not is_proper


def test_client_that_ends_its_stream_before_the_accept_is_heard(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = connect(client)
    client.send(stream, MESSAGE)
    client.call.send({"type": "websocket.accept"})
    client.exchange()
    assert client.call.receive()["type"] == "websocket.receive"
    assert client.call.receive()["code"] == 1006
    assert client.response(stream).complete


def test_app_may_answer_what_it_has_not_received_before_the_end(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, websocket_max_queue=1)
    stream = accept(client)
    for more in (True, True, False):
        client.send(stream, MESSAGE, more=more)
    client.call.send({"type": "websocket.send", "bytes": b"busy"})
    client.exchange()
    assert client.response(stream).body == b"\x82\4busy"
    for _ in range(3):
        assert client.call.receive()["type"] == "websocket.receive"
    assert client.call.receive()["code"] == 1006
    client.exchange()
    assert client.response(stream).complete


def test_end_of_a_refused_stream_is_not_the_end_of_its_response(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = refuse(client)
    client.send(stream, b"")
    client.call.send({"type": "websocket.http.response.body", "body": b"no"})
    client.exchange()
    assert client.response(stream).body == b"no"
    assert client.response(stream).complete


def test_stream_that_has_ended_may_be_reset_as_it_is_accepted(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = connect(client)
    client.send(stream, b"")
    client.h2.reset_stream(stream)
    reset = client.h2.data_to_send()

    async def accept_as_it_is_reset() -> None:
        await client.call._send({"type": "websocket.accept"})
        client.transport.feed(reset)

    accepting = loop.create_task(accept_as_it_is_reset())
    client.exchange()
    accepting.result()
    assert client.call.receive()["code"] == 1006
    assert client.runtime.websockets == 0


def test_accept_of_a_stream_that_the_engine_has_closed_is_no_error(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = connect(client)
    client.connection.engine.reset(stream, ErrorCode.CANCEL)
    client.connection.engine.to_send(1000)
    client.call.send({"type": "websocket.accept"})
    client.exchange()
    client.connection.flush()
    assert client.call.receive()["code"] == 1006
    assert client.connection._exchanges == {}
