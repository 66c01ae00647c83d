"""The write half of an HTTP/1.1 connection: stream events to bytes (RFC 9112 §6, §7, §9)."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from abc import abstractmethod
from contextlib import suppress
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from outrider.http1_encoding import STATUS_LINES, EncodedFields, InvalidResponse, encode_fields
from outrider.runtime import HEAD, HTTP10, PERSISTENT

if TYPE_CHECKING:
    from outrider.http_stream import HTTPStream
    from outrider.runtime import Address, ConnectionContext

FOREVER = math.inf
# A larger piece of body is handed to the transport as it is: joining it to its framing would copy it.
JOINED_BODY = 16384
WRITE_HIGH_WATER = 131072

_BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Framing(Enum):
    """How the end of the response body shows (RFC 9112 §6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing


class Reading(Enum):
    """What the next bytes from the client are. NOTHING: they are thrown away until the connection closes."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"


_IDLE = Reading.IDLE


class _NotConnected(asyncio.Transport):
    """Stands in for the transport until there is one, which takes a TLS handshake."""

    def abort(self) -> None:
        """Reset the connection: what is unsent is lost, in the kernel too, where a client that does not read keeps it."""
        if self._transport is None:  # a TLS handshake goes on; it has its own deadline
            return
        sock = cast("socket.socket", self._transport.get_extra_info("socket"))
        with suppress(OSError):  # it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    # -- inside

    @abstractmethod
    def _is_last(self, stream: HTTPStream) -> bool:
        """Whether no further request will be answered on this connection."""

    def _write(self, data: bytes) -> None:
        self._runtime.counters.bytes_out += len(data)
        self._transport.write(data)

    def _write_pieces(self, pieces: tuple[bytes, ...]) -> None:
        self._runtime.counters.bytes_out += sum(map(len, pieces))
        self._transport.writelines(pieces)

    def _close(self) -> None:
        """Close when everything is sent; a client that does not take it has until the write deadline."""
        self.deadline = self._deadline_in(self._config.write_timeout)
        self._transport.close()

    def _deadline_in(self, seconds: float) -> float:
        return self._runtime.now + seconds if seconds else FOREVER


def _chunk(body: bytes, more: bool) -> bytes:
    """Frame a piece of body (RFC 9112 §7.1). An empty chunk would end the body, so nothing becomes nothing."""
    if not body:
        return b"" if more else b"0\r\n\r\n"
    return b"%x\r\n%b%b" % (len(body), body, b"\r\n" if more else b"\r\n0\r\n\r\n")


def _wrong_length(left: int) -> str:
    how = "longer" if left < 0 else "shorter"
    return f"the response body is {abs(left)} bytes {how} than its Content-Length"
