"""Random and damaged HTTP/2: nothing escapes, and how the bytes arrive never matters."""

from __future__ import annotations

from typing import Any

import pytest
from hpack import Decoder
from hyperframe import frame as hyper
from hypothesis import assume, given
from hypothesis import strategies as st

from outrider.http2 import HTTP2Connection
from outrider.http2_engine import DataReceived, Engine, EngineError, code_of
from outrider.runtime import ASGIApp, Receive, Scope, Send
from outrider_testing import http2_frames as h2
from outrider_testing.fakes import FakeTransport, ManualLoop, make_config, make_context, make_runtime
from outrider_testing.fuzzing import FUZZ, cut, damaged

pytestmark = pytest.mark.usefixtures("freed")

PREFACE = h2.PREFACE + h2.settings((h2.ENABLE_PUSH, 0))
STREAMS = st.sampled_from([1, 1, 1, 3, 3, 5, 7, 0, 2])
SIZES = st.sampled_from([0, 1, 100, 16384, 2**31 - 1])
BLOCKS = st.sampled_from(
    [
        h2.GET,
        h2.POST,
        h2.request("/", ("X", "upper")),
        h2.request("/", ("content-length", "3"), method="POST"),
        h2.request("/", ("cookie", "a"), ("cookie", "b"), ("expect", "100-continue")),
        h2.fields(("x-trailer", "y")),
        h2.GET + h2.literal("x-kept", "v" * 40, h2.INDEXED),
        h2.GET + h2.indexed(62),
        h2.table_size(0) + h2.GET,
        h2.fields((":method", "CONNECT"), (":authority", "test")),
        h2.fields(
            (":method", "CONNECT"), (":protocol", "websocket"), *h2.pseudo()[1:], ("sec-websocket-version", "13")
        ),
        b"",
        b"\xff" * 9,
    ]
)
FLAGS = st.sampled_from([h2.COMPLETE, h2.COMPLETE, h2.END_HEADERS, h2.END_HEADERS, h2.END_STREAM, 0, 0xFF])


HEADERS = st.builds(h2.headers, STREAMS, BLOCKS, FLAGS)
DATA = st.builds(
    lambda stream, size, flags: h2.data(stream, bytes(size), flags & (h2.END_STREAM | h2.PADDED)),
    STREAMS,
    st.integers(0, 300),
    FLAGS,
)
KINDS = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 16, 255])
# Most often a frame that may come at some time. What is named twice comes twice as often.
FRAMES = st.one_of(
    HEADERS,
    HEADERS,
    HEADERS,
    DATA,
    DATA,
    st.builds(h2.continuation, STREAMS, BLOCKS, FLAGS),
    st.builds(h2.window_update, STREAMS, SIZES),
    st.builds(lambda name, value: h2.settings((name, value)), st.integers(0, 9), SIZES),
    st.builds(h2.rst_stream, STREAMS),
    st.builds(h2.priority, STREAMS, STREAMS),
    st.just(h2.ping()),
    st.builds(h2.frame, KINDS, st.integers(0, 255), STREAMS, st.binary(max_size=20)),
)
GOODBYES = st.builds(h2.goaway, st.just(0), STREAMS)


@st.composite
def pieces(draw: st.DrawFn, frames: st.SearchStrategy[bytes] = FRAMES | GOODBYES) -> list[bytes]:
    """Some frames on one connection, most often undamaged, and cut at random."""
    return cut(draw, damaged(draw, b"".join(draw(st.lists(frames, min_size=1, max_size=10)))))


def read(parts: list[bytes]) -> list[Any]:
    """What the engine tells of these bytes before it answers any, however much of a body it tells at once."""
    config = make_config()
    assert config.http2 is not None
    engine = Engine(config.http2, config.limit_request_fields, websocket=True)
    events: list[Any] = []
    for part in [PREFACE, *parts]:
        try:
            engine.receive(part)
        except EngineError as error:
            return [code_of(error)]
        events += engine.events()
    while engine.to_send(1 << 16):
        events += engine.events()
    joined: list[Any] = []
    for event in events:
        last = joined[-1] if joined else None
        if not isinstance(event, DataReceived):
            joined.append(repr(event))
        elif isinstance(last, list) and last[0] == event.stream_id and not last[2]:
            last[1:] = [last[1] + event.data, event.end_stream]
        else:
            joined.append([event.stream_id, event.data, event.end_stream])
    return joined


@FUZZ
@given(parts=pieces(FRAMES))
def test_how_frames_arrive_does_not_matter(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    expected = read([whole])
    # Of what a client sends after it has said goodbye, only that is heard which came with it.
    assume(not any("GoAway" in str(event) for event in expected))
    assert read(parts) == expected
    if len(whole) < 500:
        assert read([whole[i : i + 1] for i in range(len(whole))]) == expected


SAMPLE = b"".join(
    [
        h2.headers(1, h2.padded(h2.POST[:20], 9), h2.PADDED),
        h2.continuation(1, h2.POST[20:] + h2.literal("x-kept", "kept", h2.INDEXED)),
        h2.ping() + h2.settings((h2.HEADER_TABLE_SIZE, 100)) + h2.priority(1),
        h2.data(1, h2.padded(b"body", 5), h2.PADDED),
        h2.get(3) + h2.window_update(0, 1000) + h2.rst_stream(3),
        h2.headers(5, h2.GET + h2.indexed(62)),
        h2.headers(1, h2.fields(("x-trailer", "y"))),
        h2.frame(0xEE, 0, 1, b"unknown"),
    ]
)


def test_frames_may_be_split_at_every_offset() -> None:
    expected = read([SAMPLE])
    assert sum("RequestReceived" in event for event in expected) == 3
    for offset in range(1, len(SAMPLE)):
        assert read([SAMPLE[:offset], SAMPLE[offset:]]) == expected, offset


def recorder(told: list[Any]) -> ASGIApp:
    """An application that keeps what it is told, and sends bodies back."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            more = message["more_body"]
        told.append((scope["method"], scope["raw_path"], scope["headers"], body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


def connect(loop: ManualLoop, app: ASGIApp, **config: Any) -> tuple[HTTP2Connection, FakeTransport]:
    context = make_context(make_runtime(loop, app, **config))
    connection = HTTP2Connection(context)
    context.runtime.connections.add(connection)
    transport = FakeTransport(loop, connection)
    connection.connection_made(transport)
    return connection, transport


def feed(loop: ManualLoop, transport: FakeTransport, parts: list[bytes]) -> None:
    for part in parts:
        transport.feed(part)
        loop.run_ready()


def read_back(octets: bytes) -> dict[int, tuple[list[Any], bytes]]:
    """What was sent, by stream; all of it must be frames and field blocks that can be read."""
    decoder = Decoder()
    streams: dict[int, tuple[list[Any], bytes]] = {}
    while octets:
        frame, length = hyper.Frame.parse_frame_header(memoryview(octets[:9]))
        assert len(octets) >= 9 + length
        frame.parse_body(memoryview(octets[9 : 9 + length]))
        octets = octets[9 + length :]
        fields, body = streams.get(frame.stream_id, ([], b""))
        if isinstance(frame, hyper.HeadersFrame):
            streams[frame.stream_id] = ([*fields, *decoder.decode(frame.data)], body)
        elif isinstance(frame, hyper.DataFrame):
            streams[frame.stream_id] = (fields, body + frame.data)
    return streams


@FUZZ
@given(parts=pieces())
def test_frames_end_in_answers_that_can_be_read(loop: ManualLoop, parts: list[bytes]) -> None:
    connection, transport = connect(loop, recorder([]))
    feed(loop, transport, [PREFACE, *parts])
    read_back(bytes(transport.written))
    assert transport.written_late == b""
    assert connection.runtime.log.messages("error") == []  # type: ignore[attr-defined]  # a FakeLog
    transport.lose()
    loop.run_ready()
    assert not connection.runtime.streams
    assert not connection.runtime.connections


@FUZZ
@given(octets=st.binary(max_size=200), preface=st.booleans())
def test_random_bytes_are_refused_or_ignored(loop: ManualLoop, octets: bytes, preface: bool) -> None:
    told: list[Any] = []
    connection, transport = connect(loop, recorder(told))
    feed(loop, transport, [PREFACE + octets if preface else octets])
    read_back(bytes(transport.written))
    transport.lose()
    loop.run_ready()
    assert told == []
    assert not connection.runtime.connections


@FUZZ
@given(parts=pieces())
def test_time_ends_every_connection(loop: ManualLoop, parts: list[bytes]) -> None:
    connection, transport = connect(loop, recorder([]))
    feed(loop, transport, [PREFACE, *parts])
    runtime = connection.runtime
    for _ in range(8):
        loop.advance(31)
        runtime.now = loop.time()
        for each in [each for each in runtime.connections if each.deadline < runtime.now]:
            each.expire()
        for writer in list(runtime.blocked_writers):
            writer.check_write_progress(runtime.now)
        loop.run_ready()
    assert transport.is_closing()
    assert not runtime.streams


@st.composite
def exchanges(draw: st.DrawFn) -> bytes:
    """Good requests, their frames in any order that keeps that of each stream."""
    queues = []
    for number in range(draw(st.integers(1, 5))):
        stream = 2 * number + 1
        bodies = draw(st.lists(st.binary(max_size=50), max_size=3))
        ends = h2.END_STREAM if not bodies else 0
        block = h2.request("/", ("x-number", str(number)), method="POST") + h2.literal("x", "y", h2.INDEXED)
        half = draw(st.integers(0, len(block)))
        head = h2.headers(stream, block[:half], ends) + h2.continuation(stream, block[half:])
        last = len(bodies) - 1
        queues.append([head, *(h2.data(stream, body, int(at == last)) for at, body in enumerate(bodies))])
    sent = [queue.pop(0) for queue in queues]
    while queues := [queue for queue in queues if queue]:
        sent.append(draw(st.sampled_from(queues)).pop(0))
    return b"".join(sent)


@st.composite
def cut_exchanges(draw: st.DrawFn) -> list[bytes]:
    """The same in pieces."""
    return cut(draw, draw(exchanges()))


@FUZZ
@given(parts=cut_exchanges())
def test_requests_are_the_same_however_they_arrive(loop: ManualLoop, parts: list[bytes]) -> None:
    whole = b"".join(parts)
    results = []
    for arriving in ([whole], parts, [whole[i : i + 1] for i in range(len(whole))]):
        told: list[Any] = []
        _, transport = connect(loop, recorder(told))
        feed(loop, transport, [PREFACE, *arriving])
        results.append((sorted(told), read_back(bytes(transport.written))))
        transport.lose()
    assert results[1:] == results[:1] * 2
