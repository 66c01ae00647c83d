"""A WebSocket on one stream of an HTTP/2 connection (RFC 8441): its handshake, and then its bytes as DATA."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from outrider.http1_rules import BadRequest
from outrider.http2_engine import EngineError, ErrorCode
from outrider.http2_exchange import FOREVER, Carrier, Exchange
from outrider.http2_fields import STATUS_FIELDS, encode_fields
from outrider.http_stream import HIGH_WATER
from outrider.websocket_handshake import check_version, websocket_scope
from outrider.websocket_stream import WebSocketStream

if TYPE_CHECKING:
    from outrider.http1_encoding import HeaderPair
    from outrider.http2_fields import Fields
    from outrider.http_stream import HTTPStream
    from outrider.runtime import Scope


class State(Enum):
    """What has become of the handshake. ENDED: we have ended the stream."""

    ASKED = "asked"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    ENDED = "ended"


_ASKED, _ACCEPTED, _REFUSED, _ENDED = State


class Tunnel(Exchange):
    """The wire of a WebSocketStream, and its channel once it is accepted.

    If the application refuses it, the response has an HTTPStream, and the tunnel is an exchange like others.
    """

    __slots__ = ("_state", "is_reading", "websocket")

    websocket: WebSocketStream

    def __init__(self, carrier: Carrier, exchange_id: int) -> None:
        super().__init__(carrier, exchange_id)
        self._is_whole = False
        self._state = _ASKED
        self.is_reading = True

    @classmethod
    def open(cls, carrier: Carrier, exchange_id: int, protocol: bytes, scope: Scope, *, is_last: bool) -> Tunnel:
        """Begin the handshake that an extended CONNECT asks for.

        Raises:
            BadRequest: 501 for another protocol than WebSocket, 426 or 400 for what is no handshake.
        """
        config = carrier.runtime.config.websocket
        if protocol != b"websocket" or config is None:
            raise BadRequest(501, "an extended CONNECT for a protocol that is not served")
        if is_last:
            raise BadRequest(400, "an extended CONNECT that ends at once")
        check_version(scope["headers"])
        tunnel = cls(carrier, exchange_id)
        tunnel.websocket = WebSocketStream(carrier.runtime, config, tunnel, websocket_scope(scope), 0)
        return tunnel

    # -- what the WebSocket calls

    def accept_websocket(self, stream: WebSocketStream, headers: list[HeaderPair]) -> Tunnel:
        """Answer the handshake with 200 (RFC 8441 §5).

        Raises:
            InvalidResponse: a field is invalid; nothing was sent.
        """
        fields, _, _, given = encode_fields(headers)
        head = (STATUS_FIELDS[200], *fields, *self.carrier.default_fields[given])
        self._state = _ACCEPTED
        try:
            self._engine.respond(self.id, head)
        except EngineError:
            return self  # the client has reset the stream, which the next event tells of
        self.carrier.schedule_flush()
        if self._is_whole:
            # What came before is dealt with first.
            self.carrier.runtime.loop.call_soon(self._end_input)
        return self

    def write(self, data: bytes) -> None:
        """Send frames."""
        self._send(data, is_last=False)
        if self.writable is None:
            self.wait_until_sent()

    def pause_reading(self) -> None:
        """Give no more credit to the client."""
        self.is_reading = False

    def resume_reading(self) -> None:
        """The client may send on."""
        self.is_reading = True
        self.release()
        if self._is_whole:
            self._end_input()

    def close(self, *, linger: bool) -> None:
        """Everything is written: end the stream, which with `linger` the client may not have done."""
        if self._is_over:
            return
        self._state = _ENDED
        self._is_whole = True  # nothing more is expected but the end of the stream, for as long as `write_timeout`
        self._send(b"", is_last=True)
        self.carrier.completed(self)
        if linger:
            self.carrier.reset_when_sent(self.id)

    def abort(self) -> None:
        """Reset the stream."""
        self.reset(ErrorCode.CANCEL)

    # -- what the HTTPStream of a refusal calls

    def send_response(self, stream: HTTPStream, status: int, fields: Fields, body: bytes, more: bool) -> None:
        """Send the head and the first piece of body of a refusal.

        Raises:
            InvalidResponse: the body does not fit the Content-Length; nothing was sent.
        """
        self._state = _REFUSED
        self.stream = stream
        super().send_response(stream, status, fields, body, more)

    def response_complete(self, stream: HTTPStream) -> None:
        """Everything is with the engine; what the client still sends is of no use."""
        super().response_complete(stream)
        self.carrier.reset_when_sent(self.id)

    # -- what the connection calls

    def start(self) -> None:
        """Call the application."""
        self.websocket.start(self.carrier.runtime.spawn_eagerly)

    def expect_body(self) -> None:
        """There is no limit to how long a client may send nothing."""

    def feed(self, data: bytes, *, is_last: bool) -> None:
        """Take bytes of the WebSocket."""
        state = self._state
        if state is _ENDED:
            self.consume(len(data))
            return
        self._is_whole = is_last
        self.withheld += len(data)
        self.websocket.feed(data)
        if is_last:
            self._end_input()
        if is_last or (self.is_reading and (state is _ACCEPTED or self.websocket.buffered <= HIGH_WATER)):
            self.release()

    def expire(self) -> None:
        """The deadline has passed: the WebSocket sets a new one."""
        self._deadline = FOREVER
        self.websocket.expire()

    def closed(self) -> bool:
        """The HTTP/2 stream has ended; whether that was before the WebSocket had."""
        websocket = self.websocket
        del self.websocket  # which refers to us
        if self._state is _REFUSED:
            was_earlier = super().closed()
            if was_earlier:
                websocket.disconnect(connection_lost=True)
            return was_earlier
        self._is_over = True
        self.carrier.finishing.discard(self)
        self.release()
        self.wake()
        websocket.disconnect(connection_lost=True)
        return self._state is not _ENDED

    # -- inside

    def _end_input(self) -> None:
        """The client has ended the stream: without a Close, the WebSocket is broken off (RFC 8441 §5)."""
        if self._state is _ACCEPTED and not self._is_over and self.is_reading:  # or some of it is still to be read
            self.websocket.disconnect(connection_lost=True)
            self.close(linger=False)
