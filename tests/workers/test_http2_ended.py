"""Requests over HTTP/2 whose response is over before they are: what the client still sends does no harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outrider.http2_engine import ErrorCode
from outrider.http2_exchange import MOST_DISCARDED
from outrider.http2_guard import BURST, LOST_STREAM
from outrider_testing.fakes import ManualLoop, constant
from outrider_testing.http2_client import GET, POST, HTTP2Client

if TYPE_CHECKING:
    from collections.abc import Callable

INITIAL_WINDOW = 4
NO_ERROR = ErrorCode.NO_ERROR
EXPECTS_TEA = (*POST, (b"expect", b"tea"))


def data(stream: int, payload: bytes = b"x") -> bytes:
    """A DATA frame, which h2 would not send any more."""
    return len(payload).to_bytes(3, "big") + b"\0\0" + stream.to_bytes(4, "big") + payload


def test_rest_of_a_body_that_the_app_did_not_want_is_dropped(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    stream = client.request(POST, b"x", more=True)
    assert client.response(stream).complete
    for _ in range(10):
        client.send(stream, bytes(16384), more=True)
    client.send(stream, b"end")
    assert client.response(stream).reset is None
    assert client.connection.finishing == set()


def test_client_that_goes_on_and_on_after_its_response_is_reset(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    stream = client.request(POST, b"x", more=True)
    sent = 0
    while client.response(stream).reset is None:
        client.send(stream, bytes(16384), more=True)
        sent += 16384
        assert sent < 2 * MOST_DISCARDED
    assert client.response(stream).reset == NO_ERROR
    assert client.response(client.request()).status == 200


def test_upload_that_waited_for_an_app_that_has_answered_goes_on(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    while client.h2.local_flow_control_window(stream) >= 16384:
        client.send(stream, bytes(16384), more=True)
    client.call.respond(b"no")
    client.exchange()
    assert client.response(stream).complete
    client.send(stream, bytes(16384))
    assert client.response(stream).reset is None
    assert client.connection.finishing == set()


def test_client_that_need_not_continue_has_as_long_as_for_a_body(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, body_timeout=30, write_timeout=10)
    stream = client.request((*POST, (b"expect", b"100-continue")), more=True)
    client.call.respond(b"no")
    client.exchange()
    client.sweep(10.5)
    client.sweep(10.5)
    assert client.response(stream).reset is None
    client.sweep(10.5)
    assert client.response(stream).reset == NO_ERROR


def test_client_that_is_slow_to_take_its_response_is_not_cut_off_for_its_body(loop: ManualLoop) -> None:
    client = HTTP2Client.of(
        loop, constant(bytes(1000)), settings={INITIAL_WINDOW: 0}, body_timeout=10, write_timeout=30
    )
    stream = client.request(POST, b"x", more=True)
    client.sweep(10.5)
    client.give(1000, stream)
    assert len(client.response(stream).body) == 1000
    assert client.response(stream).complete
    assert client.response(stream).reset == NO_ERROR


def test_client_that_uploads_much_is_not_cut_off_before_it_has_its_response(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(bytes(1000)), settings={INITIAL_WINDOW: 0})
    stream = client.request(POST, b"x", more=True)
    for _ in range(MOST_DISCARDED // 16384 + 1):
        client.send(stream, bytes(16384), more=True)
    assert client.response(stream).reset is None
    client.give(1000, stream)
    assert client.response(stream).complete
    assert client.response(stream).reset == NO_ERROR


def test_end_of_a_body_that_nobody_wants_ends_its_deadline(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(bytes(1000)), settings={INITIAL_WINDOW: 0}, body_timeout=10, write_timeout=0)
    stream = client.request(POST, b"x", more=True)
    client.send(stream, b"y")
    (exchange,) = client.connection._exchanges.values()
    assert exchange.deadline == float("inf")
    client.sweep(100)
    client.give(1000, stream)
    assert client.response(stream).complete
    assert client.response(stream).reset is None


# -- frames that were on their way


def test_refused_client_gets_its_answer_before_the_reset(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 0})
    stream = client.request(EXPECTS_TEA, more=True)
    client.feed(data(stream))
    assert (client.response(stream).status, client.response(stream).reset) == (417, None)
    assert client.goaways == []
    client.give(100, stream)
    assert client.response(stream).body == b"Expectation Failed"
    assert client.response(stream).reset == NO_ERROR


def test_trailers_of_a_refused_request_are_dropped(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 0})
    stream = client.request(EXPECTS_TEA, more=True)
    client.h2.send_headers(stream, [(b"x", b"y")], end_stream=True)
    client.exchange()
    client.give(100, stream)
    assert client.response(stream).body == b"Expectation Failed"
    assert client.response(client.request()).reset is None


def reset_by_discarding(client: HTTP2Client) -> int:
    stream = client.request(POST, b"x", more=True)
    client.calls[-1].respond()
    while client.response(stream).reset is None:
        client.send(stream, bytes(16384), more=True)
    return stream


def reset_by_failing(client: HTTP2Client) -> int:
    stream = client.request(POST, b"x", more=True)
    client.calls[-1].start()
    client.calls[-1].fail(ValueError("no"))
    client.exchange()
    return stream


def reset_by_refusing(client: HTTP2Client) -> int:
    return client.request(EXPECTS_TEA, more=True)


def reset_by_the_engine(client: HTTP2Client) -> int:
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, (*POST, (b"content-length", b"1")))
    client.exchange()
    client.feed(data(stream, b"more than that"))
    return stream


@pytest.mark.parametrize(
    "reset",
    [reset_by_discarding, reset_by_failing, reset_by_refusing, reset_by_the_engine],
    ids=lambda reset: reset.__name__,
)
def test_what_was_on_its_way_to_a_stream_that_the_server_has_reset_is_no_error(
    loop: ManualLoop, reset: Callable[[HTTP2Client], int]
) -> None:
    client = HTTP2Client.of(loop)
    stream = reset(client)
    assert client.response(stream).reset is not None
    client.feed(data(stream) * 3)
    assert client.goaways == []
    other = client.request()
    client.calls[-1].respond()
    client.exchange()
    assert client.response(other).status == 200


def test_what_was_on_its_way_to_a_malformed_request_is_no_error(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    stream = client.h2.get_next_available_stream_id()
    client.h2.config.validate_outbound_headers = False
    client.h2.send_headers(stream, (*POST, (b"host", b"other")))
    head = client.h2.data_to_send()
    client.feed(head + data(stream, bytes(16000)) * 4 + data(stream) * 200)  # more than what is looked at in one go
    assert client.response(stream).reset == ErrorCode.PROTOCOL_ERROR
    assert client.goaways == []


def test_frame_on_a_stream_that_has_ended_ends_the_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    stream = client.request()
    assert client.response(stream).complete
    client.feed(data(stream))
    assert [goaway.error_code for goaway in client.goaways] == [ErrorCode.STREAM_CLOSED]


# -- whose fault it is


def test_app_that_fails_is_not_its_clients_fault(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    for _ in range(BURST // LOST_STREAM + 1):
        client.request(GET)
        client.calls[-1].start()
        client.calls[-1].fail(ValueError("no"))
        client.exchange()
    assert not client.is_closed()


def test_app_may_go_on_after_its_response(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, disconnect_grace=3)
    stream = client.request()
    client.call.start()
    client.call.body(b"ok")
    client.exchange()
    assert client.response(stream).complete
    client.sweep(10)
    assert not client.call.cancelled
