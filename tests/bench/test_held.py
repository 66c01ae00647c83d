from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Iterator

import pytest

import held
from address import Address, Client
from loads import LOADS

WEBSOCKET_OPENED = b"HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, World!"


class TinyServer:
    """Answers one request on each of a number of connections, then closes the first ``closing`` of them."""

    def __init__(self, connections: int, closing: int) -> None:
        self._connections = connections
        self._closing = closing
        self.accepted: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        for _ in range(self._connections):
            connection, _peer = self.listener.accept()
            self.accepted.append(connection)
            connection.recv(65536)
            connection.sendall(RESPONSE)
        for connection in self.accepted[: self._closing]:
            connection.close()
        self.closed.set()

    def stop(self) -> None:
        self.thread.join()
        for connection in [*self.accepted, self.listener]:
            connection.close()


@pytest.fixture
def server() -> Iterator[TinyServer]:
    server = TinyServer(connections=3, closing=1)
    yield server
    server.stop()


def test_idle_connections_stay_open_and_those_closed_are_counted(server: TinyServer) -> None:
    address = Address(server.listener.getsockname()[1])
    with held.idle_connections(address, LOADS["plaintext"], 3) as connections:
        assert server.closed.wait(10)
        assert len(connections) == 3
        assert held.still_open(connections) == 2
    assert all(connection.fileno() == -1 for connection in connections)


def test_idle_connections_of_none_open_nothing() -> None:
    with held.idle_connections(Address(1), LOADS["plaintext"], 0) as connections:
        assert connections == []
        assert held.still_open(connections) == 0


def test_connection_that_was_pinged_counts_as_open() -> None:
    pairs = [socket.socketpair() for _ in range(4)]
    pairs[0][1].sendall(b"\x89\x00")
    pairs[1][1].sendall(b"\x88\x00")
    pairs[2][1].close()
    assert held.still_open([client for client, _ in pairs]) == 2
    for client, peer in pairs:
        client.close()
        peer.close()


class WebSocketServer(TinyServer):
    """Opens WebSockets; echoes one message on each, on the last one another."""

    def _serve(self) -> None:
        for number in range(self._connections):
            connection, _peer = self.listener.accept()
            self.accepted.append(connection)
            connection.recv(65536)
            connection.sendall(WEBSOCKET_OPENED)
            connection.recv(65536)
            is_last = number == self._connections - 1
            connection.sendall(b"\x81\x02no" if is_last else b"\x81\x40" + LOADS["websocket-idle"].body)


@pytest.fixture
def websocket_server() -> Iterator[TinyServer]:
    server = WebSocketServer(connections=3, closing=0)
    yield server
    server.stop()


def test_idle_websockets_have_had_their_echo(websocket_server: TinyServer) -> None:
    address, load = Address(websocket_server.listener.getsockname()[1]), LOADS["websocket-idle"]
    with held.idle_connections(address, load, 2) as connections:
        assert held.still_open(connections) == 2
    with pytest.raises(ConnectionError, match="wrong answer"), held.idle_connections(address, load, 1):
        pass


def test_client_tells_what_is_wrong_with_an_answer(server: TinyServer) -> None:
    address = Address(server.listener.getsockname()[1])
    answers = []
    for load in ("plaintext", "json", "plaintext"):
        client = Client(address, LOADS[load])
        answers.append(client.check())
        client.close()
    assert answers[0] == answers[2] == ""
    assert answers[1] == "wrong answer: a body of 13 bytes that is not the 27 expected"


def test_raise_descriptor_limit_tells_the_room_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (1024, 4096)}

    def setrlimit(_kind: int, wanted: tuple[int, int]) -> None:
        if wanted[1] > limits["now"][1]:
            raise ValueError("not allowed to raise maximum limit")
        limits["now"] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert held.raise_descriptor_limit(100) == 100
    assert limits["now"] == (1024, 4096)
    assert held.raise_descriptor_limit(1000) == 1000
    assert held.raise_descriptor_limit(10_000) == 4096 - 512
