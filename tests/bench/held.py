"""Hold many idle connections: kept alive, or WebSockets."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
from collections.abc import Iterator

from address import Address, request_bytes
from loads import Load
from websocket_wire import WebSocket

_PER_SOURCE = 20_000  # loopback source addresses have some 28 000 ports each
_SPARE_DESCRIPTORS = 512
_PING = b"\x89"  # how the frame of a ping begins (RFC 6455, section 5.2)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # leaves no TIME_WAIT behind for the next server


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the limit of open files, which servers inherit, to hold ``wanted`` connections.

    Returns how many it leaves room for: fewer where the hard limit is lower.
    """
    needed = wanted + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        with contextlib.suppress(ValueError, OSError):  # not privileged to raise the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_DESCRIPTORS)


@contextlib.contextmanager
def idle_connections(address: Address, load: Load, count: int) -> Iterator[list[socket.socket]]:
    """Open ``count`` connections, make one request on each, and close them in the end.

    Raises:
        OSError: the server refused one, closed it or did not answer.

    """
    if load.is_websocket:
        with websockets(address, load, count) as opened:
            yield [websocket.socket for websocket in opened]
        return
    connections: list[socket.socket] = []
    request = request_bytes(load)
    try:
        for index in range(count):
            connection = address.connect(_source(index))
            connections.append(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            connection.sendall(request)
            _read_response(connection, load.expected)
        yield connections
    finally:
        for connection in connections:
            connection.close()


@contextlib.contextmanager
def websockets(address: Address, load: Load, count: int) -> Iterator[list[WebSocket]]:
    """Open ``count`` WebSockets, have one message echoed on each, and close them in the end.

    Raises:
        OSError: the server refused one, closed it or did not answer as it should.

    """
    opened: list[WebSocket] = []
    try:
        for index in range(count):
            websocket = WebSocket(address, load, _source(index))
            opened.append(websocket)
            websocket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            fault = websocket.check()
            if fault:
                raise ConnectionError(fault)
        yield opened
    finally:
        for websocket in opened:
            websocket.close()


def still_open(connections: list[socket.socket]) -> int:
    """Return how many connections the server has not closed. What it sends unasked is its farewell, or a ping."""
    poll = select.poll()
    by_descriptor = {connection.fileno(): connection for connection in connections}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    return len(connections) - sum(not _was_pinged(by_descriptor[descriptor]) for descriptor, _ in poll.poll(0))


def _was_pinged(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) == _PING
    except ConnectionError:
        return False


def _source(index: int) -> str:
    return f"127.0.0.{1 + index // _PER_SOURCE}"


def _read_response(connection: socket.socket, expected: bytes) -> None:
    response = b""
    while not response.endswith(expected):
        received = connection.recv(65536)
        if not received:
            raise ConnectionError("the server closed a connection instead of answering")
        response += received
