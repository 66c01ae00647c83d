"""The write half of an HTTP/1.1 connection: stream events to bytes (RFC 9112 §6, §7, §9)."""

from __future__ import annotations

import asyncio
import math
import re
from abc import abstractmethod
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from outrider.backpressure import BackpressureProtocol
from outrider.http1_encoding import STATUS_LINES, EncodedFields, InvalidResponse, encode_fields, wrong_length
from outrider.http_extensions import ClientDisconnected
from outrider.runtime import HEAD, HTTP10, PERSISTENT
from outrider.tls_closing import LINGER as TLS_LINGER

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Iterable

    from outrider.file_region import FileRegion
    from outrider.http1_encoding import HeaderPair
    from outrider.http_stream import HTTPStream
    from outrider.runtime import Address, ConnectionContext

FOREVER = math.inf
# A larger piece of body is handed to the transport as it is: joining it to its framing would copy it.
JOINED_BODY = 8192
WRITE_HIGH_WATER = 131072
# What is written to a full socket to learn when it has room again.
PROBE = 16384

# Plain numbers: comparing with an IntEnum costs several times as much.
_BODILESS = frozenset((int(HTTPStatus.NO_CONTENT), int(HTTPStatus.NOT_MODIFIED)))
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CONTENT_LENGTH_LINES = re.compile(rb"^content-length:.*\r\n", re.IGNORECASE | re.MULTILINE)


class Framing(Enum):
    """How the end of the response body shows (RFC 9112 §6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing


class Reading(Enum):
    """What the next bytes from the client are. NOTHING: they are thrown away until the connection closes.

    HANDSHAKE: those of a WebSocket, which the application has not accepted yet.
    """

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    HANDSHAKE = "handshake"
    NOTHING = "nothing"


_IDLE = Reading.IDLE


class ResponseWriter(BackpressureProtocol):
    """Writes one response after another."""

    __slots__ = (
        "_closing",
        "_config",
        "_context",
        "_framing",
        "_left",
        "_reading",
        "deadline",
    )

    def __init__(self, context: ConnectionContext) -> None:
        super().__init__(context.runtime)
        self._context = context
        self._config = context.runtime.config
        self._framing = _NONE
        self._left = 0
        self._closing = False
        self._reading = Reading.IDLE
        self.deadline = FOREVER

    @property
    def client(self) -> Address | None:
        """The client's address; None on a unix socket."""
        return self._context.client

    # -- what the stream calls

    encode = staticmethod(encode_fields)

    def send_response(self, stream: HTTPStream, status: int, fields: EncodedFields, body: bytes, more: bool) -> None:
        """Write the head and the first piece of body, in one piece where it is small.

        Raises:
            InvalidResponse: the body does not fit the Content-Length; nothing was written.
        """
        head, length, close, given = fields
        flags = stream.flags
        if flags != PERSISTENT or status in _BODILESS or length is None:
            head, body = self._frame(status, head, length, flags, body, more)
        else:
            left = length - len(body)
            if left or more:
                if left < 0 or not more:
                    raise InvalidResponse(wrong_length(left))
                self._left = left
                self._framing = _LENGTH
        runtime = self.runtime
        is_common = flags == PERSISTENT and self._reading is _IDLE and not (runtime.draining or runtime.shed)
        if close or (not is_common and self._is_last(stream)):
            self._closing = True
            head += b"connection: close\r\n"
        elif flags & HTTP10:
            head += b"connection: close\r\n" if self._closing else b"connection: keep-alive\r\n"
        ending = runtime.default_headers.endings[given]
        if len(body) <= JOINED_BODY:
            data = b"".join((STATUS_LINES[status], head, ending, body))
            runtime.counters.bytes_out += len(data)
            self._transport.write(data)
        else:
            self._write_pieces((b"".join((STATUS_LINES[status], head, ending)), body))

    def _frame(
        self, status: int, head: bytes, length: int | None, flags: int, body: bytes, more: bool
    ) -> tuple[bytes, bytes]:
        """Choose the framing of an uncommon response, and return its header lines and first piece of body framed."""
        if status in _BODILESS or flags & HEAD:
            self._framing = _NONE
            if status == HTTPStatus.NO_CONTENT:
                head = _CONTENT_LENGTH_LINES.sub(b"", head)
            elif length is None and status != HTTPStatus.NOT_MODIFIED and not flags & HTTP10:
                head += b"transfer-encoding: chunked\r\n"
            return head, b""
        if length is not None:
            left = length - len(body)
            if left < 0 or (left and not more):
                raise InvalidResponse(wrong_length(left))
            self._left = left
            self._framing = _LENGTH
            return head, body
        if flags & HTTP10:
            self._framing = _CLOSE
            self._closing = True
            return head, body
        self._framing = _CHUNKED
        return head + b"transfer-encoding: chunked\r\n", _chunk(body, more)

    def send_body(self, stream: HTTPStream, body: bytes, more: bool) -> None:
        """Write another piece of body.

        Raises:
            InvalidResponse: it does not fit the Content-Length; nothing was written.
        """
        framing = self._framing
        if framing is _CHUNKED:
            if len(body) > JOINED_BODY:
                self._write_pieces((b"%x\r\n" % len(body), body, b"\r\n" if more else b"\r\n0\r\n\r\n"))
                return
            body = _chunk(body, more)
        elif framing is _LENGTH:
            self._take_from_length(len(body), more)
        elif framing is _NONE:
            return
        if body:
            self._write(body)

    def send_trailers(self, stream: HTTPStream, headers: Iterable[HeaderPair]) -> None:
        """End the message; only a chunked one can have trailers (RFC 9112 §7.1.2).

        Raises:
            InvalidResponse: a field is invalid, or the body is shorter than its Content-Length; nothing was written.
        """
        fields = encode_fields(headers)[0]
        if self._framing is _CHUNKED:
            self._write(b"0\r\n%b\r\n" % fields)
        elif self._framing is _LENGTH and self._left:
            raise InvalidResponse(wrong_length(self._left))

    def send_file(self, stream: HTTPStream, region: FileRegion, more: bool) -> Coroutine[Any, Any, None] | None:
        """Have the kernel send part of a file as the next piece of body; it can't encrypt."""
        if self._context.scheme == "https":
            return None
        return self._send_file(region, more)

    def send_informational(self, stream: HTTPStream, status: int, headers: Iterable[HeaderPair]) -> None:
        """Write an interim response (RFC 9110 §15.2); a client of HTTP/1.0 would take it for the final one."""
        if not stream.flags & HTTP10:
            self._write(b"".join((STATUS_LINES[status], encode_fields(headers)[0], b"\r\n")))

    def send_continue(self, stream: HTTPStream) -> None:
        """Write the interim response 100 (RFC 9110 §10.1.1)."""
        self._write(_CONTINUE)

    def cut(self, stream: HTTPStream) -> None:
        """Break the connection off so that the client can tell that the response is incomplete."""
        if self._framing is _CLOSE:
            # An orderly close would look like the end of the body; a reset does not.
            self.abort()
        else:
            self._close()

    def wait_writable(self, stream: HTTPStream) -> asyncio.Future[None] | None:
        """A future to await before more is written, or None when the transport takes more now."""
        return self.writable

    async def _send_file(self, region: FileRegion, more: bool) -> None:
        framing = self._framing
        if framing is _NONE:
            return
        if framing is _LENGTH:
            self._take_from_length(region.left, more)
        elif framing is _CHUNKED:
            self._write(b"%x\r\n" % region.left)
        transport = self._transport
        # Nothing may wait in the transport while the kernel is told to send more.
        transport.set_write_buffer_limits(high=0)
        try:
            await self._pump(region)
        finally:
            if not transport.is_closing():
                transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        if framing is _CHUNKED:
            self._write(b"\r\n" if more else b"\r\n0\r\n\r\n")

    async def _pump(self, region: FileRegion) -> None:
        """Send with the kernel while the socket takes it.

        When it takes no more, a small piece goes through the transport, which then tells when there is room again and
        keeps the write deadline meanwhile. The transport also gets what the kernel can't send, and it finds out that
        the connection is broken.
        """
        loop = self.runtime.loop
        sock = cast("socket.socket", self._transport.get_extra_info("socket"))
        while region.left:
            if self.writable is not None:
                await asyncio.shield(self.writable)
            if self._transport.is_closing():
                raise ClientDisconnected("the client has disconnected")
            try:
                self.runtime.counters.bytes_out += await region.send(loop, sock.fileno())
            except OSError:
                data = await region.read(loop, PROBE)
                if not self._transport.is_closing():
                    self._write(data)
            else:
                await asyncio.sleep(0)  # other connections have their turn

    # -- inside

    @abstractmethod
    def _is_last(self, stream: HTTPStream) -> bool:
        """Whether no further request will be answered on this connection."""

    def _take_from_length(self, size: int, more: bool) -> None:
        left = self._left - size
        if left < 0 or (left and not more):
            raise InvalidResponse(wrong_length(left))
        self._left = left

    def _write(self, data: bytes) -> None:
        self.runtime.counters.bytes_out += len(data)
        self._transport.write(data)

    def _write_pieces(self, pieces: tuple[bytes, ...]) -> None:
        self.runtime.counters.bytes_out += sum(map(len, pieces))
        self._transport.writelines(pieces)

    def _close(self) -> None:
        """Close when everything is sent; a client that does not take it has until the write deadline."""
        self.deadline = self._closing_deadline()
        self._mark_progress()
        self._transport.close()

    def _closing_deadline(self) -> float:
        return self._deadline_in(self._config.write_timeout if self._context.tls is None else TLS_LINGER)

    def _deadline_in(self, seconds: float) -> float:
        return self.runtime.now + seconds if seconds else FOREVER


def _chunk(body: bytes, more: bool) -> bytes:
    """Frame a piece of body (RFC 9112 §7.1). An empty chunk would end the body, so nothing becomes nothing."""
    if not body:
        return b"" if more else b"0\r\n\r\n"
    return b"%x\r\n%b%b" % (len(body), body, b"\r\n" if more else b"\r\n0\r\n\r\n")
