"""Random and damaged WebSocket frames: nothing escapes, and how the bytes arrive never matters."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.runtime import ASGIApp, Receive, Scope, Send
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import Client, ManualLoop, make_context, make_runtime
from outrider_testing.fuzzing import FUZZ, cut, damaged

pytestmark = pytest.mark.usefixtures("freed")

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
PLAIN = ws.handshake()
DEFLATED = ws.handshake(DEFLATE)


def deflate(payload: bytes) -> bytes:
    """A message as permessage-deflate sends it (RFC 7692 §7.2.1), with a context of its own."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


PAYLOADS = [
    b"",
    b"a",
    "zażółć €😀".encode(),
    b"\xff\xfe",
    "€".encode()[:2],
    "€".encode()[2:],
    b"x" * 200,
    bytes(70_000),
]
CODES = [None, 0, 999, 1000, 1001, 1005, 1006, 1011, 1016, 3000, 4999, 5000]
FLAGS = [ws.FINAL, ws.FINAL, ws.FINAL, 0, 0, ws.FINAL | ws.COMPRESSED, ws.COMPRESSED, ws.FINAL | 0x20, ws.FINAL | 0x10]
OPCODES = [ws.TEXT, ws.TEXT, ws.BINARY, ws.CONTINUATION, ws.CONTINUATION, ws.PING, ws.PONG, 0x3, 0xB]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One frame, most often a good one."""
    kind = draw(st.integers(0, 9))
    payload = draw(st.sampled_from(PAYLOADS))
    if kind < 5:
        return ws.frame(draw(st.sampled_from([ws.TEXT, ws.BINARY, ws.PING])), payload[:125] if kind else payload)
    if kind == 5:
        return ws.frame(draw(st.sampled_from([ws.TEXT, ws.BINARY])), deflate(payload), ws.FINAL | ws.COMPRESSED)
    if kind == 6:
        return ws.close(draw(st.sampled_from(CODES)), payload[:123])
    opcode, flags = draw(st.sampled_from(OPCODES)), draw(st.sampled_from(FLAGS))
    return ws.frame(opcode, payload, flags, None if kind == 9 else draw(st.binary(min_size=4, max_size=4)))


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """Some frames on one connection, most often undamaged, and cut at random."""
    return cut(draw, damaged(draw, b"".join(draw(st.lists(frames(), min_size=1, max_size=8)))))


def recorder(events: list[Any]) -> ASGIApp:
    """An application that accepts and says nothing more: what it sends would depend on when it is asked."""

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        events.append(await receive())
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            events.append(message)
            if message["type"] == "websocket.disconnect":
                return

    return app


def play(loop: ManualLoop, parts: list[bytes], **config: Any) -> tuple[list[Any], bytes, bool]:
    """Send the parts; return what the application was told, what was sent, and whether the connection is closed."""
    events: list[Any] = []
    client = Client(loop, make_context(make_runtime(loop, recorder(events), **config)))
    for part in parts:
        client.feed(part)
    assert client.log.messages("error") == []
    assert client.transport.written_late == b""
    sent, closed = client.sent, client.is_closed()
    client.lose()
    assert not client.runtime.streams
    assert not client.runtime.connections
    assert events[-1]["type"] == "websocket.disconnect"
    return events, sent, closed


@FUZZ
@given(parts=pieces(), head=st.sampled_from([PLAIN, DEFLATED]), most=st.sampled_from([150, 100_000]))
def test_how_frames_arrive_does_not_matter(loop: ManualLoop, parts: list[bytes], head: bytes, most: int) -> None:
    config = {"websocket_max_message_size": most}
    whole = head + b"".join(parts)
    expected = play(loop, [whole], **config)
    assert play(loop, [head, *parts], **config) == expected
    if len(whole) < 2000:
        assert play(loop, [whole[i : i + 1] for i in range(len(whole))], **config) == expected


SAMPLE = b"".join(
    [
        ws.frame(ws.TEXT, "zaż€😀".encode()),
        ws.frame(ws.BINARY, b"x" * 126, 0),
        ws.frame(ws.PING, b"ping"),
        ws.frame(ws.CONTINUATION, b"y" * 10),
        ws.frame(ws.TEXT, deflate(b"deflated" * 10), ws.FINAL | ws.COMPRESSED),
        ws.close(1000, "żegnaj".encode()),
    ]
)


def test_frames_may_be_split_at_every_offset(loop: ManualLoop) -> None:
    whole = DEFLATED + SAMPLE
    expected = play(loop, [whole])
    assert [event.get("text") or event.get("bytes") for event in expected[0]] == [
        None,
        "zaż€😀",
        b"x" * 126 + b"y" * 10,
        "deflated" * 10,
        None,
    ]
    for offset in range(1, len(whole)):
        assert play(loop, [whole[:offset], whole[offset:]]) == expected, offset


@FUZZ
@given(parts=st.lists(st.binary(max_size=40), max_size=5), head=st.sampled_from([PLAIN, DEFLATED]))
def test_random_bytes_end_in_a_close(loop: ManualLoop, parts: list[bytes], head: bytes) -> None:
    """Bytes without a mask bit are no frame of a client; others may be the beginning of one."""
    events, sent, closed = play(loop, [head, *parts])
    assert events[0]["type"] == "websocket.connect"
    after = sent.partition(b"\r\n\r\n")[2]
    assert closed is (bytes([ws.FINAL | ws.CLOSE]) in after)


@FUZZ
@given(parts=pieces(), head=st.sampled_from([PLAIN, DEFLATED]))
def test_time_ends_every_websocket_that_is_silent(loop: ManualLoop, parts: list[bytes], head: bytes) -> None:
    """A client that does not answer a ping is gone, whatever it sent before."""
    events: list[Any] = []
    client = Client(loop, make_context(make_runtime(loop, recorder(events))))
    client.feed(head + b"".join(parts))
    for _ in range(8):
        client.sweep(31)
    assert client.transport.is_closing()
    assert not client.runtime.streams
    assert events[-1]["type"] == "websocket.disconnect"
