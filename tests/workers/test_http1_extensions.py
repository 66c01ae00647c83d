"""ASGI's extensions on an HTTP/1.1 connection: what is on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.http1_encoding import InvalidResponse
from outrider_testing.fakes import Client, ManualLoop

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET_WITH_TE = b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
GET10 = b"GET / HTTP/1.0\r\nTE: trailers\r\nConnection: keep-alive\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"
TRAILING_START = {"type": "http.response.start", "status": 200, "trailers": True}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1"), (b"x-time", b"2")]}
HINT = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}


def ask(loop: ManualLoop, head: bytes, **config: Any) -> Client:
    client = Client.of(loop, **config)
    client.feed(head)
    return client


# -- trailers


def test_trailers_follow_the_last_chunk(loop: ManualLoop) -> None:
    client = ask(loop, GET_WITH_TE)
    client.call.send(TRAILING_START | {"headers": [(b"trailer", b"x-sum, x-time")]})
    client.call.body(b"hello")
    assert not client.answer().complete
    client.call.send(TRAILERS)
    assert client.sent.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\nx-time: 2\r\n\r\n")
    assert client.answer().complete
    assert client.answer()["trailer"] == "x-sum, x-time"
    client.call.finish()
    assert not client.is_closed()
    assert client.runtime.counters.bytes_out == len(client.sent)


def test_client_that_did_not_ask_gets_no_trailers(loop: ManualLoop) -> None:
    client = ask(loop, GET)
    client.call.send(TRAILING_START)
    client.call.body(b"hello")
    client.call.send(TRAILERS)
    assert client.sent.endswith(b"5\r\nhello\r\n0\r\n\r\n")
    assert client.answer().complete


@pytest.mark.parametrize("head, body", [(GET_WITH_TE, b"hello"), (GET10, b"hello"), (HEAD, b"")])
def test_response_with_a_length_has_no_trailers(loop: ManualLoop, head: bytes, body: bytes) -> None:
    client = ask(loop, head)
    client.call.send(TRAILING_START | {"headers": [(b"content-length", b"5")]})
    client.call.body(b"hello")
    client.call.send(TRAILERS)
    answer = client.answer(head.split()[0].decode())
    assert (answer.body, answer.complete) == (body, True)
    assert not client.is_closed()


@pytest.mark.parametrize("head, body", [(GET10, b"hello"), (HEAD, b"")])
def test_response_that_is_not_chunked_has_no_trailers(loop: ManualLoop, head: bytes, body: bytes) -> None:
    client = ask(loop, head)
    client.call.send(TRAILING_START)
    client.call.body(b"hello")
    client.call.send(TRAILERS)
    client.call.finish()
    assert client.sent.partition(b"\r\n\r\n")[2] == body


def test_body_before_trailers_may_not_be_shorter_than_its_length(loop: ManualLoop) -> None:
    client = ask(loop, GET_WITH_TE)
    client.call.send(TRAILING_START | {"headers": [(b"content-length", b"6")]})
    client.call.body(b"hello")
    with pytest.raises(InvalidResponse, match="1 bytes shorter"):
        client.call.send(TRAILERS)
    client.call.finish()
    assert not client.answer().complete
    assert client.is_closed()


@pytest.mark.parametrize("field", [(b"x", b"a\r\nb: c"), (b"x y", b""), (b":status", b"200"), ("x", "1")])
def test_injection_in_trailers_is_an_error_and_cuts(loop: ManualLoop, field: Any) -> None:
    client = ask(loop, GET_WITH_TE)
    client.call.send(TRAILING_START)
    client.call.body(b"hello")
    with pytest.raises(InvalidResponse):
        client.call.send({"type": "http.response.trailers", "headers": [field]})
    client.call.finish()
    assert client.sent.endswith(b"5\r\nhello\r\n")
    assert client.is_closed()


def test_connection_goes_on_behind_trailers(loop: ManualLoop) -> None:
    client = ask(loop, GET_WITH_TE + GET)
    client.call.send(TRAILING_START)
    client.call.body()
    client.call.send(TRAILERS)
    client.calls[0].finish()
    client.calls[1].respond(b"next")
    first, second = client.answers()
    assert first.trailers == (("x-sum", "1"), ("x-time", "2"))
    assert second.body == b"next"


# -- early hints


def test_hints_come_before_the_response(loop: ManualLoop) -> None:
    client = ask(loop, GET)
    client.call.send(HINT)
    client.call.send(HINT | {"links": [b"</b>", b"</c>"]})
    client.call.respond(b"hello")
    first, second, last = client.answers()
    assert (first.status, first.reason, first.headers) == (103, "Early Hints", [("link", "</a.css>; rel=preload")])
    assert (second.status, second.all("link")) == (103, ["</b>", "</c>"])
    assert (last.status, last.body) == (200, b"hello")


def test_client_of_http10_gets_no_hints(loop: ManualLoop) -> None:
    client = ask(loop, GET10)
    client.call.send(HINT)
    client.call.respond(b"hello")
    assert client.answer().status == 200


def test_injection_in_a_hint_is_an_error_and_a_500(loop: ManualLoop) -> None:
    client = ask(loop, GET)
    with pytest.raises(InvalidResponse):
        client.call.send(HINT | {"links": [b"</a>\r\nset-cookie: a=b"]})
    client.call.finish()
    assert client.statuses == [500]
