"""HTTP/2 frames, RFC 9113 §4 and §6: what each may hold, and on which stream it may come."""

from __future__ import annotations

import pytest

from outrider_testing import http2_frames as h2
from outrider_testing.http2_cases import (
    ACCEPTED,
    Case,
    ConnectionFault,
    Holds,
    Response,
    Step,
    StreamFault,
    ended,
    parametrize,
    play,
    sized,
)
from outrider_testing.http2_wire import Connect

PROTOCOL = ConnectionFault(h2.PROTOCOL_ERROR)
SIZE = ConnectionFault(h2.FRAME_SIZE_ERROR)
BADLY_PADDED = ConnectionFault(h2.PROTOCOL_ERROR, h2.FRAME_SIZE_ERROR)
HELLO = Response(1, body=b"hello")
HALF = len(h2.GET) // 2
UNFINISHED = h2.headers(1, h2.GET[:HALF], h2.END_STREAM)
REST = h2.continuation(1, h2.GET[HALF:])
UNKNOWN = 0xEE


def pong(payload: bytes, times: int = 1) -> Holds:
    return Holds(f"{times} answers to {payload!r}", lambda client: client.pongs.count(payload) == times)


def acknowledged(times: int) -> Holds:
    return Holds(f"{times} acknowledgements", lambda client: client.acknowledged == times)


FORMAT = [
    Case("4.1", "frame of an unknown type", [h2.frame(UNKNOWN, 0xFF, 0, b"?" * 8)], ACCEPTED),
    Case("4.1", "frame of an unknown type on an idle stream", [h2.frame(UNKNOWN, 0, 1), h2.get(1)], HELLO),
    Case("4.1", "PING with undefined flags", [h2.ping(b"flagging", 0xFE)], pong(b"flagging")),
    Case("4.1", "HEADERS with undefined flags", [h2.headers(1, h2.GET, h2.COMPLETE | 0x52)], HELLO),
    Case("4.1", "DATA with undefined flags", [h2.post(1), h2.data(1, b"a", 0xF7)], Response(1, body=b"a")),
    Case("4.1", "PING with the reserved bit", [h2.frame(h2.PING, 0, 1 << 31, b"reserved")], pong(b"reserved")),
    Case("4.1", "HEADERS with the reserved bit", [h2.get(1 << 31 | 1)], HELLO),
    Case("4.2", "DATA of 2^14 octets", [h2.post(1), h2.data(1, bytes(16384))], Response(1, body=bytes(16384))),
    Case("4.2", "DATA of the largest size", [h2.post(1), sized(lambda n: h2.data(1, bytes(n)))], Response(1)),
    Case("4.2", "too large DATA", [h2.post(1), sized(lambda n: h2.data(1, bytes(n)), 1)],
         StreamFault(1, h2.FRAME_SIZE_ERROR)),
    Case("4.2", "too large HEADERS",
         [sized(lambda n: h2.headers(1, h2.GET + h2.literal("x", "y" * (n - len(h2.GET)))))], SIZE),
    Case("4.2", "too large CONTINUATION",
         [UNFINISHED, sized(lambda n: h2.continuation(1, h2.GET[HALF:] + h2.literal("x", "y" * (n - HALF))))], SIZE),
    Case("4.2", "too large SETTINGS", [sized(lambda n: h2.settings(*[(0xFFF0, 0)] * (n // 6 + 1)))], SIZE),
    Case("4.2", "too large frame of an unknown type", [sized(lambda n: h2.frame(UNKNOWN, 0, 0, bytes(n)), 1)], SIZE),
    Case("4.3", "PRIORITY within a field block", [UNFINISHED, h2.priority(1), REST], PROTOCOL),
    Case("4.3", "HEADERS of another stream within a field block", [UNFINISHED, h2.get(3), REST], PROTOCOL),
    Case("4.3", "CONTINUATION of another stream within a field block",
         [UNFINISHED, h2.continuation(3, h2.GET[HALF:])], PROTOCOL),
    Case("4.3", "PING within a field block", [UNFINISHED, h2.ping(), REST], PROTOCOL),
    Case("4.3", "SETTINGS within a field block", [UNFINISHED, h2.settings(), REST], PROTOCOL),
    Case("4.3", "DATA within a field block", [UNFINISHED, h2.data(1, b"a"), REST], PROTOCOL),
    Case("4.3", "WINDOW_UPDATE within a field block", [UNFINISHED, h2.window_update(0, 1), REST], PROTOCOL),
    Case("4.3", "RST_STREAM within a field block", [UNFINISHED, h2.rst_stream(1), REST], PROTOCOL),
    Case("5.5", "frame of an unknown type within a field block", [UNFINISHED, h2.frame(UNKNOWN, 0, 1), REST], PROTOCOL),
]  # fmt: skip

DATA = [
    Case("6.1", "DATA in pieces",
         [h2.post(1), h2.data(1, b"a", 0), h2.data(1, b"", 0), h2.data(1, b"b")], Response(1, body=b"ab")),
    Case("6.1", "padded DATA",
         [h2.post(1), h2.data(1, h2.padded(b"a", 9), h2.PADDED | h2.END_STREAM)], Response(1, body=b"a")),
    Case("6.1", "DATA padded by nothing",
         [h2.post(1), h2.data(1, h2.padded(b"a", 0), h2.PADDED | h2.END_STREAM)], Response(1, body=b"a")),
    Case("6.1", "DATA of padding only",
         [h2.post(1), h2.data(1, h2.padded(b"", 255), h2.PADDED | h2.END_STREAM)], Response(1, body=b"")),
    Case("6.1", "DATA on stream 0", [h2.data(0, b"a")], PROTOCOL),
    Case("6.1", "DATA with as much padding as payload",
         [h2.post(1), h2.data(1, h2.padded(b"a", 0, said=2), h2.PADDED)], PROTOCOL),
    Case("6.1", "DATA with more padding than payload",
         [h2.post(1), h2.data(1, h2.padded(b"abc", 2, said=200), h2.PADDED)], PROTOCOL),
    Case("6.1", "padded DATA without a length", [h2.post(1), h2.data(1, b"", h2.PADDED)], BADLY_PADDED),
]  # fmt: skip

HEADERS = [
    Case("6.2", "HEADERS", [h2.get(1)], HELLO),
    Case("6.2", "padded HEADERS", [h2.headers(1, h2.padded(h2.GET, 7), h2.COMPLETE | h2.PADDED)], HELLO),
    Case("6.2", "HEADERS with a priority",
         [h2.headers(1, h2.priority_fields() + h2.GET, h2.COMPLETE | h2.WITH_PRIORITY)], HELLO),
    Case("6.2", "padded HEADERS with an exclusive priority",
         [h2.headers(1, h2.padded(h2.priority_fields(1 << 31, 255) + h2.GET, 7),
                     h2.COMPLETE | h2.PADDED | h2.WITH_PRIORITY)], HELLO),
    Case("6.2", "HEADERS on stream 0", [h2.headers(0, h2.GET)], PROTOCOL),
    Case("6.2", "HEADERS with more padding than payload",
         [h2.headers(1, h2.padded(h2.GET, 0, said=len(h2.GET) + 1), h2.COMPLETE | h2.PADDED)], PROTOCOL),
    Case("6.2", "padded HEADERS without a length", [h2.headers(1, b"", h2.COMPLETE | h2.PADDED)], BADLY_PADDED),
    Case("6.2", "HEADERS with half a priority",
         [h2.headers(1, b"\0\0", h2.COMPLETE | h2.WITH_PRIORITY)], BADLY_PADDED),
]  # fmt: skip

PRIORITY = [
    Case("6.3", "PRIORITY of the least weight", [h2.priority(1, 0, 0), h2.get(1)], HELLO),
    Case("6.3", "PRIORITY of the greatest weight", [h2.priority(1, 0, 255), h2.get(1)], HELLO),
    Case("6.3", "PRIORITY with a dependency", [h2.priority(3, 1), h2.get(1)], HELLO),
    Case("6.3", "exclusive PRIORITY", [h2.priority(1, 1 << 31), h2.get(1)], HELLO),
    Case("6.3", "PRIORITY on a higher stream, which stays idle", [h2.priority(5), h2.get(1), h2.get(3)], Response(3)),
    Case("6.3", "PRIORITY on stream 0", [h2.priority(0)], PROTOCOL),
    *(Case("6.3", f"PRIORITY of {size} octets", [h2.post(1), h2.frame(h2.PRIORITY, 0, 1, bytes(size))],
           StreamFault(1, h2.FRAME_SIZE_ERROR)) for size in (4, 6)),
]  # fmt: skip

RST_STREAM = [
    Case("6.4", "RST_STREAM on an open stream", [h2.post(1), h2.rst_stream(1), h2.get(3)], Response(3)),
    Case("6.4", "RST_STREAM on stream 0", [h2.rst_stream(0)], PROTOCOL),
    Case("6.4", "RST_STREAM on an idle stream", [h2.rst_stream(1)], PROTOCOL),
    *(Case("6.4", f"RST_STREAM of {size} octets", [h2.post(1), h2.frame(h2.RST_STREAM, 0, 1, bytes(size))], SIZE)
      for size in (3, 5)),
    Case("5.4.2", "RST_STREAM on a stream that is closed, and gets none in return",
         [h2.get(1), ended(1), h2.rst_stream(1)], ACCEPTED),
]  # fmt: skip

SETTINGS = [
    Case("6.5", "SETTINGS", [h2.settings()], acknowledged(2)),
    Case("6.5.3", "SETTINGS three times", [h2.settings() * 3], acknowledged(4)),
    Case("6.5.3", "an acknowledgement that nobody waits for", [h2.frame(h2.SETTINGS, h2.ACK)], acknowledged(1)),
    Case("6.5", "SETTINGS with an acknowledgement and a payload",
         [h2.frame(h2.SETTINGS, h2.ACK, 0, h2.settings((1, 1))[9:])], SIZE),
    Case("6.5", "SETTINGS on a stream", [h2.frame(h2.SETTINGS, 0, 1)], PROTOCOL),
    *(Case("6.5", f"SETTINGS of {size} octets", [h2.frame(h2.SETTINGS, 0, 0, bytes(size))], SIZE) for size in (5, 7)),
    Case("6.5.2", "ENABLE_PUSH 0", [h2.settings((h2.ENABLE_PUSH, 0)), h2.get(1)], HELLO),
    Case("6.5.2", "ENABLE_PUSH 2", [h2.settings((h2.ENABLE_PUSH, 2))], PROTOCOL),
    Case("6.5.2", "too large INITIAL_WINDOW_SIZE", [h2.settings((h2.INITIAL_WINDOW_SIZE, 2**31))],
         ConnectionFault(h2.FLOW_CONTROL_ERROR)),
    Case("6.5.2", "the largest INITIAL_WINDOW_SIZE", [h2.settings((h2.INITIAL_WINDOW_SIZE, 2**31 - 1)), h2.get(1)],
         HELLO),
    Case("6.5.2", "too small MAX_FRAME_SIZE", [h2.settings((h2.MAX_FRAME_SIZE, 16383))], PROTOCOL),
    Case("6.5.2", "the largest MAX_FRAME_SIZE", [h2.settings((h2.MAX_FRAME_SIZE, 2**24 - 1)), h2.get(1)], HELLO),
    Case("6.5.2", "too large MAX_FRAME_SIZE", [h2.settings((h2.MAX_FRAME_SIZE, 2**24))], PROTOCOL),
    Case("6.5.2", "MAX_CONCURRENT_STREAMS 0: the server opens none", [h2.settings((3, 0)), h2.get(1)], HELLO),
    Case("6.5.2", "an unknown setting", [h2.settings((0xABCD, 0xFFFFFFFF)), h2.get(1)], HELLO),
    Case("6.5.3", "a good setting before a bad one", [h2.settings((h2.MAX_FRAME_SIZE, 16384), (h2.ENABLE_PUSH, 2))],
         PROTOCOL),
    Case("6.6", "PUSH_PROMISE", [h2.post(1), h2.frame(h2.PUSH_PROMISE, 4, 1, b"\0\0\0\2" + h2.GET)], PROTOCOL),
    Case("6.6", "PUSH_PROMISE on stream 0", [h2.frame(h2.PUSH_PROMISE, 4, 0, b"\0\0\0\2" + h2.GET)], PROTOCOL),
]  # fmt: skip

PING_AND_GOAWAY = [
    Case("6.7", "PING", [h2.ping(b"opaque\0\xff")], pong(b"opaque\0\xff")),
    Case("6.7", "PING with an acknowledgement, which gets none", [h2.ping(b"answered", h2.ACK)], pong(b"answered", 0)),
    Case("6.7", "PING on a stream", [h2.frame(h2.PING, 0, 1, bytes(8))], PROTOCOL),
    *(Case("6.7", f"PING of {size} octets", [h2.ping(bytes(size))], SIZE) for size in (6, 7, 9)),
    Case("6.8", "GOAWAY on a stream", [h2.frame(h2.GOAWAY, 0, 1, bytes(8))], PROTOCOL),
    Case("6.8", "GOAWAY of 7 octets", [h2.frame(h2.GOAWAY, 0, 0, bytes(7))], SIZE),
]  # fmt: skip

WINDOW_UPDATE = [
    Case("6.9", "WINDOW_UPDATE", [h2.window_update(0, 1000), h2.get(1), h2.window_update(1, 1000)], HELLO),
    Case("6.9", "WINDOW_UPDATE with the reserved bit",
         [h2.frame(h2.WINDOW_UPDATE, 0, 0, b"\x80\0\0\1"), h2.get(1)], HELLO),
    Case("6.9", "WINDOW_UPDATE of 0", [h2.window_update(0, 0)], PROTOCOL),
    Case("6.9", "WINDOW_UPDATE of 0 on a stream", [h2.post(1), h2.window_update(1, 0)],
         StreamFault(1, h2.PROTOCOL_ERROR)),
    *(Case("6.9", f"WINDOW_UPDATE of {size} octets", [h2.frame(h2.WINDOW_UPDATE, 0, 0, b"\1" * size)], SIZE)
      for size in (3, 5)),
    Case("6.9", "WINDOW_UPDATE on an idle stream", [h2.window_update(1, 1)], PROTOCOL),
    Case("6.9", "WINDOW_UPDATE on a closed stream", [h2.get(1), ended(1), h2.window_update(1, 1)], ACCEPTED),
]  # fmt: skip


def in_pieces(size: int) -> list[Step]:
    rest = [h2.GET[start : start + size] for start in range(0, len(h2.GET), size)]
    middle = [h2.continuation(1, piece, 0) for piece in rest[1:-1]]
    return [h2.headers(1, rest[0], h2.END_STREAM), *middle, h2.continuation(1, rest[-1])]


CONTINUATION = [
    Case("6.10", "CONTINUATION", [UNFINISHED, REST], HELLO),
    Case("6.10", "several CONTINUATION", in_pieces(9), HELLO),
    Case("6.10", "an empty CONTINUATION", [UNFINISHED, h2.continuation(1, b"", 0), REST], HELLO),
    Case("6.10", "empty HEADERS, then CONTINUATION",
         [h2.headers(1, b"", h2.END_STREAM), h2.continuation(1, h2.GET)], HELLO),
    Case("6.10", "CONTINUATION on stream 0", [UNFINISHED, h2.continuation(0, h2.GET[HALF:])], PROTOCOL),
    Case("6.10", "CONTINUATION on an idle stream", [h2.continuation(1, h2.GET)], PROTOCOL),
    Case("6.10", "CONTINUATION after HEADERS with END_HEADERS", [h2.post(1), h2.continuation(1)], PROTOCOL),
    Case("6.10", "CONTINUATION after CONTINUATION with END_HEADERS",
         [h2.headers(1, h2.POST[:9], 0), h2.continuation(1, h2.POST[9:]), h2.continuation(1)], PROTOCOL),
    Case("6.10", "CONTINUATION after DATA", [h2.post(1), h2.data(1, b"a", 0), h2.continuation(1)], PROTOCOL),
    Case("6.10", "CONTINUATION, then something else", [UNFINISHED, h2.continuation(1, b"", 0), h2.ping()], PROTOCOL),
]  # fmt: skip


@parametrize(
    FORMAT + DATA + HEADERS + PRIORITY + RST_STREAM + SETTINGS + PING_AND_GOAWAY + WINDOW_UPDATE + CONTINUATION
)
def test_server_answers_frame_as_specified(connect: Connect, case: Case) -> None:
    play(case, connect)


@pytest.mark.parametrize("times", [2])
def test_server_names_the_last_stream_that_it_dealt_with(connect: Connect, times: int) -> None:
    with connect() as client:
        client.handshake()
        for stream in range(1, 2 * times, 2):
            client.send(h2.get(stream))
            client.response(stream)
        client.send(h2.data(0))
        client.read_until(lambda: False, "the end")
        assert (client.goaway, client.last_stream) == (h2.PROTOCOL_ERROR, 2 * times - 1)
