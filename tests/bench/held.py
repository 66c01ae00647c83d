"""Hold many idle keep-alive connections."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
from collections.abc import Iterator

from address import Address, request_bytes
from loads import Load

_PER_SOURCE = 20_000  # loopback source addresses have some 28 000 ports each
_SPARE_DESCRIPTORS = 512
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
    connections: list[socket.socket] = []
    request = request_bytes(load)
    try:
        for index in range(count):
            connection = address.connect(source=f"127.0.0.{1 + index // _PER_SOURCE}")
            connections.append(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            connection.sendall(request)
            _read_response(connection, load.expected)
        yield connections
    finally:
        for connection in connections:
            connection.close()


def still_open(connections: list[socket.socket]) -> int:
    """Return how many connections the server has not closed."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return len(connections) - len(poll.poll(0))


def _read_response(connection: socket.socket, expected: bytes) -> None:
    response = b""
    while not response.endswith(expected):
        received = connection.recv(65536)
        if not received:
            raise ConnectionError("the server closed a connection instead of answering")
        response += received
