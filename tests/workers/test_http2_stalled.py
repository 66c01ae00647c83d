"""Clients of HTTP/2 that take nothing more: in whatever order things happen, there is a deadline for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from outrider.http2_engine import ErrorCode, reset_frame
from outrider.http2_writer import FLUSH_SIZE
from outrider.http_stream import HIGH_WATER, ClientDisconnected
from outrider_testing.fakes import DrivenApp, ManualLoop, make_context, make_runtime
from outrider_testing.http2_client import GET, POST, HTTP2Client, Response
from outrider_testing.server_fakes import eventually

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from outrider.runtime import ASGIApp, Message, Receive, Scope, Send

INITIAL_WINDOW = 4
CONNECT = (
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    *GET[1:],
    (b"sec-websocket-version", b"13"),
)
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
DEFAULT_WINDOW = 65535
# A WINDOW_UPDATE of the whole connection.
UPDATE = b"\0\0\4\x08\0\0\0\0\0\0\0\1\0"


def sender(*pieces: bytes, begin: asyncio.Future[None] | None = None) -> ASGIApp:
    """Make an application that sends these pieces of body and the end, the first when `begin` is done."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        if begin is not None:
            await begin
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def request_in_a_turn(client: HTTP2Client) -> int:
    """Send a request from within the running loop, where Python 3.12 and later start tasks eagerly."""
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, GET, end_stream=True)
    client.responses[stream] = Response()
    client.loop.call_soon(client.transport.feed, client.h2.data_to_send())
    client.exchange()
    return stream


def assert_reset_after_the_deadline(client: HTTP2Client, stream: int) -> None:
    assert client.connection in client.runtime.blocked_writers
    client.sweep(29)
    assert client.response(stream).reset is None
    client.sweep(1)
    assert client.response(stream).reset == ErrorCode.CANCEL
    client.exchange()
    assert client.runtime.blocked_writers == set()
    assert not client.is_closed()


# -- the order in which things happen


def test_client_without_a_window_is_found_when_the_app_sends_at_once(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, sender(bytes(200_000)), settings={INITIAL_WINDOW: 0}, write_timeout=30)
    assert_reset_after_the_deadline(client, request_in_a_turn(client))


def test_client_without_a_window_is_found_when_it_sends_in_the_same_turn_as_the_app(loop: ManualLoop) -> None:
    begin = loop.create_future()
    app = sender(bytes(200_000), begin=begin)
    client = HTTP2Client.of(loop, app, settings={INITIAL_WINDOW: 0}, write_timeout=30)
    stream = client.request()
    begin.set_result(None)
    loop.call_soon(client.transport.feed, UPDATE)
    client.exchange()
    assert_reset_after_the_deadline(client, stream)


def test_client_whose_window_ends_before_the_last_piece_is_found_when_the_app_sends_at_once(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, sender(bytes(DEFAULT_WINDOW + 1000)), write_timeout=30)
    client.acknowledges = False
    assert_reset_after_the_deadline(client, request_in_a_turn(client))


@pytest.mark.parametrize("size", [100, 200_000])
def test_response_of_an_app_that_sends_at_once_arrives_whole(loop: ManualLoop, size: int) -> None:
    client = HTTP2Client.of(loop, sender(bytes(size), b"end"))
    stream = request_in_a_turn(client)
    assert client.response(stream).body == bytes(size) + b"end"
    assert client.response(stream).complete


# -- who has stalled


def test_client_that_takes_nothing_of_a_file_loses_its_stream(loop: ManualLoop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    client = HTTP2Client.of(loop, write_timeout=30)
    client.acknowledges = False
    stream = client.request()
    client.call.start()
    sending = client.call.sending({"type": "http.response.pathsend", "path": str(path)})

    def is_held_up() -> bool:
        client.exchange()
        return bool(client.connection.waiting)

    eventually(loop, is_held_up)
    assert_reset_after_the_deadline(client, stream)
    assert isinstance(sending.exception(), ClientDisconnected)


def test_client_that_takes_nothing_of_a_refusal_loses_its_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 0}, body_timeout=10, write_timeout=30)
    stream = client.request(POST, more=True)
    client.sweep(10.5)
    client.send(stream, b"more", more=True)
    assert (client.response(stream).status, client.response(stream).complete) == (408, False)
    assert_reset_after_the_deadline(client, stream)
    assert client.log.messages("warning") == [
        "Refused a request from 192.0.2.7:54321: the request did not arrive in time"
    ]


def test_client_that_takes_one_response_is_not_blamed_for_its_slow_app_while_another_waits(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 0}, write_timeout=30, min_body_rate=10_000)
    client.acknowledges = False
    taken, _ = client.request(), client.request()
    piece = {"type": "http.response.body", "body": bytes(HIGH_WATER + 1), "more_body": True}
    for call in client.calls:
        call.start()
        call.sending(piece)
    client.exchange()
    client.sweep(1)
    client.give(HIGH_WATER + 1, taken)
    client.sweep(28)
    client.calls[0].sending(piece)
    client.exchange()
    client.sweep(2)
    assert client.response(taken).reset is None


def test_stream_that_ends_while_another_expires_does_not_expire_as_well(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 0}, body_timeout=20, websocket_ping_interval=20)
    client.h2.config.validate_outbound_headers = False
    client.request(CONNECT, more=True)
    websocket = client.call
    websocket.receive()
    websocket.send({"type": "websocket.accept"})
    websocket.send({"type": "websocket.send", "bytes": bytes(HIGH_WATER - 4)})  # and a ping is more than that
    failing = client.request(POST, more=True)
    client.calls[1].start()
    client.exchange()
    client.runtime.now += 20.5
    client.calls[1]._end.set_exception(ValueError("no"))
    loop.run_turn()  # which resets the stream, and has it written in the next one
    client.connection.expire()
    client.exchange()
    assert client.response(failing).reset == ErrorCode.INTERNAL_ERROR
    assert not client.is_closed()


# -- a transport that takes nothing


def test_refusal_without_a_body_waits_for_a_congested_transport(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 1 << 20})
    client.give(1 << 20)
    client.transport.congested = True
    client.request()
    client.call.sending({**START})
    client.call.sending({"type": "http.response.body", "body": bytes(300_000), "more_body": True})
    client.exchange()
    refused = client.request(((b":method", b"HEAD"), *GET[1:], (b"expect", b"tea")), more=True)
    client.transport.congested = False
    client.transport.take(1 << 20)
    client.exchange()
    assert client.response(refused).status == 417
    assert client.response(refused).complete


def test_reset_of_a_late_frame_waits_for_a_congested_transport_but_not_for_more(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 1 << 20})
    client.give(1 << 20)
    cancelled = client.request(POST, more=True)
    client.reset(cancelled)
    client.transport.congested = True
    client.request()
    client.calls[1].start()
    client.calls[1].sending({"type": "http.response.body", "body": bytes(2 * FLUSH_SIZE), "more_body": True})
    client.feed(b"\0\0\1\0\0" + cancelled.to_bytes(4, "big") + b"x")
    reset = reset_frame(cancelled, ErrorCode.STREAM_CLOSED)
    assert reset not in client.sent
    client.transport.congested = False
    client.transport.take(1 << 20)
    loop.run_ready()
    assert client.sent.endswith(reset)


def test_connection_that_is_not_read_is_aborted_although_no_stream_waits_any_more(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 0}, write_timeout=30)
    waiting, large = client.request(), client.request()
    client.calls[0].start()
    client.calls[0].sending({"type": "http.response.body", "body": bytes(200_000), "more_body": True})
    client.exchange()
    client.give(1 << 20)
    client.give(1 << 20, large)
    client.transport.congested = True
    client.calls[1].respond(bytes(200_000))
    client.exchange()
    client.reset(waiting)
    client.sweep(30)
    assert client.transport.was_aborted()


@pytest.mark.parametrize("size, is_told", [(1000, True), (2 * FLUSH_SIZE, False)])
def test_client_is_told_why_it_is_given_up_unless_it_waits_for_the_rest_of_a_frame(
    loop: ManualLoop, size: int, is_told: bool
) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 1 << 20})
    client.give(1 << 20)
    client.transport.congested = True
    client.request()
    client.call.start()
    client.call.sending({"type": "http.response.body", "body": bytes(size), "more_body": True})
    client.exchange()
    before = client.sent
    client.feed(b"\0\0\5\2\0\0\0\0\0hello")  # PRIORITY on stream 0
    assert client.is_closed()
    assert bool(client.goaways) is is_told
    assert is_told or client.sent == before


# -- the client shuts down its sending side


def test_client_that_shuts_down_its_sending_side_and_reads_slowly_may_read_on(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, write_timeout=30, min_body_rate=240)
    client.transport.congested = True
    client.request()
    client.call.start()
    client.call.body(bytes(60_000), more=True)
    client.exchange()
    client.transport.feed_eof()
    loop.run_ready()
    for _ in range(3):
        client.transport.take(240 * 30)
        client.sweep(30.5)
        assert not client.transport.was_aborted()
    client.sweep(30.5)
    assert client.transport.was_aborted()


@pytest.mark.parametrize("size", [1000, 60_000])
def test_client_that_shuts_down_its_sending_side_and_does_not_read_is_aborted(loop: ManualLoop, size: int) -> None:
    client = HTTP2Client.of(loop, write_timeout=30)
    client.transport.congested = True
    client.request()
    client.call.start()
    client.call.body(bytes(size), more=True)
    client.exchange()
    client.transport.feed_eof()
    loop.run_ready()
    assert client.transport.closing
    client.sweep(29)
    assert not client.transport.was_aborted()
    client.sweep(1.5)
    assert client.transport.was_aborted()
    assert client.runtime.connections == set()
    assert client.runtime.blocked_writers == set()


def test_connection_writes_nothing_after_the_client_has_shut_down_its_sending_side(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.transport.congested = True
    client.request()
    client.call.start()
    client.exchange()
    client.transport.feed_eof()
    client.call.finish()
    client.drain()
    assert client.transport.written_late == b""


def test_connection_over_tls_whose_client_shuts_down_its_sending_side_is_soon_gone(loop: ManualLoop) -> None:
    context = replace(make_context(make_runtime(loop, DrivenApp(loop))), tls={"tls_version": 0x0304})
    client = HTTP2Client(loop, context)
    client.transport.congested = True
    client.request()
    client.transport.feed_eof()
    loop.run_ready()
    assert client.connection.deadline <= client.runtime.now + 2
