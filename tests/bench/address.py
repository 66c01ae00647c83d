"""Where a server listens, and one plain request over HTTP/1.1 to it."""

from __future__ import annotations

import http.client
import socket
import ssl
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
    uses_tls: bool = False

    @classmethod
    def unused(cls, uds: Path | None = None, *, uses_tls: bool = False) -> Address:
        """Return an address no one listens on at the moment."""
        if uds is not None:
            return cls(0, uds)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return cls(probe.getsockname()[1], uses_tls=uses_tls)

    @property
    def url(self) -> str:
        """The address as load generators take it, without a path."""
        return f"{'https' if self.uses_tls else 'http'}://{self.host}:{self.port}"

    def connect(self, source: str = "127.0.0.1", timeout: float = _TIMEOUT) -> socket.socket:
        """Open a connection from the loopback address ``source``; ``timeout`` is in seconds.

        Raises:
            OSError: the server does not accept.

        """
        if self.uses_tls:
            plain = socket.create_connection((self.host, self.port), timeout, (source, 0))
            return _unverified().wrap_socket(plain)
        if self.uds is None:
            return socket.create_connection((self.host, self.port), timeout, (source, 0))
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(str(self.uds))
        return connection


def _unverified() -> ssl.SSLContext:
    """Return a context that takes any certificate, as the load generators do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Client(http.client.HTTPConnection):
    """A keep-alive HTTP client that reaches either kind of address."""

    def __init__(self, address: Address, load: Load) -> None:
        """Remember the address; the connection is opened with the first request."""
        super().__init__(address.host, address.port or None)
        self._address = address
        self._load = load

    def connect(self) -> None:
        """Open the connection."""
        self.sock = self._address.connect()

    def check(self) -> str:
        """Make one request of the load and return what is wrong with its answer, or the empty string.

        Raises:
            OSError, http.client.HTTPException: no answer.

        """
        load = self._load
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
