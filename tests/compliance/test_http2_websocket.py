"""WebSocket over HTTP/2, RFC 8441: the extended CONNECT, and frames in DATA."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from outrider_testing import http2_frames as h2
from outrider_testing import websocket_bytes as ws
from outrider_testing.http2_cases import Case, Holds, Refused, Response, StreamFault, answered, parametrize, play
from outrider_testing.http2_wire import Connect, WireClient

PSEUDO = [(":method", "CONNECT"), (":protocol", "websocket"), *h2.pseudo()[1:]]
VERSION = ("sec-websocket-version", "13")
OPEN = h2.fields(*PSEUDO, VERSION)
TEXT = ws.frame(ws.TEXT, b"hello")
ECHO = ws.frame(ws.TEXT, b"hello", mask=None)
CLOSE = ws.close(1000, b"bye")


def opened(stream: int = 1, *more: h2.Field) -> bytes:
    return h2.headers(stream, h2.fields(*PSEUDO, VERSION, *more), h2.END_HEADERS)


def sent(octets: bytes, stream: int = 1) -> bytes:
    return h2.data(stream, octets, 0)


def answers(octets: bytes, *, stream: int = 1) -> Holds:
    """The server accepts, and sends exactly this."""

    def holds(client: WireClient) -> bool:
        client.read_until(lambda: is_there(client), "the answer")
        client.synchronise()
        return bytes(client.responses[stream].body) == octets and not client.ended(stream)

    def is_there(client: WireClient) -> bool:
        response = client.responses.get(stream)
        return response is not None and response.status == 200 and len(response.body) >= len(octets)

    return Holds(f"{octets!r}", holds)


def begins_close(code: int) -> Holds:
    """The server sends Close with this code and nothing else, and ends the stream."""

    def holds(client: WireClient) -> bool:
        client.read_until(lambda: client.ended(1), "the end of the stream")
        body = bytes(client.responses[1].body)
        return body[:1] == bytes([ws.FINAL | ws.CLOSE]) and int.from_bytes(body[2:4], "big") == code

    return Holds(f"Close with {code}", holds)


def is_ended(client: WireClient) -> bool:
    client.read_until(lambda: client.ended(1), "the end of the stream")
    return not client.closed


ENDS = Holds("the end of the stream", is_ended)

CASES = [
    Case("3", "extended CONNECT", [opened()], answers(b"")),
    Case("5.1", "a message", [opened(), sent(TEXT)], answers(ECHO)),
    Case("5.1", "a message with the handshake, before it is accepted", [opened() + sent(TEXT)], answers(ECHO)),
    Case("5.1", "a message an octet at a time",
         [opened(), *(sent(TEXT[at:at + 1]) for at in range(len(TEXT)))], answers(ECHO)),
    Case("5.1", "messages in one DATA", [opened(), sent(TEXT * 3)], answers(ECHO * 3)),
    Case("5.1", "an empty DATA", [opened(), sent(b""), sent(TEXT)], answers(ECHO)),
    Case("5.1", "padded DATA", [opened(), h2.data(1, h2.padded(TEXT, 20), h2.PADDED)], answers(ECHO)),
    Case("5.1", "a ping", [opened(), sent(ws.frame(ws.PING, b"?"))], answers(ws.frame(ws.PONG, b"?", mask=None))),
    Case("5.1", "Close", [opened(), answered(1), sent(CLOSE)], begins_close(1000)),
    Case("5.1", "Close with the end of the stream", [opened(), answered(1), h2.data(1, CLOSE)], begins_close(1000)),
    Case("5.1", "Close with the end of the stream, before it is accepted", [opened() + h2.data(1, CLOSE)], ENDS),
    Case("5.1", "the end of the stream without Close", [opened(), answered(1), h2.data(1)], ENDS),
    Case("5.1", "the end of the stream before it is accepted", [opened() + h2.data(1)], ENDS),
    Case("5.1", "RST_STREAM before it is accepted", [opened() + h2.rst_stream(1), h2.get(3)], Response(3)),
    Case("5.1", "RST_STREAM, and then a request", [opened(), sent(TEXT), h2.rst_stream(1), h2.get(3)], Response(3)),
    Case("5.1", "a frame without a mask", [opened(), sent(ws.frame(ws.TEXT, b"a", mask=None))], begins_close(1002)),
    Case("5.1", "text that is not UTF-8", [opened(), sent(ws.frame(ws.TEXT, b"\xff"))], begins_close(1007)),
    Case("5", "two WebSockets and a request", [opened(1), opened(3), sent(TEXT, 3), h2.get(5)],
         answers(ECHO, stream=3)),
    Case("5", "fields that HTTP/1.1 needs", [opened(1, ("origin", "http://test"), ("sec-websocket-key", ws.KEY)),
         sent(TEXT)], answers(ECHO)),
    Case("5", "another version", [h2.headers(1, h2.fields(*PSEUDO, ("sec-websocket-version", "12")), h2.END_HEADERS)],
         Refused(1)),
    Case("5", "no version", [h2.headers(1, h2.fields(*PSEUDO), h2.END_HEADERS)], Refused(1)),
    Case("4", "an unknown protocol",
         [h2.headers(1, h2.fields(PSEUDO[0], (":protocol", "telepathy"), *PSEUDO[2:]), h2.END_HEADERS)], Refused(1)),
    Case("4", "trailers", [opened(), answered(1), h2.headers(1, h2.fields(("x", "y")))], ENDS),
    Case("4", "two :protocol", [h2.headers(1, h2.fields(*PSEUDO, PSEUDO[1], VERSION), h2.END_HEADERS)],
         StreamFault(1, h2.PROTOCOL_ERROR)),
]  # fmt: skip


@parametrize(CASES)
def test_server_speaks_websocket_as_specified(connect: Connect, case: Case) -> None:
    play(case, connect)


def test_server_announces_extended_connect(connect: Connect) -> None:
    with connect() as client:
        client.handshake()
        assert client.settings[h2.ENABLE_CONNECT_PROTOCOL] == 1


def test_server_answers_without_fields_of_http1(connect: Connect) -> None:
    with connect() as client:
        client.handshake()
        client.send(opened() + sent(TEXT))
        client.read_until(lambda: 1 in client.responses, "the answer")
        names = {name for name, _ in client.responses[1].fields}
        assert names.isdisjoint({"connection", "upgrade", "sec-websocket-accept", "content-length"})


@pytest.mark.parametrize("limit, size", [(h2.DEFAULT_WINDOW, 40_000), (10, 1_000)])
def test_server_keeps_to_windows_with_messages(connect: Connect, limit: int, size: int) -> None:
    frames = ws.frame(ws.BINARY, b"z" * size) * 2
    echoed = ws.frame(ws.BINARY, b"z" * size, mask=None) * 2
    with connect() as client:
        client.handshake(h2.settings((h2.INITIAL_WINDOW_SIZE, limit)))
        client.send(opened())
        for start in range(0, len(frames), 16_000):
            client.send(sent(frames[start : start + 16_000]))
            client.synchronise()
        client.read_until(received(client, limit), "a window full")
        client.synchronise()
        assert len(client.responses[1].body) == limit
        client.send(h2.window_update(1, 100_000) + h2.window_update(0, 100_000))
        client.read_until(received(client, len(echoed)), "both echoes")
        assert client.responses[1].body == echoed


def received(client: WireClient, size: int) -> Callable[[], bool]:
    return lambda: 1 in client.responses and len(client.responses[1].body) >= size
