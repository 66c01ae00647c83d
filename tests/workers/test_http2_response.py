"""Responses over HTTP/2: fields, bodies, lengths, trailers and interim responses."""

from __future__ import annotations

import gc

import pytest

from outrider.http1_encoding import DefaultHeaders, InvalidResponse
from outrider.http1_rules import BadRequest
from outrider.http2_engine import ErrorCode
from outrider.http2_exchange import Exchange
from outrider_testing.fakes import FakeObserver, ManualLoop, constant
from outrider_testing.http2_client import GET, HTTP2Client

HEAD = ((b":method", b"HEAD"), *GET[1:])


def test_response_has_the_fields_of_the_app_in_lower_case(loop: ManualLoop) -> None:
    headers = [(b"X-One", b" 1 "), (b"Set-Cookie", b"a"), (b"set-cookie", b"b")]
    client = HTTP2Client.of(loop, constant(headers=headers))
    client.request()
    assert client.response().headers == [
        (b":status", b"200"),
        (b"x-one", b"1"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"content-length", b"2"),
    ]


def test_response_has_no_fields_of_an_http1_connection(loop: ManualLoop) -> None:
    names = ("Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "TE")
    client = HTTP2Client.of(loop, constant(headers=[(name.encode(), b"x") for name in names]))
    client.request()
    assert client.response().headers == [(b":status", b"200"), (b"content-length", b"2")]


def test_server_adds_its_fields_unless_the_app_gave_them(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    defaults = DefaultHeaders(server=True, date=True, extra=[(b"X-Extra", b"e")])
    client.connection.default_fields = type(client.connection.default_fields)(defaults)
    for headers in ([], [(b"Server", b"mine")]):
        client.request()
        client.calls[-1].respond(headers=headers)
    client.exchange()
    assert client.response(1).headers[2:] == [
        (b"x-extra", b"e"),
        (b"server", b"outrider"),
        (b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
    ]
    assert client.response(3).all("server") == [b"mine"]
    defaults.refresh(1)
    client.request()
    client.calls[-1].respond()
    client.exchange()
    assert client.response(5).all("date") == [b"Thu, 01 Jan 1970 00:00:01 GMT"]


def test_exchange_that_is_over_leaves_no_garbage(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            client.request()
        assert not any(type(each) is Exchange for each in gc.get_objects())
    finally:
        gc.enable()


def test_response_goes_out_in_one_write(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    client.request()
    writes = client.transport.writes
    client.request()
    assert client.transport.writes == writes + 1


def test_response_that_is_alone_does_not_wait_for_the_next_turn(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.call.start(200, [(b"content-length", b"2")])
    before = client.transport.writes
    writes: list[int] = []

    async def respond() -> None:
        await client.call._send({"type": "http.response.body", "body": b"ok"})
        writes.append(client.transport.writes)

    responding = loop.create_task(respond())
    loop.run_ready()
    responding.result()
    assert writes == [before + 1]


def test_responses_to_requests_that_came_together_go_out_together(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    for _ in range(3):
        client.h2.send_headers(client.h2.get_next_available_stream_id(), GET, end_stream=True)
    writes = client.transport.writes
    client.exchange()
    assert [each.status for each in client.responses.values()] == [200] * 3
    assert client.transport.writes == writes + 1


@pytest.mark.parametrize("name, value", [(b"a b", b""), (b"a", b"x\ny")])
def test_invalid_field_is_the_apps_error(loop: ManualLoop, name: bytes, value: bytes) -> None:
    client = HTTP2Client.of(loop, constant(headers=[(name, value)]))
    client.request()
    assert client.response().status == 500


# -- bodies


def test_streamed_body_ends_with_its_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.call.start()
    client.exchange()
    assert client.response().status == 200
    for text in (b"one", b"", b"two"):
        client.call.body(text, more=True)
        client.exchange()
    assert client.response().body == b"onetwo"
    assert not client.response().complete
    client.call.body()
    client.exchange()
    assert client.response().complete


@pytest.mark.parametrize("pieces, fits", [((b"123", b"45"), True), ((b"12345",), True), ((b"1234567",), False)])
def test_body_is_held_to_its_content_length(loop: ManualLoop, pieces: tuple[bytes, ...], fits: bool) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.call.start(headers=[(b"content-length", b"5")])
    if fits:
        for piece in pieces:
            client.call.body(piece, more=True)
        client.call.body()
        client.exchange()
        assert client.response().body == b"12345"
    else:
        with pytest.raises(InvalidResponse):
            client.call.body(*pieces)


def test_trailers_after_a_body_that_is_too_short_are_refused(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request((*GET, (b"te", b"trailers")))
    headers = [(b"content-length", b"5")]
    client.call.send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    client.call.body(b"123")
    with pytest.raises(InvalidResponse):
        client.call.send({"type": "http.response.trailers", "headers": []})


def test_body_shorter_than_its_content_length_is_refused(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.call.start(headers=[(b"content-length", b"5")])
    client.call.body(b"123", more=True)
    with pytest.raises(InvalidResponse):
        client.call.body(b"4")


@pytest.mark.parametrize("more", [False, True])
def test_response_to_head_has_no_body(loop: ManualLoop, more: bool) -> None:
    client = HTTP2Client.of(loop)
    client.request(HEAD)
    client.call.start(headers=[(b"content-length", b"5")])
    client.call.body(b"12345", more=more)
    if more:
        client.call.body(b"")
    client.exchange()
    assert client.response().body == b""
    assert client.response().all("content-length") == [b"5"]
    assert client.response().complete


@pytest.mark.parametrize("status, length", [(204, []), (304, [b"5"])])
def test_response_without_content_has_no_body(loop: ManualLoop, status: int, length: list[bytes]) -> None:
    client = HTTP2Client.of(loop, constant(b"12345", status))
    client.request()
    assert client.response().body == b""
    assert client.response().all("content-length") == length
    assert client.response().complete


def test_large_body_arrives_whole(loop: ManualLoop) -> None:
    body = bytes(range(256)) * 8192
    client = HTTP2Client.of(loop, constant(body))
    client.request()
    assert client.response().body == body


# -- trailers and interim responses


def test_trailers_end_the_response(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request((*GET, (b"te", b"trailers")))
    client.call.send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
    client.call.body(b"hello")
    client.exchange()
    assert not client.response().complete
    client.call.send({"type": "http.response.trailers", "headers": [(b"X-Sum", b"1")]})
    client.exchange()
    assert client.response().body == b"hello"
    assert client.response().trailers == [(b"x-sum", b"1")]
    assert client.response().complete


@pytest.mark.parametrize("fields", [GET, (*HEAD, (b"te", b"trailers"))])
def test_trailers_that_the_client_does_not_take_are_left_out(
    loop: ManualLoop, fields: tuple[tuple[bytes, bytes], ...]
) -> None:
    client = HTTP2Client.of(loop)
    client.request(fields)
    client.call.send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
    client.call.body(b"hello")
    client.call.send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})
    client.exchange()
    assert client.response().trailers == []
    assert client.response().complete


def test_early_hint_comes_before_the_response(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.call.send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
    client.exchange()
    ((status, *links),) = client.response().informational
    assert status == (b":status", b"103")
    assert links == [(b"link", b"</a.css>; rel=preload")]
    client.call.respond()
    client.exchange()
    assert client.response().status == 200


# -- the stream is gone, and the event that says so still to come


def test_nothing_can_be_sent_on_a_stream_that_the_engine_has_closed(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request(more=True)
    (exchange,) = client.connection._exchanges.values()
    client.connection.engine.reset(exchange.id, ErrorCode.CANCEL)
    client.connection.engine.to_send(1000)
    stream = exchange.stream
    fields = exchange.encode([])
    exchange.send_continue(stream)
    exchange.send_informational(stream, 103, [])
    for body, more in ((b"", True), (b"x", True), (b"x", False)):
        exchange.send_response(stream, 200, fields, body, more)
        exchange.send_body(stream, body, more)
    exchange.send_trailers(stream, [(b"x", b"y")])
    exchange.reset(ErrorCode.CANCEL)
    client.connection.refuse(exchange.id, BadRequest(400, "no"), is_head=False)
    client.exchange()
    assert client.response().status == 0
    assert client.connection._exchanges == {}


# -- the access log


def test_observer_is_told_of_each_exchange(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    observer = client.runtime.observer = FakeObserver()
    client.request()
    assert observer.events[0] == ("started", "/")
    assert observer.events[1][2] == 200


@pytest.mark.parametrize(
    "pieces, more", [((b"123",), False), ((b"123456",), True), ((b"12", b"3456"), True), ((b"12", b"34"), False)]
)
def test_piece_that_does_not_fit_the_content_length_is_refused(
    loop: ManualLoop, pieces: tuple[bytes, ...], more: bool
) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.call.start(headers=[(b"content-length", b"5")])
    *good, bad = pieces
    for piece in good:
        client.call.body(piece, more=True)
    with pytest.raises(InvalidResponse):
        client.call.body(bad, more=more)
