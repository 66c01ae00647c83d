"""Clients that leave over TLS while the application has not received all that they sent."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from outrider_testing import websocket_bytes as ws
from outrider_testing.certificates import Authority
from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.serving import Serve

PATIENCE = 15.0
PIECES = 20
FRAMES = ws.frame(ws.TEXT, bytes(64)) * 50
BODY = bytes(5000)
APP = """\
from outrider_testing.apps.probe import lifespan, record, respond, wait_at_gate

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["path"] != "/slow":
        return await respond(send, b"ready")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
    await wait_at_gate("client")
    size = 0
    while (message := await receive())["type"] in ("websocket.receive", "http.request"):
        size += len(message.get("text") or message.get("body") or "")
    record(message["type"], size)
"""


@pytest.fixture(params=["on", "off"])
def server(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> GunicornProcess:
    """A server with TLS: the faster one, or uvloop's own."""
    authority = Authority()
    certfile, keyfile = authority.write_pair(tmp_path, "server", "localhost")
    options = ("--certfile", certfile, "--keyfile", keyfile)
    server = serve(
        "slow:app", *options, workers=0, files={"slow.py": APP}, env={"OUTRIDER_FAST_TLS": str(request.param)}
    )
    server.tls = authority.client_context()
    return server.wait_until_ready()


def connect(server: GunicornProcess, request: bytes) -> ssl.SSLSocket:
    """Send the head of a request, and wait until the application has it."""
    assert server.tls is not None
    sock = socket.create_connection(server.tcp_address, PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tls = server.tls.wrap_socket(sock, server_hostname="localhost")
    tls.sendall(request)
    server.until((server.directory / "client.held").exists)
    return tls


def leave(sock: ssl.SSLSocket, *, with_alert: bool) -> None:
    """Take what has come, for the end not to be a reset, and close."""
    sock.setblocking(False)
    with suppress(ssl.SSLWantReadError):
        while sock.recv(65536):
            pass
    if with_alert:
        with suppress(ssl.SSLWantReadError):
            sock.unwrap()
    sock.close()


@pytest.mark.parametrize("with_alert", [True, False])
def test_application_receives_the_messages_of_a_client_that_has_left(
    server: GunicornProcess, *, with_alert: bool
) -> None:
    sock = connect(server, ws.handshake(target="/slow"))
    for _ in range(PIECES):
        sock.sendall(FRAMES)
    leave(sock, with_alert=with_alert)
    server.release("client")
    assert server.until_event("websocket.disconnect") == f"websocket.disconnect {PIECES * 50 * 64}"


@pytest.mark.parametrize("with_alert", [True, False])
def test_application_receives_the_body_of_a_client_that_has_left(server: GunicornProcess, *, with_alert: bool) -> None:
    size = PIECES * len(BODY)
    sock = connect(server, b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    for _ in range(PIECES):
        sock.sendall(BODY)
    leave(sock, with_alert=with_alert)
    server.release("client")
    assert server.until_event("http.disconnect") == f"http.disconnect {size}"
