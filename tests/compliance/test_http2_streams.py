"""HTTP/2 streams, RFC 9113 §5: their states, their numbers, and how many there may be; §7: codes."""

from __future__ import annotations

from outrider_testing import http2_frames as h2
from outrider_testing.http2_cases import (
    ACCEPTED,
    Answer,
    Case,
    ConnectionFault,
    Holds,
    Response,
    Step,
    StreamFault,
    answered,
    ended,
    parametrize,
    play,
)
from outrider_testing.http2_wire import Connect, WireClient

PROTOCOL = ConnectionFault(h2.PROTOCOL_ERROR)
CLOSED_STREAM = StreamFault(1, h2.STREAM_CLOSED)
# What comes on a closed stream may also be discarded since RFC 9113; an error shows the client its mistake.
CLOSED = ConnectionFault(h2.STREAM_CLOSED)
NO_CONTINUATION = ConnectionFault(h2.STREAM_CLOSED, h2.PROTOCOL_ERROR)
# The response to a GET has a body, which must then wait: the stream stays half-closed.
NO_WINDOW = h2.settings((h2.INITIAL_WINDOW_SIZE, 0))


def half_closed(sends: str, steps: list[Step], *allowed: Answer) -> Case:
    return Case("5.1", f"{sends} on a half-closed stream", [h2.get(1), *steps], *allowed, settings=NO_WINDOW)


IDLE = [
    Case("5.1", "PRIORITY on an idle stream", [h2.priority(1)], ACCEPTED),
    Case("5.1", "DATA on an idle stream", [h2.data(1, b"a")], PROTOCOL),
    Case("5.1", "RST_STREAM on an idle stream", [h2.rst_stream(1)], PROTOCOL),
    Case("5.1", "WINDOW_UPDATE on an idle stream", [h2.window_update(1, 1)], PROTOCOL),
    Case("5.1", "CONTINUATION on an idle stream", [h2.continuation(1, h2.GET)], PROTOCOL),
    Case("5.1", "DATA on an idle stream of the server's", [h2.data(2, b"a")], PROTOCOL),
    Case("5.1", "RST_STREAM on an idle stream of the server's", [h2.rst_stream(2)], PROTOCOL),
    Case("5.1", "WINDOW_UPDATE on an idle stream of the server's", [h2.window_update(2, 1)], PROTOCOL),
]

HALF_CLOSED = [
    half_closed("DATA", [h2.data(1, b"a")], CLOSED_STREAM),
    half_closed("HEADERS", [h2.get(1)], CLOSED_STREAM),
    half_closed("CONTINUATION", [h2.continuation(1, h2.GET)], NO_CONTINUATION),
    half_closed("WINDOW_UPDATE", [h2.window_update(1, 5)], Response(1, body=b"hello")),
    half_closed("PRIORITY", [h2.priority(1), h2.window_update(1, 5)], Response(1, body=b"hello")),
    half_closed("RST_STREAM", [h2.rst_stream(1)], ACCEPTED),
    half_closed(
        "RST_STREAM with half the body sent", [h2.window_update(1, 2), answered(1), h2.rst_stream(1)], ACCEPTED
    ),
]

RESET = [h2.post(1), h2.rst_stream(1)]
OVER = [h2.get(1), ended(1)]

CLOSED_STREAMS = [
    Case("5.1", "DATA after RST_STREAM", [*RESET, h2.data(1, b"a")], CLOSED_STREAM),
    Case("5.1", "HEADERS after RST_STREAM", [*RESET, h2.get(1)], CLOSED_STREAM),
    Case("5.1", "CONTINUATION after RST_STREAM", [*RESET, h2.continuation(1, h2.GET)], NO_CONTINUATION),
    Case("5.1", "PRIORITY after RST_STREAM", [*RESET, h2.priority(1)], ACCEPTED),
    Case("5.1", "DATA on a closed stream", [*OVER, h2.data(1, b"a")], CLOSED),
    Case("5.1", "HEADERS on a closed stream", [*OVER, h2.get(1)], CLOSED),
    Case("5.1", "CONTINUATION on a closed stream", [*OVER, h2.continuation(1, h2.GET)], NO_CONTINUATION),
    Case("5.1", "PRIORITY on a closed stream", [*OVER, h2.priority(1)], ACCEPTED),
    Case("5.1", "WINDOW_UPDATE on a closed stream", [*OVER, h2.window_update(1, 1)], ACCEPTED),
    Case("5.1", "RST_STREAM on a closed stream", [*OVER, h2.rst_stream(1)], ACCEPTED),
]


def is_done_early(client: WireClient) -> bool:
    """The response is there, and nothing came after it but a wish to get no more of the request (§8.1)."""
    return client.responses[1].ended and client.resets in ({}, {1: h2.NO_ERROR}) and not client.closed


EARLY_RESPONSES = [
    # The rest of a request may be on its way when its response is complete already.
    Case("8.1", "DATA after an early response",
         [h2.post(1, path="/"), ended(1), h2.data(1, b"late", 0), h2.data(1, b"later")],
         Holds("response, no error", is_done_early)),
    Case("8.1", "trailers after an early response",
         [h2.post(1, path="/"), ended(1), h2.headers(1, h2.fields(("x", "y")))],
         Holds("response, no error", is_done_early)),
    Case("8.1", "another request after an early response",
         [h2.post(1, path="/"), ended(1), h2.get(3), h2.data(1, b"late")], Response(3)),
]  # fmt: skip


def open_all(client: WireClient) -> bytes:
    """As many streams as the server allows; none can end, for the window is closed."""
    allowed = client.settings[h2.MAX_CONCURRENT_STREAMS]
    assert allowed >= 100, "RFC 9113 §6.5.2 recommends no less"
    return b"".join(h2.get(2 * number + 1) for number in range(allowed))


def open_another(client: WireClient) -> bytes:
    return h2.get(2 * client.settings[h2.MAX_CONCURRENT_STREAMS] + 1)


def is_refused(client: WireClient) -> bool:
    """The last; the server may also give up the connection."""
    another = 2 * client.settings[h2.MAX_CONCURRENT_STREAMS] + 1
    return any(StreamFault(another, code).matches(client) for code in (h2.REFUSED_STREAM, h2.PROTOCOL_ERROR))


def cancel_one(_: WireClient) -> bytes:
    return h2.rst_stream(1)


def is_served(client: WireClient) -> bool:
    another = 2 * client.settings[h2.MAX_CONCURRENT_STREAMS] + 1
    client.send(h2.window_update(another, 5))
    return client.response(another).body == b"hello"


NUMBERS = [
    Case("5.1.1", "an even stream", [h2.get(2)], PROTOCOL),
    Case("5.1.1", "a lower stream than before", [h2.get(5), ended(5), h2.get(3)], PROTOCOL),
    Case("5.1.1", "streams with gaps", [h2.get(1), h2.get(7), h2.get(1001)], Response(1001)),
    Case("5.1.1", "the highest stream", [h2.get(2**31 - 1)], Response(2**31 - 1)),
    Case("5.1.1", "the same stream twice, still open", [h2.post(1), h2.headers(1, h2.GET, h2.END_HEADERS)],
         StreamFault(1, h2.PROTOCOL_ERROR, h2.STREAM_CLOSED)),
    Case("5.1.2", "as many streams as allowed", [open_all], ACCEPTED, settings=NO_WINDOW),
    Case("5.1.2", "a stream too many", [open_all, open_another], Holds("refuses it", is_refused), settings=NO_WINDOW),
    Case("5.1.2", "a stream instead of one that was cancelled", [open_all, cancel_one, open_another],
         Holds("serves it", is_served), settings=NO_WINDOW),
    # RFC 7540, and with it h2spec, wanted an error; since RFC 9113 priorities need not even be looked at.
    Case("5.3.2", "HEADERS that depend on themselves",
         [h2.headers(1, h2.priority_fields(1) + h2.GET, h2.COMPLETE | h2.WITH_PRIORITY)],
         StreamFault(1, h2.PROTOCOL_ERROR), ACCEPTED),
    Case("5.3.2", "PRIORITY that depends on itself", [h2.priority(1, 1)], StreamFault(1, h2.PROTOCOL_ERROR), ACCEPTED),
]  # fmt: skip

MALFORMED_TRAILERS = h2.headers(1, h2.fields(("X", "y")))

ERRORS = [
    # What ends a connection ends it for all its streams; what ends a stream leaves the others alone.
    Case("5.4.1", "PING on a stream, while a request waits", [h2.post(1), h2.frame(h2.PING, 0, 3, bytes(8))], PROTOCOL),
    Case("5.4.2", "an error on one of two streams",
         [h2.post(1), h2.post(3), MALFORMED_TRAILERS, h2.data(3, b"b")], Response(3, body=b"b")),
    Case("5.4.2", "an error on a stream, then a new stream",
         [h2.post(1), MALFORMED_TRAILERS, h2.get(3)], Response(3, body=b"hello")),
    Case("7", "GOAWAY with an unknown code", [h2.goaway(0xFF, 0, b"because")],
         Holds("no error", lambda client: not client.goaway)),
    Case("7", "RST_STREAM with an unknown code", [h2.post(1), h2.rst_stream(1, 0xFF), h2.get(3)], Response(3)),
    Case("6.8", "GOAWAY, and the request before it is still answered",
         [h2.post(1), h2.goaway(), h2.data(1, b"still")],
         Holds("echo", lambda client: client.response(1).body == b"still")),
]  # fmt: skip


@parametrize(IDLE + HALF_CLOSED + CLOSED_STREAMS + EARLY_RESPONSES + NUMBERS + ERRORS)
def test_server_keeps_streams_as_specified(connect: Connect, case: Case) -> None:
    play(case, connect)


def test_server_answers_many_streams_of_one_connection(connect: Connect) -> None:
    with connect() as client:
        client.handshake()
        streams = range(1, 200, 2)
        client.send(b"".join(h2.post(stream) for stream in streams))
        client.send(b"".join(h2.data(stream, b"%d" % stream) for stream in reversed(streams)))
        assert [client.response(stream).body for stream in streams] == [b"%d" % stream for stream in streams]
