"""The connection of a WebSocket over HTTP/1.1, from the response 101 on: a transport's protocol, a stream's channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outrider.backpressure import BackpressureProtocol
from outrider.tls_closing import LINGER as TLS_LINGER
from outrider.tls_closing import is_flushed
from outrider.websocket_keepalive import FOREVER

if TYPE_CHECKING:
    import asyncio

    from outrider.runtime import Address, ConnectionContext
    from outrider.websocket_stream import WebSocketStream

# How long a client may go on sending after it was told why it must stop.
LINGER = 2.0
WRITE_HIGH_WATER = 65536


class WebSocketConnection(BackpressureProtocol):
    """Takes the place of the HTTP1Connection that made the handshake, in its transport and among the connections."""

    __slots__ = ("_give_up_at", "_is_over", "_stream", "client", "deadline")

    client: Address | None
    unread = "its WebSocket"

    def __init__(self, context: ConnectionContext, transport: asyncio.Transport, stream: WebSocketStream) -> None:
        # The context itself is not kept, for what else is in it is as large as the rest of an idle WebSocket.
        super().__init__(context.runtime, transport)
        self._stream = stream
        self._is_over = False
        self._give_up_at = FOREVER
        self.client = context.client
        self.deadline = FOREVER
        self.runtime.connections.add(self)
        transport.set_protocol(self)
        # Last, for the transport may hold more already and say so.
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)

    # -- what the transport calls

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the client."""
        self.runtime.counters.bytes_in += len(data)
        self._stream.feed(data)

    def eof_received(self) -> bool:
        """asyncio: the client sends no more. A WebSocket has no half-close: it ends."""
        self._stream.disconnect()
        self._close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self.runtime.connections.discard(self)
        self.resume_writing()
        self._stream.disconnect()
        self.runtime.on_change()

    # -- what the server calls

    def expire(self) -> None:
        """The deadline has passed: the stream's, or that of a client to take what is left."""
        now = self.runtime.now
        if not self._is_over:
            self._stream.expire()
        elif not self._transport.is_closing():
            self._close()
        elif self._transport.get_extra_info("ssl_object") is not None and is_flushed(self._transport):
            self._transport.abort()
        elif now >= self._give_up_at:
            self.abort()
        else:
            self.deadline = min(now + TLS_LINGER, self._give_up_at)
            self.check_write_progress(now)

    def begin_drain(self) -> None:
        """The worker drains: that is for the stream to deal with."""

    # -- what the stream calls

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self.runtime.counters.bytes_out += len(data)
        self._transport.write(data)

    def pause_reading(self) -> None:
        """Leave what the client sends in the kernel's buffers, whose size makes it wait."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, *, linger: bool) -> None:
        """Close when everything is sent; with `linger`, so that a client that still sends can read why."""
        if linger and self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
            self._is_over = True
            self.deadline = self.runtime.now + LINGER
        else:
            self._close()

    # -- inside

    def _close(self) -> None:
        """Close when everything is sent; a client that does not take it has until `websocket_close_timeout`."""
        now = self.runtime.now
        self._is_over = True
        self._give_up_at = now + (self._stream.config.close_timeout or FOREVER)
        self.deadline = min(now + TLS_LINGER, self._give_up_at)
        self._mark_progress()
        self._transport.close()
