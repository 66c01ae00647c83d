"""Flow control over HTTP/2 both ways, and who is cut off for not taking part in it."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.http2_engine import LEAST_CONNECTION_WINDOW, ErrorCode
from outrider.http2_writer import WRITE_HIGH_WATER
from outrider.http_stream import HIGH_WATER
from outrider_testing.fakes import ManualLoop, constant
from outrider_testing.http2_client import POST, HTTP2Client

INITIAL_WINDOW = 4


def upload(client: HTTP2Client, stream: int, most: int) -> int:
    """Send as much as the server lets; returns how much that was."""
    sent = 0
    while sent < most and (window := client.h2.local_flow_control_window(stream)):
        size = min(window, 16384, most - sent)
        client.send(stream, bytes(size), more=True)
        sent += size
    return sent


# -- uploads


def test_upload_stops_until_the_app_receives(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    held = upload(client, stream, 1 << 20)
    assert HIGH_WATER < held < 3 * HIGH_WATER
    assert len(client.call.receive()["body"]) == held
    client.exchange()
    assert upload(client, stream, 1 << 20) == held


def test_upload_of_any_size_passes_an_app_that_receives(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    for _ in range(40):
        sent = upload(client, stream, 50_000)
        assert sent == 50_000
        assert len(client.call.receive()["body"]) == 50_000
        client.exchange()


def test_upload_that_waits_does_not_hold_up_another(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stalled = [client.request(POST, more=True) for _ in range(5)]
    for stream in stalled:
        upload(client, stream, 1 << 20)
    other = client.request(POST, b"hello")
    assert client.calls[-1].receive()["body"] == b"hello"
    assert client.h2.local_flow_control_window(other) > 0


def test_window_of_a_stream_is_that_of_the_setting(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, http2_initial_window_size=1000)
    assert client.h2.local_flow_control_window(client.request(POST, more=True)) == 1000


@pytest.mark.parametrize("end", ["reset", "respond", "finish"])
def test_connection_gets_back_what_its_streams_have_held(loop: ManualLoop, end: str) -> None:
    client = HTTP2Client.of(loop)
    for _ in range(2 * LEAST_CONNECTION_WINDOW // HIGH_WATER):
        stream = client.request(POST, more=True)
        assert upload(client, stream, 1 << 20) > HIGH_WATER
        if end == "reset":
            client.reset(stream)
        elif end == "respond":
            client.calls[-1].respond()
            client.exchange()
            client.reset(stream)
        else:
            client.h2.end_stream(stream)
            client.exchange()
            client.calls[-1].respond()
            client.exchange()


def test_refused_upload_gives_its_window_back(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    for _ in range(2 * LEAST_CONNECTION_WINDOW // 65535):
        stream = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream, (*POST, (b"expect", b"tea")))
        for _ in range(3):
            client.h2.send_data(stream, bytes(16384))
        client.exchange()
        assert client.response(stream).status == 417


def test_padding_does_not_use_the_window_up(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    for _ in range(2000):
        client.h2.send_data(stream, b"x", pad_length=255)
        client.exchange()
        client.call.receive()
    assert client.response(stream).reset is None


# -- downloads


def test_app_waits_while_its_client_takes_nothing(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.acknowledges = False
    stream = client.request()
    client.call.start()
    pieces = 0
    while True:
        sending = client.call.sending({"type": "http.response.body", "body": bytes(16384), "more_body": True})
        client.exchange()
        pieces += 1
        if not sending.done():
            break
    assert 65535 + HIGH_WATER < pieces * 16384 < 65535 + 2 * HIGH_WATER
    assert len(client.response(stream).body) == 65535
    client.h2.acknowledge_received_data(65535, stream)
    client.exchange()
    assert sending.done()


def test_stream_without_a_window_does_not_hold_up_another(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 0})
    stalled, other = client.request(), client.request()
    client.calls[0].start()
    client.calls[0].sending({"type": "http.response.body", "body": bytes(200_000), "more_body": True})
    client.calls[1].respond(b"ok")
    client.give(100, other)
    assert client.response(other).complete
    assert client.response(stalled).body == b""


def test_waiting_app_is_told_that_its_client_has_left(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 0})
    stream = client.request()
    client.call.start()
    sending = client.call.sending({"type": "http.response.body", "body": bytes(200_000), "more_body": True})
    assert not sending.done()
    client.reset(stream)
    assert sending.done()
    assert client.connection.waiting == set()


def test_congested_transport_makes_apps_wait(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 1 << 30})
    client.give(1 << 30)
    client.transport.congested = True
    client.request()
    client.call.start()
    taken = 0
    while True:
        sending = client.call.sending({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        client.exchange()
        if not sending.done():
            break
        taken += 65536
        assert taken < 1 << 20
    client.transport.congested = False
    client.transport.take(1 << 30)
    client.exchange()
    assert sending.done()


@pytest.mark.parametrize("size, is_full", [(WRITE_HIGH_WATER - 1000, False), (WRITE_HIGH_WATER, True)])
def test_transport_holds_so_much_before_it_is_full(loop: ManualLoop, size: int, is_full: bool) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 1 << 30})
    client.give(1 << 30)
    client.transport.congested = True
    client.request()
    client.call.respond(bytes(size))
    client.exchange()
    assert (client.connection.writable is not None) is is_full


def test_response_larger_than_a_frame_is_cut_into_the_clients_frames(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(bytes(60_000)))
    client.request()
    assert len(client.response().body) == 60_000


# -- clients that do not take their responses


def stalled_client(loop: ManualLoop, **config: Any) -> tuple[HTTP2Client, int]:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 0}, **config)
    client.acknowledges = False
    stream = client.request()
    client.call.receive()
    client.call.start()
    client.call.sending({"type": "http.response.body", "body": bytes(200_000), "more_body": True})
    client.exchange()
    return client, stream


def test_client_that_never_opens_its_window_loses_its_stream(loop: ManualLoop) -> None:
    client, stream = stalled_client(loop, write_timeout=30)
    client.sweep(29)
    assert client.response(stream).reset is None
    client.sweep(1)
    assert client.response(stream).reset == ErrorCode.CANCEL
    assert client.call.receive() == {"type": "http.disconnect"}
    assert not client.is_closed()


def test_client_that_takes_a_complete_response_never_loses_its_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(bytes(1000)), settings={INITIAL_WINDOW: 0}, write_timeout=30)
    stream = client.request()
    assert not client.response(stream).complete
    client.sweep(30)
    assert client.response(stream).reset == ErrorCode.CANCEL
    assert client.connection.finishing == set()
    assert client.runtime.blocked_writers == set()


def test_client_that_takes_little_by_little_keeps_its_stream(loop: ManualLoop) -> None:
    client, stream = stalled_client(loop, write_timeout=30, min_body_rate=240)
    for _ in range(5):
        client.give(240 * 30, stream)
        client.sweep(30)
    assert client.response(stream).reset is None


def test_client_that_takes_too_little_loses_its_stream(loop: ManualLoop) -> None:
    client, stream = stalled_client(loop, write_timeout=30, min_body_rate=240)
    client.give(100, stream)
    client.sweep(30)
    assert client.response(stream).reset == ErrorCode.CANCEL


def test_app_that_has_nothing_to_send_is_not_blamed_on_its_client(loop: ManualLoop) -> None:
    client, stalled = stalled_client(loop, write_timeout=30)
    quiet = client.request()
    client.calls[1].start()
    client.exchange()
    client.sweep(30)
    client.sweep(30)
    assert client.response(stalled).reset == ErrorCode.CANCEL
    assert client.response(quiet).reset is None


def test_client_that_makes_an_app_wait_while_another_waits_has_as_long(loop: ManualLoop) -> None:
    client, first = stalled_client(loop, write_timeout=30)
    client.sweep(20)
    second = client.request()
    client.calls[1].start()
    client.calls[1].sending({"type": "http.response.body", "body": bytes(200_000), "more_body": True})
    client.sweep(0.5)
    client.sweep(9.5)
    assert (client.response(first).reset, client.response(second).reset) == (ErrorCode.CANCEL, None)
    client.sweep(20)
    assert client.response(second).reset is None
    client.sweep(0.5)
    assert client.response(second).reset == ErrorCode.CANCEL


def test_time_in_which_the_connection_is_congested_is_not_held_against_a_stream(loop: ManualLoop) -> None:
    client, stream = stalled_client(loop, write_timeout=30)
    client.sweep(20)
    client.connection.pause_writing()
    client.sweep(29)
    client.connection.resume_writing()
    client.sweep(29)
    assert client.response(stream).reset is None
    client.sweep(1)
    assert client.response(stream).reset == ErrorCode.CANCEL


def test_client_that_takes_nothing_loses_its_stream_without_a_least_rate_as_well(loop: ManualLoop) -> None:
    client, stream = stalled_client(loop, write_timeout=30, min_body_rate=0)
    client.give(1, stream)
    client.sweep(30)
    assert client.response(stream).reset is None
    client.sweep(30)
    assert client.response(stream).reset == ErrorCode.CANCEL


def test_write_timeout_can_be_switched_off(loop: ManualLoop) -> None:
    client, stream = stalled_client(loop, write_timeout=0)
    client.sweep(1000)
    assert client.response(stream).reset is None


def test_client_that_does_not_read_its_connection_is_aborted(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 1 << 30}, write_timeout=30)
    client.give(1 << 30)
    client.transport.congested = True
    client.request()
    client.call.start()
    client.call.sending({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
    loop.run_ready()
    client.sweep(29)
    assert not client.transport.was_aborted()
    client.sweep(1)
    assert client.transport.was_aborted()


def test_connection_that_is_read_again_is_no_blocked_writer(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(bytes(1 << 20)), settings={INITIAL_WINDOW: 1 << 30})
    client.give(1 << 30)
    client.transport.congested = True
    stream = client.request()
    assert client.runtime.blocked_writers == {client.connection}
    client.transport.congested = False
    client.transport.take(1 << 30)
    client.exchange()
    assert client.response(stream).complete
    assert client.runtime.blocked_writers == set()
