"""Where a server listens, and one plain request to it."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass
from pathlib import Path

from loads import Load

_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP port on the loopback interface, or a Unix socket when ``uds`` is set."""

    port: int
    uds: Path | None = None
    host: str = "127.0.0.1"

    @classmethod
    def unused(cls, uds: Path | None = None) -> Address:
        """Return an address no one listens on at the moment."""
        if uds is not None:
            return cls(0, uds)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return cls(probe.getsockname()[1])

    def connect(self, source: str = "127.0.0.1", timeout: float = _TIMEOUT) -> socket.socket:
        """Open a connection from the loopback address ``source``; ``timeout`` is in seconds.

        Raises:
            OSError: the server does not accept.

        """
        if self.uds is None:
            return socket.create_connection((self.host, self.port), timeout, (source, 0))
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(str(self.uds))
        return connection


class Client(http.client.HTTPConnection):
    """A keep-alive HTTP client that reaches either kind of address."""

    def __init__(self, address: Address) -> None:
        """Remember the address; the connection is opened with the first request."""
        super().__init__(address.host, address.port or None)
        self._address = address

    def connect(self) -> None:
        """Open the connection."""
        self.sock = self._address.connect()

    def check(self, load: Load) -> str:
        """Make one request and return what is wrong with its answer, or the empty string.

        Raises:
            OSError, http.client.HTTPException: no answer.

        """
        self.request(load.method, load.path, load.body or None)
        response = self.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            return f"wrong answer: status {response.status}, expected 200"
        if body != load.expected:
            return f"wrong answer: a body of {len(body)} bytes that is not the {len(load.expected)} expected"
        return ""


def request_bytes(load: Load) -> bytes:
    """Return the request of ``load`` as sent on a connection that stays open (RFC 9112)."""
    head = f"{load.method} {load.path} HTTP/1.1\r\nHost: localhost\r\n"
    if load.body:
        head += f"Content-Length: {len(load.body)}\r\n"
    return head.encode() + b"\r\n" + load.body
