"""What becomes of a request with Upgrade on an HTTP/1.1 connection (RFC 9110 §7.8): a WebSocket, or a plain request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outrider.http1_encoding import STATUS_LINES, HeaderPair, encode_fields
from outrider.http1_pipeline import Pipeline
from outrider.http1_response import FOREVER, Reading
from outrider.http_stream import HIGH_WATER
from outrider.runtime import HTTP10, PERSISTENT, UPGRADE
from outrider.websocket_handshake import accept_value, asks_for_websocket, check_request, websocket_scope
from outrider.websocket_http1 import WebSocketConnection
from outrider.websocket_stream import WebSocketStream

if TYPE_CHECKING:
    from outrider.runtime import ConnectionContext, Scope


class UpgradableConnection(Pipeline):
    """The part of an HTTP/1.1 connection that knows about Upgrade, at which llhttp stops parsing."""

    __slots__ = ("_accept_value", "_unparsed_framing")

    def __init__(self, context: ConnectionContext) -> None:
        super().__init__(context)
        self._accept_value = b""
        self._unparsed_framing: bytes | None = None

    # -- what the stream calls

    def accept_websocket(self, stream: WebSocketStream, headers: list[HeaderPair]) -> WebSocketConnection:
        """Answer 101 (RFC 6455 §4.2.2), and have the WebSocket's own connection take this one's place.

        Raises:
            InvalidResponse: one of the headers may not go on the wire; nothing was written.
        """
        runtime = self.runtime
        fields = encode_fields(headers)
        ending = runtime.default_headers.endings[fields[3]]
        accept = b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: %b\r\n" % self._accept_value
        self._write(b"".join((STATUS_LINES[101], accept, fields[0], ending)))
        is_blocked = self.writable is not None
        self._leave()
        connection = WebSocketConnection(self._context, self._transport, stream)
        if is_blocked:
            connection.pause_writing()  # the transport has said so, and does not say it again
        return connection

    # -- inside

    def _begin_handshake(self, scope: Scope, flags: int) -> WebSocketStream | None:
        """Make the stream of a WebSocket, if this is its handshake (RFC 6455 §4.2.1). HTTP/1.0 knows no Upgrade.

        Raises:
            BadRequest: it is one that can't succeed.
        """
        headers = scope["headers"]
        config = self._config.websocket
        if flags & HTTP10 or config is None or not asks_for_websocket(headers):
            return None
        check_request(scope["method"], headers)
        self._accept_value = accept_value(headers)
        stream = WebSocketStream(self.runtime, config, self, websocket_scope(scope), flags & ~PERSISTENT)
        self._websocket = stream
        self._reading = Reading.HANDSHAKE
        self.deadline = FOREVER
        return stream

    def _feed_websocket(self, data: bytes) -> None:
        """Bytes behind the handshake: they wait until the application has accepted, and a client should as well."""
        stream = self._websocket
        if stream is None:
            return
        stream.feed(data)
        if stream.buffered > HIGH_WATER:
            self._paused = True
            self._transport.pause_reading()

    def _plan_upgrade(self, headers: list[HeaderPair], flags: int) -> int:
        """Ignore any other Upgrade (RFC 9110 §7.8), although llhttp stops parsing at it.

        Where the request has a body, another parser reads it and the connection ends with this exchange.
        """
        framing = [pair for pair in headers if pair[0] in (b"content-length", b"transfer-encoding")]
        if not framing:
            return flags & ~UPGRADE
        self._unparsed_framing = b"".join(b"%b: %b\r\n" % pair for pair in framing)
        return flags & ~PERSISTENT & ~UPGRADE
