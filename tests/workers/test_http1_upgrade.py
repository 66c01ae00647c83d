"""Upgrade is ignored, although llhttp stops parsing at it; but for a WebSocket, whose early bytes wait."""

from __future__ import annotations

import pytest

from outrider.http1_response import WRITE_HIGH_WATER
from outrider.http_stream import HIGH_WATER
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import Client, ManualLoop, constant, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def test_upgrade_is_ignored(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    client.feed(UPGRADE + GET)
    assert client.statuses == [200, 200]
    assert "upgrade: h2c" in client.answers()[0].json()["headers"]
    assert not client.is_closed()


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
)
@pytest.mark.parametrize("split", [0, 5])
def test_body_of_an_ignored_upgrade_is_read(loop: ManualLoop, framing: bytes, split: int) -> None:
    client = Client.of(loop, echo)
    data = UPGRADE.removesuffix(b"\r\n") + framing
    client.feed(data[: len(data) - split])
    client.feed(data[len(data) - split :])
    assert client.answer().json()["body"] == "hello"
    assert client.answer().closes
    assert client.is_closed()


def test_many_pipelined_upgrades_are_answered(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(UPGRADE * 2000 + GET)
    assert client.statuses == [200] * 2001


def test_malformed_body_of_an_ignored_upgrade_is_refused(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    client.feed(UPGRADE.removesuffix(b"\r\n") + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
    assert client.statuses == [400]
    assert client.is_closed()


@pytest.mark.parametrize("padding", [b"", b"X: " + b"y" * 8000 + b"\r\n" + b"Y: " + b"z" * 8000 + b"\r\n"])
@pytest.mark.parametrize("bad, status", [(b"GET / HTTP/1.1\r\n\r\n", 400), (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505)])
def test_refusal_of_a_request_behind_an_upgrade_is_its_own(
    loop: ManualLoop, padding: bytes, bad: bytes, status: int
) -> None:
    client = Client.of(loop, constant())
    client.feed(UPGRADE.removesuffix(b"\r\n") + padding + b"\r\n" + bad)
    assert client.statuses == [200, status]


def test_client_that_sends_before_its_handshake_is_answered_is_read_up_to_a_bound(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake())
    for _ in range(2):
        client.feed(bytes(HIGH_WATER // 2))
        assert client.transport.is_reading()
    client.feed(b"x")
    assert not client.transport.is_reading()


def test_bound_of_early_bytes_counts_what_came_with_the_handshake(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake() + bytes(HIGH_WATER + 1))
    assert not client.transport.is_reading()


def test_handshake_behind_a_response_that_is_not_read_has_no_deadline(loop: ManualLoop) -> None:
    client = Client.of(loop, header_timeout=5, write_timeout=0, websocket_handshake_timeout=5)
    client.transport.congested = True
    client.feed(GET)
    client.call.respond(bytes(WRITE_HIGH_WATER + 1))
    request = ws.handshake()
    client.feed(request[:20])
    client.feed(request[20:])
    client.sweep(100)
    client.take(2 * WRITE_HIGH_WATER)
    websocket = client.calls[1]
    websocket.receive()
    websocket.send({"type": "websocket.accept"})
    assert client.statuses == [200, 101]
    assert client.log.entries == []


def test_client_that_is_denied_can_read_why_although_it_has_sent_too_much(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake() + bytes(HIGH_WATER + 1))
    client.feed(bytes(HIGH_WATER))
    assert client.transport.waiting == HIGH_WATER
    client.call.send({"type": "websocket.close"})
    assert client.statuses == [403]
    loop.run_ready()
    assert client.transport.waiting == 0, "what is left unread would become a reset, which takes the answer away"
