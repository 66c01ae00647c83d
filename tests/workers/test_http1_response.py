"""Responses on the wire: framing, what a status or method forbids, and messages that may not be sent."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.http1_encoding import DefaultHeaders, InvalidResponse
from outrider.http1_response import JOINED_BODY
from outrider_testing.fakes import Client, ManualLoop

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
GET10 = b"GET / HTTP/1.0\r\n\r\n"
HEAD10 = b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
KEEPALIVE10 = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
LARGE = b"x" * (JOINED_BODY + 1)


def length(size: int) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", b"%d" % size)]


def ask(loop: ManualLoop, head: bytes = GET, **config: Any) -> Client:
    client = Client.of(loop, **config)
    client.feed(head)
    return client


def respond(client: Client, headers: Any, *bodies: bytes, status: int = 200) -> None:
    client.calls[-1].start(status, headers)
    for body in bodies[:-1]:
        client.calls[-1].body(body, more=True)
    client.calls[-1].body(bodies[-1])
    client.calls[-1].finish()


# -- with a length


def test_start_and_first_body_are_one_write(loop: ManualLoop) -> None:
    client = ask(loop)
    respond(client, length(5), b"hello")
    assert client.sent == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
    assert client.transport.writes == 1


@pytest.mark.parametrize("head", [GET, KEEPALIVE10])
@pytest.mark.parametrize(
    "bodies", [[b""], [b"hello"], [b"he", b"llo"], [b"", b"hello"], [b"hello", b""], [LARGE, LARGE]]
)
def test_body_with_a_length_is_written_as_it_is(loop: ManualLoop, head: bytes, bodies: list[bytes]) -> None:
    client = ask(loop, head)
    whole = b"".join(bodies)
    respond(client, length(len(whole)), *bodies)
    assert client.answer().body == whole
    assert client.answer().complete
    assert not client.is_closed()
    assert client.runtime.counters.bytes_out == len(client.sent)


@pytest.mark.parametrize("head", [GET, KEEPALIVE10])
@pytest.mark.parametrize("bodies, more", [([b"toolong"], False), ([b"too"], False), ([b"toolong"], True)])
def test_first_body_that_does_not_fit_the_length_is_an_error_and_a_500(
    loop: ManualLoop, head: bytes, bodies: list[bytes], more: bool
) -> None:
    client = ask(loop, head)
    client.call.start(200, length(5))
    with pytest.raises(InvalidResponse, match=r"2 bytes (longer|shorter) than its Content-Length"):
        client.call.body(bodies[0], more=more)
    assert client.sent == b""
    client.call.fail(InvalidResponse("as raised above"))
    assert client.statuses == [500]


@pytest.mark.parametrize("rest, more", [(b"long", False), (b"lo", False), (b"long", True)])
def test_later_body_that_does_not_fit_the_length_is_an_error_and_cuts(
    loop: ManualLoop, rest: bytes, more: bool
) -> None:
    client = ask(loop)
    client.call.start(200, length(5))
    client.call.body(b"he", more=True)
    with pytest.raises(InvalidResponse, match=r"1 bytes (longer|shorter) than its Content-Length"):
        client.call.body(rest, more=more)
    client.call.finish()
    assert client.answer().body == b"he"
    assert not client.answer().complete
    assert client.is_closed()


# -- without a length


def test_body_without_a_length_is_chunked(loop: ManualLoop) -> None:
    client = ask(loop)
    respond(client, [], b"hello", b"", b" world", LARGE, LARGE)
    assert client.answer()["transfer-encoding"] == "chunked"
    assert client.answer().body == b"hello world" + LARGE + LARGE
    assert client.answer().complete
    assert not client.is_closed()
    assert client.runtime.counters.bytes_out == len(client.sent)


@pytest.mark.parametrize("bodies", [[b""], [b"hello"], [b"hello", b""], [b"", b""]])
def test_chunked_body_ends_once(loop: ManualLoop, bodies: list[bytes]) -> None:
    client = ask(loop)
    respond(client, [], *bodies)
    assert client.sent.count(b"0\r\n\r\n") == 1
    assert client.answer().body == b"".join(bodies)


def test_head_without_a_length_does_not_wait_for_the_body(loop: ManualLoop) -> None:
    client = ask(loop)
    client.call.start()
    assert client.answer().status == 200
    assert not client.answer().complete


def test_application_does_not_frame_the_message(loop: ManualLoop) -> None:
    client = ask(loop)
    respond(client, [(b"transfer-encoding", b"chunked"), *length(2)], b"ok")
    assert client.answer().body == b"ok"
    assert "transfer-encoding" not in client.answer()


@pytest.mark.parametrize("head", [GET10, KEEPALIVE10])
def test_body_without_a_length_to_http10_ends_with_the_connection(loop: ManualLoop, head: bytes) -> None:
    client = ask(loop, head)
    respond(client, [], b"hello", b" world")
    assert client.answer().body == b"hello world"
    assert client.answer().headers == [("connection", "close")]
    assert client.is_closed()


# -- without a body


@pytest.mark.parametrize("head", [HEAD, HEAD10])
@pytest.mark.parametrize("headers", [length(5), []])
@pytest.mark.parametrize("bodies", [[b""], [b"hello"], [b"he", b"llo"], [LARGE]])
def test_head_gets_the_head_only(loop: ManualLoop, head: bytes, headers: Any, bodies: list[bytes]) -> None:
    client = ask(loop, head)
    respond(client, headers, *bodies)
    assert client.answer("HEAD").body == b""
    assert client.sent.endswith(b"\r\n\r\n")
    assert client.answer("HEAD").all("content-length") == (["5"] if headers else [])
    assert client.answer("HEAD").all("transfer-encoding") == (["chunked"] if not headers and head == HEAD else [])
    assert not client.is_closed()


@pytest.mark.parametrize("status, framing", [(204, []), (304, [("content-length", "5")])])
@pytest.mark.parametrize("head", [GET, HEAD])
def test_bodiless_status_has_no_body(loop: ManualLoop, status: int, framing: Any, head: bytes) -> None:
    client = ask(loop, head)
    respond(client, [(b"Content-Length", b"5"), (b"x", b"y")], b"hello", status=status)
    answer = client.answer()
    assert [(name.lower(), value) for name, value in answer.headers] == [*framing, ("x", "y")]
    assert answer.body == b""
    assert not client.is_closed()


def test_no_content_loses_only_the_length(loop: ManualLoop) -> None:
    client = ask(loop, GET)
    headers = [(b"content-length", b"0"), (b"x", b"content-length: 1"), (b"x-content-length", b"2"), (b"y", b"z")]
    respond(client, headers, b"", status=204)
    assert client.answer().headers[:3] == [("x", "content-length: 1"), ("x-content-length", "2"), ("y", "z")]


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("head", [GET, HEAD, KEEPALIVE10])
def test_bodiless_status_needs_no_framing(loop: ManualLoop, status: int, head: bytes) -> None:
    client = ask(loop, head)
    respond(client, [], b"", status=status)
    assert "transfer-encoding" not in client.answer()
    assert not client.is_closed()
    client.feed(GET)
    assert len(client.calls) == 2


# -- heads


def test_server_adds_its_lines_last(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.runtime.default_headers = DefaultHeaders(server=True, date=True, extra=[(b"x", b"y")])
    client.feed(GET)
    respond(client, [*length(0), (b"date", b"mine")], b"")
    assert client.answer().headers == [
        ("content-length", "0"),
        ("date", "mine"),
        ("x", "y"),
        ("server", "outrider"),
    ]


@pytest.mark.parametrize(
    "header", [(b"a", b"b\r\nc: d"), (b"a", b"b\nc"), (b"a", b"\0"), (b"a\r\nb", b"c"), (b"a b", b"c")]
)
def test_injection_is_an_error_and_a_500(loop: ManualLoop, header: tuple[bytes, bytes]) -> None:
    client = ask(loop)
    with pytest.raises(InvalidResponse):
        client.call.start(200, [header])
    assert client.sent == b""
    client.call.fail(InvalidResponse("as raised above"))
    assert client.statuses == [500]
    assert "c" not in client.answer()


def test_unknown_status_is_sent_without_a_phrase(loop: ManualLoop) -> None:
    client = ask(loop)
    respond(client, length(0), b"", status=799)
    assert client.sent.startswith(b"HTTP/1.1 799 \r\n")


def test_last_response_says_so_once(loop: ManualLoop) -> None:
    client = ask(loop, GET10)
    respond(client, [*length(0), (b"Connection", b"close")], b"")
    assert client.answer().all("connection") == ["close"]


# -- the rest


def test_interim_response_comes_before_the_final_one(loop: ManualLoop) -> None:
    client = ask(loop, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    client.call.receiving()
    assert client.sent == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("head, aborted", [(GET, False), (GET10, True)])
def test_broken_off_response_can_be_told_from_a_complete_one(loop: ManualLoop, head: bytes, aborted: bool) -> None:
    client = ask(loop, head)
    client.call.start()
    client.call.body(b"part", more=True)
    client.call.fail(ValueError())
    assert client.transport.is_closing()
    assert client.transport.was_aborted() is aborted


def test_writer_knows_its_client(loop: ManualLoop) -> None:
    assert Client.of(loop).connection.client == ("192.0.2.7", 54321)
