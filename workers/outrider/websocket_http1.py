"""The connection of a WebSocket over HTTP/1.1, from the response 101 on: a transport's protocol, a stream's channel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from outrider.runtime import name_peer
from outrider.tls_closing import measure_backlog
from outrider.transports import reset
from outrider.websocket_keepalive import FOREVER

if TYPE_CHECKING:
    from outrider.runtime import ConnectionContext
    from outrider.websocket_stream import WebSocketStream

# How long a client may go on sending after it was told why it must stop.
LINGER = 2.0
WRITE_HIGH_WATER = 65536


class WebSocketConnection(asyncio.Protocol):
    """Takes the place of the HTTP1Connection that made the handshake, in its transport and among the connections."""

    __slots__ = (
        "_is_over",
        "_runtime",
        "_stall_mark",
        "_stream",
        "_transport",
        "client",
        "deadline",
        "writable",
    )

    def __init__(self, context: ConnectionContext, transport: asyncio.Transport, stream: WebSocketStream) -> None:
        # The context itself is not kept, for what else is in it is as large as the rest of an idle WebSocket.
        runtime = self._runtime = context.runtime
        self._transport = transport
        self._stream = stream
        self._stall_mark = (0.0, 0)
        self._is_over = False
        self.client = context.client
        self.deadline = FOREVER
        self.writable: asyncio.Future[None] | None = None
        runtime.connections.add(self)
        transport.set_protocol(self)
        # Last, for the transport may hold more already and say so.
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)

    # -- what the transport calls

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the client."""
        self._runtime.counters.bytes_in += len(data)
        self._stream.feed(data)

    def eof_received(self) -> bool:
        """asyncio: the client sends no more, so that the transport closes. A WebSocket has no half-close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._runtime.connections.discard(self)
        self.resume_writing()
        self._stream.disconnect()
        self._runtime.on_change()

    def pause_writing(self) -> None:
        """asyncio: the transport holds more than it should: `send()` waits from now on."""
        self.writable = self._runtime.loop.create_future()
        self._mark()
        self._runtime.blocked_writers.add(self)

    def resume_writing(self) -> None:
        """asyncio: the client has read enough again."""
        self._runtime.blocked_writers.discard(self)
        writable, self.writable = self.writable, None
        if writable is not None:
            writable.set_result(None)

    # -- what the server calls

    def expire(self) -> None:
        """The deadline has passed: the stream's, or that of a client to take what is left."""
        if not self._is_over:
            self._stream.expire()
        elif self._transport.is_closing():
            self.abort()
        else:
            self._close()

    def begin_drain(self) -> None:
        """The worker drains: that is for the stream to deal with."""

    def check_write_progress(self, now: float) -> None:
        """Abort if a blocked client took less than `min_body_rate` over `write_timeout`."""
        config = self._runtime.config
        since, held = self._stall_mark
        window = config.write_timeout
        if not window or now - since < window:
            return
        if held - self._backlog() < max(1, config.min_body_rate * window):
            self._runtime.log.info("Client %s does not read its WebSocket: aborted", name_peer(self.client))
            self.abort()
        else:
            self._mark()

    # -- what the stream calls

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._runtime.counters.bytes_out += len(data)
        self._transport.write(data)

    def pause_reading(self) -> None:
        """Leave what the client sends in the kernel's buffers, whose size makes it wait."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, *, linger: bool) -> None:
        """Close when everything is sent; with `linger`, so that a client that still sends can read why."""
        self._is_over = True
        if linger and self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
            self.deadline = self._runtime.now + LINGER
        else:
            self._close()

    def abort(self) -> None:
        """Reset the connection: what is unsent is lost, in the kernel's buffers too."""
        reset(self._transport)

    # -- inside

    def _close(self) -> None:
        self.deadline = self._runtime.now + (self._stream.config.close_timeout or FOREVER)
        self._transport.close()

    def _mark(self) -> None:
        self._stall_mark = (self._runtime.now, self._backlog())

    def _backlog(self) -> int:
        return measure_backlog(self._transport)
