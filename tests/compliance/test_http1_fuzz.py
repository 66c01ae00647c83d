"""Random bytes, random requests, and random responses: nothing escapes, and how the bytes arrive never matters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.http1_encoding import InvalidResponse
from outrider.runtime import Receive, Scope, Send
from outrider_testing.fakes import Client, ManualLoop, echo, make_context, make_runtime
from outrider_testing.fuzzing import FUZZ, cut, damaged

pytestmark = pytest.mark.usefixtures("freed")

MARKS = b"\0\t\n\r :;,/0AZ_\x7f\xff"

LINES = [
    b"GET / HTTP/1.1",
    b"HEAD /a%20b?c HTTP/1.1",
    b"POST http://b/ HTTP/1.1",
    b"POST / HTTP/1.0",
    b"OPTIONS * HTTP/1.1",
    b"GET / HTTP/2.0",
    b"\r\n\r\nGET / HTTP/1.1",
    b"\nPOST / HTTP/1.1",
]
FIELDS = [
    b"Host: a",
    b"Host: u@a",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: upgrade",
    b"Upgrade: x",
    b"Expect: 100-continue",
    b"Content-Length: 4",
    b"Content-Length: 0",
    b"Transfer-Encoding: chunked",
    b"X: y\t",
    b"X_Y: z",
    b" folded",
    b"X : y",
]
BODIES = [b"", b"abcd", b"0\r\n\r\n", b"4\r\nabcd\r\n0\r\n\r\n", b"2;x=y\r\nab\r\n0\r\nHost: t\r\n\r\n", b"4\r\nabc"]
ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n ", b"\0\r\n"]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, most often a good one."""
    fields = draw(st.lists(st.sampled_from(FIELDS), max_size=3, unique=True))
    end = b"\r\n" if draw(st.integers(0, 4)) else draw(st.sampled_from(ENDS))
    lines = [draw(st.sampled_from(LINES)), *([b"Host: a"] if draw(st.integers(0, 4)) else []), *fields]
    return end.join([*lines, b"", b""]) + draw(st.sampled_from(BODIES))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Some requests on one connection, with a few bytes changed."""
    return damaged(draw, b"".join(draw(st.lists(requests(), min_size=1, max_size=4))), MARKS)


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """A stream of requests, cut at random."""
    return cut(draw, draw(streams()))


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Like `echo`, but a HEAD request gets a 204: its end shows without knowledge of the method."""
    if scope["method"] != "HEAD":
        await echo(scope, receive, send)
        return
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass
    if message["type"] == "http.request":
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})


def play(loop: ManualLoop, parts: list[bytes], **config: Any) -> tuple[list[Any], bool]:
    """Send the parts; return the final answers and whether the connection was closed."""
    client = Client(loop, make_context(make_runtime(loop, app, **config)))
    for part in parts:
        client.feed(part)
    assert client.log.messages("error") == []
    assert client.transport.written_late == b""
    answers: list[Any] = []
    # The refusal of a HEAD request has no body, so its end is that of the connection.
    for answer in client.answers():
        if answer.status >= 400:
            # Which bytes come together decides whether an unknown method is told from garbage.
            answers.append(400 if answer.status == 501 else answer.status)
        elif answer.status >= 200:
            answers.append((answer.status, answer.headers, answer.body))
    closed = client.is_closed()
    client.lose()
    assert not client.runtime.streams
    return answers, closed


@FUZZ
@given(parts=pieces(), field_size=st.sampled_from([60, 8190]))
def test_how_requests_arrive_does_not_matter(loop: ManualLoop, parts: list[bytes], field_size: int) -> None:
    # A read that could hold a field beyond the limit is looked at in another way.
    config = {"limit_request_field_size": field_size}
    whole = b"".join(parts)
    expected = play(loop, [whole], **config)
    assert play(loop, parts, **config) == expected
    assert play(loop, [whole[i : i + 1] for i in range(len(whole))], **config) == expected


@FUZZ
@given(parts=st.lists(st.binary(max_size=40), max_size=5))
def test_random_bytes_are_refused_or_ignored(loop: ManualLoop, parts: list[bytes]) -> None:
    answers, closed = play(loop, parts)
    assert answers in ([], [400])
    assert closed is (answers == [400])


@FUZZ
@given(
    data=streams(), config=st.sampled_from([{"limit_request_line": 20}, {"limit_request_fields": 1}, {"keepalive": 0}])
)
def test_time_and_limits_end_every_connection(loop: ManualLoop, data: bytes, config: dict[str, Any]) -> None:
    client = Client(loop, make_context(make_runtime(loop, app, **config)))
    client.feed(data)
    for _ in range(4):
        client.sweep(31)
    assert client.transport.is_closing()
    assert not client.runtime.streams


NAMES = st.sampled_from(
    [b"x", b"content-length", b"connection", b"Transfer-Encoding", b"", b"a b", b"a\r\nb"]
) | st.binary(max_size=5)
VALUES = st.sampled_from([b"", b"4", b"close", b"chunked", b"a\r\nb: c", b"a\nb", b"\0"]) | st.binary(max_size=8)


@FUZZ
@given(
    status=st.sampled_from([200, 204, 304, 404, 500, 999]),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=3),
    bodies=st.lists(st.binary(max_size=4), min_size=1, max_size=3),
    head=st.sampled_from([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"]),
)
def test_response_is_an_error_or_can_be_read_back(
    loop: ManualLoop, status: int, headers: list[tuple[bytes, bytes]], bodies: list[bytes], head: bytes
) -> None:
    client = Client.of(loop)
    client.feed(head)
    try:
        client.call.start(status, headers)
        for body in bodies[:-1]:
            client.call.body(body, more=True)
        client.call.body(bodies[-1])
    except InvalidResponse as error:
        client.call.fail(error)
        assert client.answer().status in (500, status)
        assert client.is_closed()
        client.lose()
        return
    client.call.finish()
    client.lose()
    answer = client.answer()
    assert answer.status == status
    assert answer.complete
    assert answer.body == (b"" if status in (204, 304) else b"".join(bodies))
    own = {"content-length", "connection", "transfer-encoding"}
    expected = [(name.decode(), value.strip(b" \t").decode("latin-1")) for name, value in headers]
    assert [pair for pair in answer.headers if pair[0].lower() not in own] == [
        pair for pair in expected if pair[0].lower() not in own
    ]
