"""The handshake of a WebSocket over HTTP/1.1, among other requests."""

from __future__ import annotations

import pytest

from outrider.forwarded import TrustedPeers
from outrider.http1_pipeline import LINGER
from outrider.http_stream import HIGH_WATER
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import Client, ManualLoop, constant, make_context, make_runtime
from outrider_testing.fakes.application import DrivenApp
from outrider_testing.fakes.runtime import CLIENT
from outrider_testing.fakes.websocket import ACCEPT

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_handshake_is_answered(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake("Origin: null", "Sec-WebSocket-Protocol: a", target="/x?q=1"))
    scope = client.call.scope
    assert (scope["type"], scope["scheme"], scope["path"], scope["query_string"]) == ("websocket", "ws", "/x", b"q=1")
    assert (b"origin", b"null") in scope["headers"]
    assert "method" not in scope
    client.call.receive()
    client.call.send({**ACCEPT, "subprotocol": "a", "headers": [(b"X-A", b"1"), (b"connection", b"close")]})
    assert client.sent == (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-A: 1\r\nsec-websocket-protocol: a\r\n\r\n"
    )


def test_forwarded_headers_count_as_for_http(loop: ManualLoop) -> None:
    app = DrivenApp(loop)
    runtime = make_runtime(loop, app, trusted_proxies=TrustedPeers.parse([CLIENT[0]]))
    client = Client(loop, make_context(runtime, trusted_proxy=True))
    client.feed(ws.handshake("X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.99"))
    assert client.call.scope["scheme"] == "wss"
    assert client.call.scope["client"] == ("192.0.2.99", 0)


def test_requests_before_the_handshake_are_answered_first(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET + ws.handshake() + ws.frame(ws.TEXT, b"early"))
    (first,) = client.calls
    client.sweep(100)  # no deadline of a handshake runs meanwhile
    first.respond(b"ok")
    second = client.calls[1]
    assert [answer.status for answer in client.answers()] == [200]
    second.receive()
    second.send(ACCEPT)
    assert second.receive()["text"] == "early"


def test_early_bytes_have_a_bound(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake())
    client.feed(ws.frame(ws.BINARY, bytes(HIGH_WATER + 1)))
    client.feed(ws.frame(ws.TEXT, b"more"))
    assert client.transport.waiting > 0
    client.call.receive()
    client.call.send(ACCEPT)
    assert len(client.call.receive()["bytes"]) == HIGH_WATER + 1
    assert client.call.receive()["text"] == "more"


@pytest.mark.parametrize("size", [1, 1 << 17])
def test_early_bytes_in_the_same_read_are_kept(loop: ManualLoop, size: int) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake() + ws.frame(ws.BINARY, bytes(size)))
    client.call.receive()
    client.call.send(ACCEPT)
    assert len(client.call.receive()["bytes"]) == size


def test_another_version_is_told_which_one_is_served(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake().replace(b"Version: 13", b"Version: 8"))
    answer = client.answer()
    assert (answer.status, answer["sec-websocket-version"], answer["upgrade"]) == (426, "13", "websocket")
    assert answer["connection"] == "close, upgrade"
    assert client.calls == []


@pytest.mark.parametrize(
    "old,new",
    [(b"GET", b"POST"), (ws.KEY.encode(), b"short"), (b"Host: test", b"Host: test\r\nContent-Length: 3")],
)
def test_bad_handshake_is_400(loop: ManualLoop, old: bytes, new: bytes) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake().replace(old, new, 1))
    assert client.statuses == [400]
    assert client.is_closed()


@pytest.mark.parametrize(
    "request_bytes",
    [
        ws.handshake().replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        ws.handshake().replace(b"Connection: Upgrade\r\n", b""),
    ],
)
def test_what_is_no_handshake_is_plain_http(loop: ManualLoop, request_bytes: bytes) -> None:
    client = Client.of(loop, constant())
    client.feed(request_bytes)
    assert client.statuses == [200]


def test_websocket_can_be_switched_off(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), websocket=None)
    client.feed(ws.handshake() + GET)
    assert client.statuses == [200, 200]


def test_concurrency_has_its_limit(loop: ManualLoop) -> None:
    app = DrivenApp(loop)
    context = make_context(make_runtime(loop, app, limit_concurrency=1))
    Client(loop, context).feed(ws.handshake())
    other = Client(loop, context)
    other.feed(ws.handshake())
    assert other.statuses == [503]


def test_denial_closes_the_connection(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake())
    client.call.send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
    client.call.send({"type": "websocket.http.response.body", "body": b"no"})
    client.feed(ws.frame(ws.TEXT, b"ignored"))
    assert (client.answer().status, client.answer().body) == (401, b"no")
    assert client.answer().closes
    client.sweep(LINGER + 1)
    assert client.transport.is_closing()
    loop.run_ready()
    assert not client.runtime.connections


def test_application_that_does_not_accept_in_time_is_cancelled(loop: ManualLoop) -> None:
    client = Client.of(loop, websocket_handshake_timeout=5, header_timeout=1)
    client.feed(ws.handshake())
    client.sweep(4)
    assert client.sent == b""
    client.sweep(2)
    assert client.statuses == [503]
    assert client.call.cancelled


@pytest.mark.parametrize("how", ["lose", "feed_eof"])
def test_client_that_leaves_during_the_handshake_is_noticed(loop: ManualLoop, how: str) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake())
    client.call.receive()
    getattr(client, how)()
    assert client.call.receive()["code"] == 1006


def test_handshake_behind_a_request_is_dropped_with_its_client(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET + ws.handshake())
    client.feed_eof()
    client.call.respond(b"ok")
    assert client.statuses == [200]
    assert len(client.calls) == 1
