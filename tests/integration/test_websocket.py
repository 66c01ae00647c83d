"""WebSockets of a real worker: handshake to drain, over real sockets and a real clock."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing import websocket_bytes as ws
from outrider_testing.certificates import Authority
from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.serving import Serve

PATIENCE = 15.0
ECHO = """\
from outrider_testing.apps.probe import lifespan, record

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    record("left", message["code"])
"""


class Client:
    """A WebSocket of a client that reads frames one by one."""

    def __init__(self, server: GunicornProcess) -> None:
        self._sock = socket.create_connection(server.tcp_address, PATIENCE)
        if server.tls is not None:
            self._sock = server.tls.wrap_socket(self._sock, server_hostname="localhost")
        self._received = b""
        self.send(ws.handshake(target="/ws"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(1)
        assert head.startswith(b"HTTP/1.1 101 ")

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._sock.sendall(data)

    def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame, which is short and whole."""
        first, size = self._read(2)
        assert first & ws.FINAL
        assert size <= 125
        return first & 0x0F, self._read(size)

    def is_at_end(self) -> bool:
        """Whether the server has closed the connection."""
        return not self._received and not self._sock.recv(1)

    def close(self) -> None:
        """Leave without a word."""
        self._sock.close()

    def _read(self, size: int) -> bytes:
        while len(self._received) < size:
            data = self._sock.recv(65536)
            assert data, "the connection ended"
            self._received += data
        data, self._received = self._received[:size], self._received[size:]
        return data


@pytest.fixture
def clients() -> Iterator[contextlib.ExitStack]:
    """Clients that are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield stack


def connect(server: GunicornProcess, clients: contextlib.ExitStack) -> Client:
    return clients.enter_context(contextlib.closing(Client(server)))


def test_messages_are_echoed_until_the_client_closes(serve: Serve, clients: contextlib.ExitStack) -> None:
    server = serve("echoing:app", "--access-logfile", "-", files={"echoing.py": ECHO})
    client = connect(server, clients)
    client.send(ws.frame(ws.TEXT, b"a") + ws.frame(ws.BINARY, b"\xff") + ws.frame(ws.PING, b"p"))
    frames = {client.frame() for _ in range(3)}
    assert frames == {(ws.TEXT, b"a"), (ws.BINARY, b"\xff"), (ws.PONG, b"p")}
    client.send(ws.close(3001, b"bye"))
    assert client.frame() == (ws.CLOSE, (3001).to_bytes(2))
    assert client.is_at_end()
    server.until_event("left 3001")
    server.until_log(r'"GET /ws HTTP/1\.1" 101 ')


def test_drain_tells_clients_to_reconnect(serve: Serve, clients: contextlib.ExitStack) -> None:
    server = serve("echoing:app", files={"echoing.py": ECHO})
    all_clients = [connect(server, clients) for _ in range(10)]
    server.signal(signal.SIGTERM)
    for client in all_clients:
        assert client.frame() == (ws.CLOSE, (1012).to_bytes(2))
        client.send(ws.close(1012))
        assert client.is_at_end()
    assert server.wait() == 0
    assert server.events().count("left 1012") == 10


def test_client_that_does_not_answer_a_ping_is_given_up(serve: Serve, clients: contextlib.ExitStack) -> None:
    settings = {"OUTRIDER_WEBSOCKET_PING_INTERVAL": "0.2", "OUTRIDER_WEBSOCKET_PING_TIMEOUT": "0.2"}
    server = serve("echoing:app", files={"echoing.py": ECHO}, env=settings)
    client = connect(server, clients)
    assert client.frame() == (ws.PING, b"")
    client.send(ws.frame(ws.PONG))
    while (frame := client.frame())[0] == ws.PING:
        pass
    assert frame[1][:2] == (1011).to_bytes(2)
    server.until_event("left 1006")


def test_client_that_breaks_the_protocol_can_read_why(serve: Serve, clients: contextlib.ExitStack) -> None:
    server = serve("echoing:app", "--websocket-max-message-size", "1000", files={"echoing.py": ECHO})
    client = connect(server, clients)
    client.send(ws.frame(ws.BINARY, bytes(100_000)))
    opcode, payload = client.frame()
    assert (opcode, payload[:2]) == (ws.CLOSE, (1009).to_bytes(2))
    assert client.is_at_end()
    server.until_event("left 1009")


def test_it_is_the_same_over_tls(serve: Serve, clients: contextlib.ExitStack, tmp_path: Path) -> None:
    authority = Authority()
    certfile, keyfile = authority.write_pair(tmp_path, "server", "localhost")
    options = ("--certfile", certfile, "--keyfile", keyfile, "--websocket-max-message-size", "1000")
    server = serve("echoing:app", *options, workers=0, files={"echoing.py": ECHO})
    server.tls = authority.client_context()
    server.wait_until_ready()
    client = connect(server, clients)
    client.send(ws.frame(ws.TEXT, b"a"))
    assert client.frame() == (ws.TEXT, b"a")
    client.send(ws.frame(ws.BINARY, bytes(100_000)))
    opcode, payload = client.frame()
    assert (opcode, payload[:2]) == (ws.CLOSE, (1009).to_bytes(2))
    assert client.is_at_end()
    server.until_event("left 1009")


def test_client_that_vanishes_is_noticed(serve: Serve, clients: contextlib.ExitStack) -> None:
    server = serve("echoing:app", files={"echoing.py": ECHO})
    connect(server, clients).close()
    server.until_event("left 1006")
