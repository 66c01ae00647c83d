"""HTTP/2 on one connection (RFC 9113): the transport, the engine, and one exchange for each stream.

What the client sends becomes events of the engine; each goes to the exchange of its stream. What is to be sent is
collected by the engine and written once for each turn of the loop. Every deadline is a number that the server's sweep
compares; there is no timer per request.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from outrider import http2_engine as engine
from outrider.http1_rules import BadRequest
from outrider.http2_engine import EngineError, ErrorCode
from outrider.http2_exchange import FOREVER, Exchange
from outrider.http2_frames import FRAMES_PER_TURN, Violation
from outrider.http2_guard import CONTROL_FRAME, LEAST_WINDOW_UPDATE, LOST_STREAM
from outrider.http2_head import Malformed, interpret
from outrider.http2_websocket import Tunnel
from outrider.http2_writer import CLOSED, LAST, LEAVING, LOST, OPEN, WRITE_HIGH_WATER, ConnectionWriter
from outrider.http_stream import HTTPStream
from outrider.runtime import EXPECTS_CONTINUE, name_peer
from outrider.tls_closing import is_flushed
from outrider.transports import is_readable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from outrider.runtime import ConnectionContext

FEED_SLICE = 65536


class HTTP2Connection(ConnectionWriter):
    """One client connection. Who negotiated HTTP/2 makes it; the transport and the server's sweep drive it."""

    __slots__ = ("_excused", "_held", "_last_stream", "_leaves_at", "_template", "_unstarted")

    def __init__(self, context: ConnectionContext) -> None:
        super().__init__(context)
        self._template = {**context.scope_template, "http_version": "2"}
        self._unstarted: list[Exchange] = []
        self._last_stream = 0
        # What waits for the next turn of the loop; None while the client has sent no more frames than one may have.
        self._held: bytes | None = None
        # The deadline that a client got because something of it was unread.
        self._excused = -FOREVER
        # When LEAVING becomes LAST although the client has not answered the PING.
        self._leaves_at = FOREVER

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is open, or handed over by who negotiated."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.deadline = self._in(self.runtime.config.header_timeout)
        self.runtime.http2_connections += 1
        if self.runtime.draining:
            self.begin_drain()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self.runtime.connections.discard(self)
        self.runtime.http2_connections -= 1
        self.runtime.blocked_writers.discard(self)
        self._lose()
        self.runtime.on_change()

    def eof_received(self) -> bool:
        """asyncio: the client sends no more. Without its window updates and acknowledgements there is no HTTP/2."""
        self._lose()
        self._close()
        return False

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the client."""
        self.runtime.counters.bytes_in += len(data)
        if self._held is not None:
            self._held += data
        elif self._phase is not CLOSED:
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        self._is_receiving = True  # to send nothing before all that has come is dealt with
        frames = self._frames
        size = len(data)
        if size <= FEED_SLICE:
            self._feed(data)
            position = frames.taken
        else:
            view = memoryview(data)
            position = 0
            while position < size and frames.frames_left and self._phase is not CLOSED:
                self._feed(view[position : position + FEED_SLICE])
                position += frames.taken
        self._is_receiving = False
        if self._phase is CLOSED:
            return
        if not frames.frames_left:
            self._held = data[position:]
            self._transport.pause_reading()
            self.runtime.loop.call_soon(self._begin_turn)
        if self._flush_due or self._watched or self._phase is LAST or self.engine.wants_to_send():
            self.flush()

    def _begin_turn(self) -> None:
        """Other connections have had their turn: go on with what is held."""
        held, self._held = self._held, None
        self._frames.frames_left = FRAMES_PER_TURN
        transport = self._transport
        if held and (self._phase is LOST or not (self._phase is CLOSED or transport.is_closing())):
            self._receive(held)
        if self._phase is LOST:
            self._lose()
        elif (self._frames.frames_left or self._phase is CLOSED) and not transport.is_closing():
            transport.resume_reading()

    def _feed(self, data: bytes | memoryview) -> None:
        violation = self._frames.check(data)
        if violation is not None:
            data = data[: violation.position]
        elif not self._frames.frames_left:
            data = data[: self._frames.taken]
        try:
            self.engine.receive(data)
        except EngineError as error:
            self._give_up(str(error), engine.code_of(error))
            return
        self._handle_events()
        if self._frames.late:
            self._answer_late_frames()
        if violation is None and self._patience.is_over:
            violation = Violation(ErrorCode.ENHANCE_YOUR_CALM, "too many frames of no use", 0)
        if violation is not None:
            self._write_out()
            self._give_up(violation.reason, violation.code)
        else:
            self._start_exchanges()

    def _answer_late_frames(self) -> None:
        late, self._frames.late = self._frames.late, []
        for stream_id in late:
            self._spend(LOST_STREAM)
            self.send_frame(engine.reset_frame(stream_id, ErrorCode.STREAM_CLOSED))

    def _start_exchanges(self) -> None:
        """Call the application, after all events are handled: what was reset at once never starts."""
        unstarted, self._unstarted = self._unstarted, []
        for exchange in unstarted:
            if exchange.id in self._exchanges:
                exchange.start()

    # -- what the engine tells

    def _handle_events(self) -> None:
        for event in self.engine.events():
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)

    def _on_request(self, event: engine.RequestReceived) -> None:
        stream_id = self._last_stream = self._frames.settled = event.stream_id
        runtime = self.runtime
        try:
            scope, flags, protocol = interpret(self._context, self._template, event.headers)
            if runtime.config.limit_concurrency:
                self._check_concurrency()
            if protocol is not None:
                exchange: Exchange = Tunnel.open(self, stream_id, protocol, scope, is_last=event.end_stream)
            else:
                exchange = Exchange(self, stream_id)
                stream = exchange.stream = HTTPStream(runtime, exchange, scope, flags)
                if event.end_stream:
                    stream.end_body()
                elif flags & EXPECTS_CONTINUE:
                    stream.expects_continue = True
        except Malformed as error:
            runtime.log_refusal("Refused a request from %s: %s", name_peer(self.client), error)
            self.reset(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        except BadRequest as error:
            is_head = (b":method", b"HEAD") in event.headers
            self.refuse(stream_id, error, is_head=is_head)
            if error.status != HTTPStatus.SERVICE_UNAVAILABLE:  # which is no fault of the client's
                self._spend(LOST_STREAM)
            return
        self._exchanges[stream_id] = exchange
        if not event.end_stream:
            exchange.expect_body()
        self._unstarted.append(exchange)

    def _check_concurrency(self) -> None:
        if len(self.runtime.streams) >= self.runtime.config.limit_concurrency:
            raise BadRequest(503, "limit_concurrency requests are in flight")

    def _on_data(self, event: engine.DataReceived) -> None:
        data = event.data
        exchange = self._exchanges.get(event.stream_id)
        if exchange is not None:
            exchange.feed(data, is_last=event.end_stream)
        elif data:  # of a request that was refused
            self.engine.consume(len(data), event.stream_id)
        if not data and not event.end_stream:
            self._spend(CONTROL_FRAME)

    def _on_trailers(self, event: engine.TrailersReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is not None:
            exchange.end()

    def _on_closed(self, event: engine.StreamClosed) -> None:
        exchange = self._exchanges.pop(event.stream_id, None)
        if event.error_code:
            self._frames.forgive(event.stream_id)
        if exchange is None:
            if event.error_code:
                self._spend(LOST_STREAM)
            return
        if exchange.closed():
            self._spend(LOST_STREAM)
        if not self._exchanges:
            self._on_idle()

    def _on_control_frame(self, _: Any) -> None:
        self._spend(CONTROL_FRAME)

    def _on_window_update(self, event: engine.WindowUpdated) -> None:
        if event.increment < LEAST_WINDOW_UPDATE:
            self._spend(CONTROL_FRAME)

    def _on_ping_answered(self, _: engine.PingAcknowledged) -> None:
        """What the client had sent before it knew that the connection ends has come: from here on it is ignored."""
        if self._phase is LEAVING:
            self._finish()

    def _on_goaway(self, _: engine.GoAwayReceived) -> None:
        """The client opens no more streams."""
        if self._phase is OPEN or self._phase is LEAVING:
            self._phase = LAST

    def _on_connection_closed(self, _: engine.ConnectionClosed) -> None:
        """The engine has ended the connection, for an error of the client's or because everything is done."""
        self._drop_exchanges()
        self._linger()

    def _on_idle(self) -> None:
        """No stream is open."""
        runtime = self.runtime
        keepalive = runtime.config.keepalive
        if self._phase is OPEN and not keepalive:
            self._finish()
        elif self._phase is OPEN:
            self.deadline = runtime.now + keepalive
            if runtime.shed:
                runtime.shed -= 1
                self.begin_drain()
        elif self._phase is LEAVING:  # with its first request after the drain had begun, or the time is set already
            self.deadline = self._leaves_at = min(self._leaves_at, runtime.now + runtime.config.drain_linger)

    # -- what the server calls

    def begin_drain(self) -> None:
        """Ask the client to go elsewhere; what it has asked for by then is answered.

        A PING shows when the client knows: from its answer on, or after `drain_linger`, new streams are ignored.
        """
        if self._phase is not OPEN:
            return
        self._phase = LEAVING
        self.engine.announce_shutdown()
        self.engine.ping()
        if self._last_stream:
            self._leaves_at = self.runtime.now + self.runtime.config.drain_linger
            self.deadline = min(self.deadline, self._leaves_at)
        self.schedule_flush()

    def expire(self) -> None:
        """The deadline has passed: of the connection, or of exchanges."""
        now = self.runtime.now
        if self._transport.is_closing():
            if self._context.tls is not None and is_flushed(self._transport):
                self._transport.abort()
                return
            self.deadline = self._closing_deadline()
            self.check_write_progress(now)
        elif self._phase is CLOSED:
            self._close()
        elif self._exchanges:
            self._expire_exchanges(now)
        elif self.deadline != self._excused and (self._held or is_readable(self._transport)):
            # A request is here, and the loop was too busy to read it: the next sweep finds it read. If it does not,
            # that was half a TLS record, or the end of the connection, which no transport tells of behind one.
            self.deadline = self._excused = now
        else:
            self._finish()
            self.flush()  # now: a request that comes before the GOAWAY is sent would have to be sent again

    # -- inside

    def _expire_exchanges(self, now: float) -> None:
        if self._leaves_at <= now:
            self._leaves_at = FOREVER
            self._finish()
        for exchange in [each for each in self._exchanges.values() if each.deadline <= now]:
            if exchange.id in self._exchanges:  # what one sends may be what closes another
                exchange.expire()
        if self._exchanges:
            self.deadline = min(self._leaves_at, *(each.deadline for each in self._exchanges.values()))

    def _spend(self, points: int) -> None:
        if not self._has_many_clients:
            self._patience.spend(points, self.runtime.now)

    def _give_up(self, reason: str, code: ErrorCode) -> None:
        """Close, for something that the client did."""
        if self._phase is CLOSED:
            return
        self.runtime.log_refusal("Closed the connection of %s: %s", name_peer(self.client), reason)
        if not (self._has_more or self._transport.is_closing()):  # never in the middle of a frame
            self._transport.write(engine.goaway_frame(self._last_stream, code))
        self._linger()
        self._drop_exchanges()

    def _finish(self) -> None:
        """Ignore new streams from here on; the connection is closed when those that are open have ended."""
        if self._phase is LAST:
            return
        self._phase = LAST
        self.engine.shut_down()
        self.schedule_flush()

    def _lose(self) -> None:
        """The client has gone: it is over when what is held has had its turn.

        A transport may tell of the end although it was paused: that of uvloop does, over TLS.
        """
        if self._held is not None and self._phase is not CLOSED:
            self._phase = LOST
            return
        self._phase = CLOSED
        self._drop_exchanges()

    def _drop_exchanges(self) -> None:
        exchanges = list(self._exchanges.values())
        self._exchanges.clear()
        self._unstarted = []
        for exchange in exchanges:
            exchange.closed()


_HANDLERS: dict[type, Callable[[HTTP2Connection, Any], None]] = {
    engine.RequestReceived: HTTP2Connection._on_request,  # noqa: SLF001  # of this class
    engine.DataReceived: HTTP2Connection._on_data,  # noqa: SLF001
    engine.TrailersReceived: HTTP2Connection._on_trailers,  # noqa: SLF001
    engine.StreamClosed: HTTP2Connection._on_closed,  # noqa: SLF001
    engine.SettingsReceived: HTTP2Connection._on_control_frame,  # noqa: SLF001
    engine.PingReceived: HTTP2Connection._on_control_frame,  # noqa: SLF001
    engine.PriorityUpdateReceived: HTTP2Connection._on_control_frame,  # noqa: SLF001
    engine.WindowUpdated: HTTP2Connection._on_window_update,  # noqa: SLF001
    engine.PingAcknowledged: HTTP2Connection._on_ping_answered,  # noqa: SLF001
    engine.GoAwayReceived: HTTP2Connection._on_goaway,  # noqa: SLF001
    engine.ConnectionClosed: HTTP2Connection._on_connection_closed,  # noqa: SLF001
}
