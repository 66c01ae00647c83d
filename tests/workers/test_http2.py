"""HTTP/2 connections: requests, their bodies, and how streams and connections end."""

from __future__ import annotations

import pytest

from outrider.http2 import HTTP2Connection
from outrider.http2_engine import ErrorCode, goaway_frame, reset_frame
from outrider.meters import CELLS, Meter, histograms_of
from outrider_testing.fakes import FakeTransport, ManualLoop, constant, echo, make_context, make_runtime
from outrider_testing.http2_client import GET, POST, HTTP2Client

HEAD = ((b":method", b"HEAD"), *GET[1:])
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR = ErrorCode.NO_ERROR, ErrorCode.PROTOCOL_ERROR, ErrorCode.INTERNAL_ERROR


def error_code(client: HTTP2Client) -> int:
    (goaway,) = client.goaways
    return goaway.error_code


# -- requests


def test_connection_announces_its_settings(loop: ManualLoop) -> None:
    client = HTTP2Client.of(
        loop,
        http2_max_concurrent_streams=7,
        http2_initial_window_size=100_000,
        http2_max_frame_size=20_000,
        http2_max_header_list_size=9_000,
    )
    assert client.settings == {3: 7, 4: 100_000, 5: 20_000, 6: 9_000, 8: 1, 9: 1}


def test_server_speaks_before_the_client_has_said_anything(loop: ManualLoop) -> None:
    connection = HTTP2Connection(make_context(make_runtime(loop, constant())))
    transport = FakeTransport(loop, connection)
    connection.connection_made(transport)
    assert transport.written[3:5] == b"\4\0"  # SETTINGS


def test_connection_without_a_limit_for_header_lists_announces_none(loop: ManualLoop) -> None:
    assert 6 not in HTTP2Client.of(loop, http2_max_header_list_size=0).settings


def test_connection_answers_requests_in_the_order_that_the_app_does(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    first, second = client.request(), client.request()
    client.calls[1].respond(b"two")
    client._read()
    assert client.response(second).complete
    assert not client.response(first).complete
    client.calls[0].respond(b"one")
    client.exchange()
    assert [client.response(each).body for each in (first, second)] == [b"one", b"two"]


def test_app_receives_a_body_piece_by_piece(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, b"he", more=True)
    assert client.call.receive() == {"type": "http.request", "body": b"he", "more_body": True}
    receiving = client.call.receiving()
    assert not receiving.done()
    client.send(stream, b"llo")
    assert receiving.result() == {"type": "http.request", "body": b"llo", "more_body": False}


def test_app_receives_a_body_that_ends_with_an_empty_frame(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, echo)
    client.send(client.request(POST, b"hello", more=True), b"")
    assert b'"body": "hello"' in client.response().body


def test_request_trailers_end_the_body_and_are_dropped(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, echo)
    stream = client.request(POST, b"hello", more=True)
    client.h2.send_headers(stream, [(b"host", b"evil"), (b"x", b"y")], end_stream=True)
    client.exchange()
    assert b'"body": "hello"' in client.response().body
    assert b"evil" not in client.response().body


@pytest.mark.parametrize("size", [1, 7, 100])
def test_connection_takes_bytes_however_they_are_split(loop: ManualLoop, size: int) -> None:
    client = HTTP2Client.of(loop, echo)
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, POST)
    client.h2.send_data(stream, b"hello", end_stream=True)
    data = client.h2.data_to_send()
    for position in range(0, len(data), size):
        client.feed(data[position : position + size])
    assert b'"body": "hello"' in client.response().body


def test_client_that_expects_a_continue_gets_it_when_the_app_receives(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request((*POST, (b"expect", b"100-continue")), more=True)
    assert client.response().informational == []
    receiving = client.call.receiving()
    client.exchange()
    assert client.response().informational == [[(b":status", b"100")]]
    client.send(stream, b"hello")
    assert receiving.result()["body"] == b"hello"


def test_body_is_bytes_however_it_came(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, http2_initial_window_size=1 << 20)
    stream = client.request(POST, more=True)
    for _ in range(6):
        client.h2.send_data(stream, bytes(16384))
    client.exchange()
    assert {type(client.call.receive()["body"])} == {bytes}


def test_client_that_nobody_trusts_is_not_believed(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    fields = ((b"expect", b"100-continue"), (b"x-forwarded-for", b"192.0.2.99"), (b"x-forwarded-proto", b"https"))
    client.request((*POST, *fields), more=True)
    assert client.call.scope["client"] == ("192.0.2.7", 54321)
    assert client.call.scope["scheme"] == "http"


# -- what is refused


@pytest.mark.parametrize(
    "fields",
    [
        (*GET, (b"Upper", b"x")),
        (*GET, (b"connection", b"close")),
        (*GET, (b"transfer-encoding", b"chunked")),
        (*GET, (b"te", b"gzip")),
        (*GET, (b"host", b"other")),
        (*GET, (b":path", b"/")),
        (*GET, (b":unknown", b"x")),
        (*GET, (b"x", b"a\nb")),
        GET[1:],
        GET[:3],
        (*GET[:2], GET[3]),
        ((b"x", b"y"), *GET),
        (*GET[:3], (b":path", b"")),
    ],
    ids=lambda fields: repr(fields[-1]),
)
def test_malformed_request_is_a_stream_error(loop: ManualLoop, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    client = HTTP2Client.of(loop, constant())
    client.h2.config.validate_outbound_headers = False
    client.h2.config.normalize_outbound_headers = False
    stream = client.request(fields)
    assert client.response(stream).reset == PROTOCOL_ERROR
    assert client.response(client.request()).status == 200


@pytest.mark.parametrize("body", [b"four", b"sixsix"])
def test_body_that_contradicts_its_length_is_a_stream_error(loop: ManualLoop, body: bytes) -> None:
    client = HTTP2Client.of(loop)
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, (*POST, (b"content-length", b"5")))
    client.exchange()
    length = len(body).to_bytes(3, "big")
    client.feed(length + b"\0\x01" + stream.to_bytes(4, "big") + body)
    assert client.response(stream).reset == PROTOCOL_ERROR
    assert client.call.receiving().result() == {"type": "http.disconnect"}


@pytest.mark.parametrize(
    "fields, status",
    [
        (((b":method", b"CONNECT"), (b":authority", b"a")), 501),
        (((b":method", b"SOURCE"), *GET[1:]), 501),
        ((*GET, (b"expect", b"tea")), 417),
        ((*GET[:2], (b":authority", b"a:b"), GET[3]), 400),
        ((*GET[:3], (b":path", b"/#x")), 400),
        ((*GET, (b"content-type", b"a"), (b"content-type", b"b")), 400),
        (((b":method", b"CONNECT"), (b":protocol", b"tea"), *GET[1:]), 501),
    ],
)
def test_request_that_may_not_be_served_is_answered(
    loop: ManualLoop, fields: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    client = HTTP2Client.of(loop)
    client.h2.config.validate_outbound_headers = False
    stream = client.request(fields)
    assert client.response(stream).status == status
    assert client.response(stream).complete
    assert client.calls == []
    assert client.log.messages("warning")[0].startswith("Refused a request from 192.0.2.7:54321: ")
    assert not client.is_closed()


def test_request_that_is_refused_is_metered(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.runtime.meter = Meter(cells := memoryview(bytearray(8 * CELLS)).cast("Q"))
    client.request(((b":method", b"CONNECT"), (b":protocol", b"tea"), *GET[1:]))
    assert [*histograms_of(cells)] == [("_OTHER", 5)]


def test_connections_are_counted_while_they_are_open(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    assert client.runtime.http2_connections == 1
    client.lose()
    assert client.runtime.http2_connections == 0


def test_refused_request_with_a_body_is_answered_and_reset(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request((*POST, (b"expect", b"tea")), more=True)
    assert client.response(stream).status == 417
    assert client.response(stream).complete
    assert client.response(stream).reset == NO_ERROR


def test_refused_head_request_has_no_body(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request((*HEAD, (b"expect", b"tea")))
    assert client.response(stream).status == 417
    assert client.response(stream).body == b""
    assert client.response(stream).complete


def test_request_beyond_limit_concurrency_is_answered_with_503(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, limit_concurrency=1)
    first, second = client.request(), client.request()
    assert client.response(second).status == 503
    client.call.respond(b"ok")
    client.exchange()
    assert client.response(first).status == 200


# -- apps that fail


def test_app_that_fails_midway_resets_its_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request()
    client.call.start()
    client.call.body(b"half", more=True)
    client.call.fail(ValueError("no"))
    client.exchange()
    assert client.response(stream).body == b"half"
    assert client.response(stream).reset == INTERNAL_ERROR
    assert not client.is_closed()


def test_app_that_fails_at_once_is_answered_with_500(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request()
    client.call.fail(ValueError("no"))
    client.exchange()
    assert client.response(stream).status == 500
    assert client.response(stream).all("connection") == []


# -- errors of the connection


@pytest.mark.parametrize(
    "frame",
    [
        b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",  # WINDOW_UPDATE of nothing
        b"\0\0\5\6\0\0\0\0\0hello",  # PING of another size
        b"\0\0\1\0\0\0\0\0\x09x",  # DATA on a stream that does not exist
        b"\xff\xff\xff\0\0\0\0\0\1",  # a frame that is too large
    ],
)
def test_connection_error_is_told_and_ends_the_connection(loop: ManualLoop, frame: bytes) -> None:
    client = HTTP2Client.of(loop)
    client.request(POST, more=True)
    client.feed(frame)
    assert error_code(client) != NO_ERROR
    assert client.is_closed()
    assert client.call.receive() == {"type": "http.disconnect"}


def test_client_that_does_not_speak_http2_is_told_so(loop: ManualLoop) -> None:
    connection = HTTP2Connection(make_context(make_runtime(loop, constant())))
    transport = FakeTransport(loop, connection)
    connection.connection_made(transport)
    transport.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    loop.run_ready()
    assert transport.written.endswith(goaway_frame(0, ErrorCode.PROTOCOL_ERROR))
    assert transport.eof_written


def test_bytes_after_the_end_are_thrown_away(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.feed(b"\0\0\5\6\0\0\0\0\0hello")
    written = len(client.sent)
    client.transport.feed(b"x" * 1000)
    loop.run_ready()
    assert len(client.sent) == written


def test_frame_on_a_stream_that_the_client_has_reset_is_an_error_of_the_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    client.reset(stream)
    client.h2.ping(b"12345678")
    client.feed(b"\0\0\1\0\0" + stream.to_bytes(4, "big") + b"x" + client.h2.data_to_send())
    assert reset_frame(stream, ErrorCode.STREAM_CLOSED) in client.sent
    assert client.sent.endswith(b"12345678"), "frames are answered in their order"
    assert not client.is_closed()


def test_reset_of_a_late_frame_needs_no_other_cause_to_be_sent(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    client.reset(stream)
    client.feed(b"\0\0\1\0\0" + stream.to_bytes(4, "big") + b"x")
    assert client.sent.endswith(reset_frame(stream, ErrorCode.STREAM_CLOSED))


def test_what_comes_after_a_broken_frame_is_not_dealt_with(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.h2.ping(b"12345678")
    client.feed(b"\0\0\5\2\0\0\0\0\0hello" + client.h2.data_to_send())
    assert client.pings == []
    assert error_code(client) == PROTOCOL_ERROR


def test_what_comes_before_a_broken_frame_is_dealt_with(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.h2.ping(b"12345678")
    client.transport.feed(client.h2.data_to_send() + b"\0\0\5\2\0\0\0\0\0hello")
    loop.run_ready()
    client._read()
    assert client.pings == [b"12345678"]
    assert error_code(client) == PROTOCOL_ERROR


# -- counting


def test_exchanges_and_bytes_are_counted(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    client.request()
    client.request()
    assert client.runtime.counters.requests == 2
    assert client.runtime.counters.bytes_out == len(client.sent)
    assert client.runtime.counters.bytes_in > 100
