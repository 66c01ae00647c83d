"""The write half of an HTTP/2 connection: from the engine to the transport, and who waits for whom."""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from outrider.http2_engine import Engine, EngineError, ErrorCode
from outrider.http2_exchange import FOREVER, LOW_WATER, Carrier, Exchange
from outrider.http2_fields import STATUS_FIELDS, DefaultFields, encode_fields
from outrider.http2_frames import FrameWatch
from outrider.http2_guard import Patience
from outrider.runtime import name_peer
from outrider.tls_closing import LINGER as TLS_LINGER

if TYPE_CHECKING:
    from outrider.config import HTTP2Config
    from outrider.http1_rules import BadRequest
    from outrider.runtime import Address, ConnectionContext

LINGER = 2.0
FLUSH_SIZE = 262144
WRITE_HIGH_WATER = 131072


class Phase(Enum):
    """How far the end of the connection is (RFC 9113 §6.8).

    LEAVING: the client was asked to open no more streams; LAST: more are ignored; CLOSED: everything is.
    LOST: the client has gone, and what it sent before is still dealt with.
    """

    OPEN = "open"
    LEAVING = "leaving"
    LAST = "last"
    LOST = "lost"
    CLOSED = "closed"


# Module names, because reaching through the Enum class costs a lookup on every message.
OPEN, LEAVING, LAST, LOST, CLOSED = Phase


class ConnectionWriter(Carrier):
    """Writes what the engine has to send, once for each turn of the loop."""

    __slots__ = (
        "_context",
        "_exchanges",
        "_flush_due",
        "_frames",
        "_frames_to_send",
        "_has_many_clients",
        "_has_more",
        "_is_receiving",
        "_patience",
        "_phase",
        "_to_reset",
        "_watched",
    )

    unread = "its responses"

    def __init__(self, context: ConnectionContext) -> None:
        runtime = context.runtime
        config = runtime.config
        http2 = cast("HTTP2Config", config.http2)  # otherwise there is no connection of HTTP/2
        super().__init__(runtime)
        self._has_many_clients = _has_many_clients(context)
        self.engine = Engine(
            http2,
            config.limit_request_fields,
            websocket=config.websocket is not None,
            many_clients=self._has_many_clients,
        )
        self.default_fields = DefaultFields(runtime.default_headers)
        self.deadline = FOREVER
        self.waiting: set[Exchange] = set()
        self.finishing: set[Exchange] = set()
        self._context = context
        self._exchanges: dict[int, Exchange] = {}
        self._frames = FrameWatch(http2.max_frame_size, self._exchanges)
        self._frames_to_send = b""
        self._has_more = False
        self._to_reset: set[int] = set()
        self._phase = OPEN
        self._patience = Patience(runtime.now)
        self._flush_due = False
        self._is_receiving = False
        self._watched = False

    @property
    def client(self) -> Address | None:
        """The client's address; None on a unix socket."""
        return self._context.client

    # -- what an exchange calls

    def schedule_flush(self) -> None:
        """Write what the engine has to send, once everything that is to be done now is done."""
        if not self._flush_due:
            self._flush_due = True
            if not self._is_receiving:
                self.runtime.loop.call_soon(self._flush_if_due)

    def flush(self) -> None:
        """Write what the engine has to send, and see who may send more."""
        self._flush_due = False
        if self._phase is CLOSED or self._phase is LOST:
            return
        self._write_out()
        if self._to_reset and self.writable is None:
            self._reset_answered()
        if self.waiting:
            for exchange in [each for each in self.waiting if self.engine.queued(each.id) <= LOW_WATER]:
                exchange.wake()
        if self.waiting or self.finishing or self._watched:
            self._watch()
        if self._phase is LAST and not self._exchanges:
            self._write_out()
            self._linger()

    def completed(self, exchange: Exchange) -> None:
        """A response is complete: write it at once if no other can be expected to come with it."""
        self.finishing.add(exchange)
        self._patience.earn()
        if self._is_receiving or len(self.finishing) < len(self._exchanges):
            self.schedule_flush()
        else:
            self.flush()

    def refuse(self, exchange_id: int, error: BadRequest, *, is_head: bool) -> None:
        """Answer a request without the application, and take no more of it."""
        self.runtime.log_refusal("Refused a request from %s: %s", name_peer(self.client), error)
        body = HTTPStatus(error.status).phrase.encode()
        given = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), *error.fields]
        head = (STATUS_FIELDS[error.status], *encode_fields(given)[0], *self.default_fields[0])
        try:
            self.engine.respond(exchange_id, head, end_stream=is_head)
            if not is_head:
                self.engine.send(exchange_id, body, end_stream=True)
        except EngineError:
            return  # the client has reset the stream
        self.runtime.note_refusal(error.status)
        self.reset_when_sent(exchange_id)

    def reset(self, exchange_id: int, code: ErrorCode) -> None:
        """End a stream at once."""
        self._frames.forgive(exchange_id)
        try:
            self.engine.reset(exchange_id, code)
        except EngineError:
            return  # the client has been faster
        self.schedule_flush()

    def send_frame(self, frame: bytes) -> None:
        """Send a frame that is not the engine's."""
        self._frames_to_send += frame
        self.schedule_flush()

    def reset_when_sent(self, exchange_id: int) -> None:
        """End a stream whose response is complete, once that is written: take no more of what the client sends."""
        self._frames.forgive(exchange_id)
        self._to_reset.add(exchange_id)
        self.schedule_flush()

    # -- what the transport calls

    def resume_writing(self) -> None:
        """asyncio: the client has read enough for more of what waits in the engine."""
        super().resume_writing()
        self._watched = False
        self.flush()

    # -- what the server calls

    def check_write_progress(self, now: float) -> None:
        """Cut off what takes less than `min_body_rate` over `write_timeout`: streams, or the whole connection."""
        if self.writable is not None or self._transport.is_closing():
            super().check_write_progress(now)
            return
        config = self.runtime.config
        window = config.write_timeout
        if not window:
            return
        least = max(1, config.min_body_rate * window)
        for exchange in [each for each in self.waiting | self.finishing if each.has_stalled(now, window, least)]:
            self.runtime.log.info("Client %s does not take a response: its stream is reset", name_peer(self.client))
            exchange.reset(ErrorCode.CANCEL)

    # -- inside

    def _flush_if_due(self) -> None:
        if self._flush_due:
            self.flush()

    @abstractmethod
    def _handle_events(self) -> None:
        """Deal with what the engine tells."""

    def _write_out(self) -> None:
        to_send = self.engine.to_send
        counters = self.runtime.counters
        while self.writable is None and self._phase is not CLOSED and self._phase is not LOST:
            data = to_send(FLUSH_SIZE)
            has_more = len(data) == FLUSH_SIZE
            if self._frames_to_send and not self._has_more:  # or it would be in the middle of a frame
                data = self._frames_to_send + data
                self._frames_to_send = b""
            self._has_more = has_more
            if data:
                counters.bytes_out += len(data)
                self._transport.write(data)
            self._handle_events()
            if not (has_more or self._frames_to_send):
                return

    def _reset_answered(self) -> None:
        """What goes on although its answer is sent is of no use (RFC 9113 §8.1)."""
        sent = {each for each in self._to_reset if not self.engine.queued(each)}
        self._to_reset -= sent
        for exchange_id in sent:
            self.reset(exchange_id, ErrorCode.NO_ERROR)

    def _watch(self) -> None:
        """Have the sweep look at exchanges that wait for their client."""
        if self.writable is not None:
            return
        if not (self.waiting or self.finishing):
            self._watched = False
            self.runtime.blocked_writers.discard(self)
        elif not self._watched:
            self._watched = True
            self.runtime.blocked_writers.add(self)
            for exchange in self.waiting | self.finishing:
                exchange.mark_progress(self.runtime.now)

    def _linger(self) -> None:
        """Close so that the client can still read its answers although we don't read what it sends (RFC 9112 §9.6)."""
        if self._phase is CLOSED:
            return
        self._phase = CLOSED
        transport = self._transport
        if transport.is_closing() or not transport.can_write_eof():
            self._close()
            return
        transport.write_eof()
        self.deadline = self.runtime.now + LINGER

    def _close(self) -> None:
        """Close when everything is sent; a client that does not take it has until the write deadline."""
        self.deadline = self._closing_deadline()
        self._mark_progress()
        self._transport.close()

    def _closing_deadline(self) -> float:
        return self._in(self.runtime.config.write_timeout if self._context.tls is None else TLS_LINGER)

    def _in(self, seconds: float) -> float:
        return self.runtime.now + seconds if seconds else FOREVER


def _has_many_clients(context: ConnectionContext) -> bool:
    """Whether this is a proxy's connection, with the requests of many: one of them must not end it for the others.

    "*" in forwarded_allow_ips names no proxy, but anybody. Behind a PROXY header there is one client.
    """
    config = context.runtime.config
    return context.trusted_proxy and config.proxy_protocol == "off" and not config.trusted_proxies.everyone
