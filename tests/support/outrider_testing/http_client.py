"""A small blocking HTTP/1.1 client that shows what is on the wire and forgives nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

# (host, port), or the path of a unix socket; a leading NUL means the abstract namespace.
Address = tuple[str, int] | str
Fields = Iterable[tuple[str, str]]

BODILESS = frozenset((204, 304))


class TruncatedResponse(ConnectionError):
    """The peer closed before the response was complete. `received` holds what did arrive."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"closed after {len(received)} bytes: {received[:200]!r}")
        self.received = received


@dataclass(frozen=True)
class Response:
    """One parsed response. Field names are lower case."""

    version: str
    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes = b""

    def field(self, name: str) -> str:
        """Return the first value of a field; empty if there is none."""
        return next((value for field, value in self.fields if field == name.lower()), "")

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the body parsed as JSON."""
        return json.loads(self.body)


def connect(address: Address, timeout: float = 10.0) -> socket.socket:
    """Connect to an address; `timeout` in seconds then holds for every operation."""
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def can_connect(address: Address) -> bool:
    """Tell whether somebody listens there."""
    try:
        connect(address, 1.0).close()
    except OSError:
        return False
    return True


def encode_request(method: str, target: str, fields: Fields = (), body: bytes | None = None) -> bytes:
    """Return a request's bytes, with Host and, for a body, Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def parse_head(head: bytes) -> Response:
    """Parse a status line and fields (RFC 9112 sections 4 and 5), without the empty line."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, status, reason = status_line.split(" ", 2)
    fields = [line.partition(":") for line in lines]
    return Response(version, int(status), reason, [(name.lower(), value.strip(" \t")) for name, _, value in fields])


class HTTPConnection:
    """One client connection. Use as a context manager."""

    def __init__(self, address: Address, *, timeout: float = 10.0, tls: ssl.SSLContext | None = None) -> None:
        self._sock = connect(address, timeout)
        if tls is not None:
            self._sock = tls.wrap_socket(self._sock, server_hostname="localhost")
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def set_timeout(self, seconds: float) -> None:
        """Change how long each operation may wait."""
        self._sock.settimeout(seconds)

    def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`."""
        self._sock.sendall(data)

    def request(self, method: str, target: str, *, fields: Fields = (), body: bytes | None = None) -> Response:
        """Send one request and return its response."""
        self.send(encode_request(method, target, fields, body))
        return self.read_response(head_only=method == "HEAD")

    def read_response(self, *, head_only: bool = False) -> Response:
        """Read one final response with its body; 1xx responses before it are dropped."""
        head = self.read_head()
        body = b"" if head_only or head.status in BODILESS else b"".join(self.iter_body(head))
        return Response(head.version, head.status, head.reason, head.fields, body)

    def read_head(self) -> Response:
        """Read the head of one final response and leave its body unread."""
        while True:
            head = parse_head(self._read_until(b"\r\n\r\n"))
            if head.status >= 200:
                return head

    def iter_body(self, head: Response) -> Iterator[bytes]:
        """Yield the body of the response whose head was just read, as it arrives (RFC 9112 section 6.3)."""
        if head.field("transfer-encoding").lower() == "chunked":
            while size := int(self._read_until(b"\r\n"), 16):
                yield self._read_exactly(size)
                self._expect_line_end()
            while self._read_until(b"\r\n"):
                pass
        elif length := head.field("content-length"):
            yield self._read_exactly(int(length))
        else:
            yield self.read_to_end()

    def read_to_end(self) -> bytes:
        """Read until the peer closes. A reset counts as an end; a silent peer raises TimeoutError."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while self._receive():
                pass
        data, self._buffer = self._buffer, b""
        return data

    def is_closed_by_peer(self, wait: float = 0.0) -> bool:
        """Tell whether the peer has closed, waiting at most `wait` seconds for bytes or the end."""
        self._sock.settimeout(max(wait, 0.001))
        try:
            return not self._receive()
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def has_received(self, wait: float) -> bool:
        """Tell whether anything arrives, an end included, within `wait` seconds."""
        self._sock.settimeout(wait)
        try:
            self._receive()
        except TimeoutError:
            return False
        return True

    def _receive(self) -> bytes:
        data = self._sock.recv(1 << 16)
        self._buffer += data
        return data

    def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if not self._receive():
                raise TruncatedResponse(self._buffer)
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._receive():
                raise TruncatedResponse(self._buffer)
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _expect_line_end(self) -> None:
        end = self._read_exactly(2)
        if end != b"\r\n":
            message = f"a chunk ends with {end!r}, not with CR LF"
            raise ValueError(message)


def fetch(
    address: Address,
    target: str,
    *,
    body: bytes | None = None,
    fields: Fields = (),
    timeout: float = 10.0,
    tls: ssl.SSLContext | None = None,
) -> Response:
    """Send one request (POST when it has a body) on a connection of its own and return the response."""
    with HTTPConnection(address, timeout=timeout, tls=tls) as connection:
        method = "GET" if body is None else "POST"
        return connection.request(method, target, fields=[*fields, ("Connection", "close")], body=body)
