"""The order of things on an HTTP/1.1 connection (RFC 9112 §9): whose turn it is, when to read on, and how it ends.

Requests are answered in the order they came: one stream runs, the others wait in a bounded queue. Every deadline is a
number that the server's sweep compares; there is no timer per request.
"""

from __future__ import annotations

from abc import abstractmethod
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools

from outrider import transports
from outrider.http1_encoding import STATUS_LINES, encode_fields
from outrider.http1_response import FOREVER, Reading, ResponseWriter
from outrider.http1_rules import BadRequest
from outrider.http_stream import HIGH_WATER, ON_THE_WIRE, HTTPStream, Response
from outrider.runtime import PERSISTENT, name_peer
from outrider.tls_closing import is_flushed

if TYPE_CHECKING:
    from collections import deque

    from outrider.http1_encoding import HeaderPair
    from outrider.runtime import ConnectionContext
    from outrider.websocket_stream import WebSocketStream

    AnyStream = HTTPStream | WebSocketStream

LINGER = 2.0
MOST_QUEUED = 32

_IDLE, _HEAD, _BODY, _HANDSHAKE, _NOTHING = Reading
_COMPLETE = Response.COMPLETE
# Takes the place of a connection's own, which refers to it. Nothing is parsed any more.
_NO_PARSER = httptools.HttpRequestParser(None)


class Pipeline(ResponseWriter):
    """The streams of a connection, from the one that is received to the one that is answered."""

    __slots__ = (
        "_active",
        "_discarded",
        "_excused",
        "_headers",
        "_held",
        "_parser",
        "_paused",
        "_queue",
        "_receiving",
        "_refusal",
        "_served",
        "_unstarted",
        "_websocket",
    )

    def __init__(self, context: ConnectionContext) -> None:
        super().__init__(context)
        self._parser = httptools.HttpRequestParser(self)
        self._active: AnyStream | None = None
        self._discarded = 0
        # The deadline that a client got because something of it was unread.
        self._excused = -FOREVER
        self._headers: list[HeaderPair] = []
        self._held = b""
        self._paused = False
        self._queue: deque[AnyStream] | None = None
        self._receiving: HTTPStream | None = None
        self._refusal: BadRequest | None = None
        self._served = False
        self._unstarted: AnyStream | None = None
        self._websocket: WebSocketStream | None = None

    # -- what the transport calls

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._leave()
        stream, self._active = self._active, None
        if stream is not None:
            stream.disconnect(connection_lost=True)
        self.runtime.on_change()

    def eof_received(self) -> bool:
        """asyncio: the client sends no more; what it asked for completely is still answered (RFC 9112 §9.6)."""
        # A WebSocket has no half-close: without its client's side it will not even begin.
        incomplete: AnyStream | None = self._receiving or self._websocket
        self._receiving = None
        if self._queue and self._queue[-1] is incomplete:
            self._queue.pop()
        self._reading = _NOTHING
        answering = self._active if self._active is not incomplete else None
        if (answering is None and not self._queue) or self._context.scheme == "https":
            self._close()
            return False
        self.deadline = FOREVER
        if answering is not None:  # otherwise the next answer waits for the client to take the last one
            answering.disconnect(connection_lost=False)
        transports.send_probes(self._transport)
        self.runtime.half_closed.add(self)
        return True

    def resume_writing(self) -> None:
        """asyncio: the client has read enough for more."""
        super().resume_writing()
        if self._active is None and self._queue:
            self._next()

    # -- what the stream calls

    def send_continue(self, stream: HTTPStream) -> None:
        """Write the interim response 100 (RFC 9110 §10.1.1) and start to expect the body."""
        self.deadline = self._deadline_in(self._config.body_timeout)
        super().send_continue(stream)

    def response_complete(self, stream: HTTPStream) -> None:
        """The response is written: go on with the next request, or with none."""
        self._active = None
        self._served = True
        if self._reading is _IDLE and not (self._queue or self._closing or self.runtime.draining):
            self.deadline = self.runtime.now + self._config.keepalive
        elif self._closing:
            self._finish()
        elif self._receiving is stream:
            self._discarded = 0
            self._update_reading()
        else:
            self._next()

    def body_consumed(self, stream: HTTPStream) -> None:
        """The application has taken the buffered request body: read on."""
        self._update_reading()

    def cut(self, stream: HTTPStream) -> None:
        """Break the connection off so that the client can tell that the response is incomplete."""
        self._active = None
        self._reading = _NOTHING
        super().cut(stream)

    # -- what the server calls

    def begin_drain(self) -> None:
        """The worker drains: an idle connection serves one more request or closes after a quiet linger."""
        if self._active is None and self._reading is _IDLE and self._served:
            self.deadline = min(self.deadline, self.runtime.now + self._config.drain_linger)

    def expire(self) -> None:
        """The deadline has passed."""
        config = self._config
        if self._transport.is_closing():
            if self._context.tls is not None and is_flushed(self._transport):
                self._transport.abort()
                return
            self.deadline = self._closing_deadline()
            self.check_write_progress(self.runtime.now)
        elif self._websocket is not None and self._reading is _HANDSHAKE:
            self._websocket.expire()
        elif self._reading is _HEAD or self._reading is _BODY:
            self._refuse(BadRequest(408, "the request did not arrive in time"))
        elif self._reading is _IDLE and self.writable is not None:
            # Not idle yet: the client still reads the last response.
            self.deadline = self._deadline_in(config.keepalive)
        elif self._reading is _IDLE and self.deadline != self._excused and transports.is_readable(self._transport):
            # A request is here, and the loop was too busy to read it: the next sweep finds it read. If it does not,
            # that was half a TLS record, or the end of the connection, which no transport tells of behind one.
            self.deadline = self._excused = self.runtime.now
        else:
            transports.end_now(self._transport)
            self._close()

    def check_client(self) -> None:
        """Look whether a half-closed client has gone for good: the transport reads no more, so it can't tell."""
        if transports.is_broken(self._transport):
            self.abort()

    # -- inside

    def _leave(self) -> None:
        """Be none of the server's connections any more, and nothing that only the garbage collector would free."""
        self._reading = _NOTHING
        self.runtime.connections.discard(self)
        self.runtime.half_closed.discard(self)
        self._queue = None
        self._receiving = self._unstarted = self._websocket = None
        self._parser = _NO_PARSER
        self.resume_writing()

    @abstractmethod
    def _feed_held(self) -> None:
        """Parse what was held back while the queue was full."""

    def _next(self) -> None:
        """Nothing is being answered: take the next request from the queue, or wait for one."""
        if self._queue:
            if self.writable is not None:
                return  # resume_writing goes on: a client that does not read gets no more answers
            stream = self._active = self._queue.popleft()
            stream.start()
            if self._paused:
                self._update_reading()
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        elif self._reading is _NOTHING:
            self._finish()
        elif self._reading is _IDLE:
            config = self._config
            idle = min(config.keepalive, config.drain_linger) if self.runtime.draining else config.keepalive
            self.deadline = self.runtime.now + idle
        else:
            self.deadline = self._deadline_in(self._config.header_timeout)

    def _is_last(self, stream: HTTPStream) -> bool:
        runtime = self.runtime
        if stream.flags & PERSISTENT and self._reading is _IDLE and not (runtime.draining or runtime.shed):
            return False
        if self._queue or self._refusal is not None or self._reading is _HEAD:
            return False
        unasked_body = self._receiving is stream and stream.expects_continue
        if runtime.draining or self._reading is _NOTHING or unasked_body or not stream.flags & PERSISTENT:
            return True
        if not runtime.shed or self._reading is not _IDLE:
            return False
        runtime.shed -= 1
        return True

    def _update_reading(self) -> None:
        """Read only while there is room for what comes: bodies in their streams, requests in the queue."""
        stream = self._receiving
        full_body = stream is not None and stream.response is not _COMPLETE and stream.buffered > HIGH_WATER
        if full_body or self._queue_is_full():
            self._paused = True
            self.deadline = FOREVER
            self._transport.pause_reading()
        elif self._paused:
            self._paused = False
            if stream is not None and not stream.expects_continue:
                self.deadline = self._deadline_in(self._config.body_timeout)
            self._transport.resume_reading()
            if self._held:
                self._feed_held()

    def _queue_is_full(self) -> bool:
        queue = self._queue or ()
        return len(queue) >= MOST_QUEUED or sum(stream.buffered for stream in queue) > HIGH_WATER

    def _refuse(self, error: BadRequest) -> None:
        """Answer with an error of our own once the requests before it are answered, and read no more."""
        self.runtime.log_refusal("Refused a request from %s: %s", name_peer(self.client), error)
        stream, self._receiving = self._receiving, None
        self._reading = _NOTHING
        self._headers = []
        self.deadline = FOREVER
        if stream is not None and stream is self._active:
            if stream.response in ON_THE_WIRE:
                stream.disconnect(connection_lost=True)
                self.cut(stream)
                return
            self._active = self._unstarted = None
            stream.disconnect(connection_lost=True)
        elif stream is not None and self._queue and self._queue[-1] is stream:
            self._queue.pop()
        elif stream is not None:
            self._linger()
            return
        self._refusal = error
        if self._active is None and not self._queue:
            self._send_refusal(error)

    def _send_refusal(self, error: BadRequest) -> None:
        self.runtime.note_refusal(error.status)
        body = HTTPStatus(error.status).phrase.encode()
        fields = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), *error.fields]
        head, *_ = encode_fields(fields)
        ending = self.runtime.default_headers.endings[0]
        if self._parser.get_method() == b"HEAD":
            body = b""  # RFC 9110 §9.3.2
        # RFC 9110 §7.8: Upgrade is named in Connection, too.
        connection = b"connection: close, upgrade\r\n" if error.status == 426 else b"connection: close\r\n"
        self._write(b"".join((STATUS_LINES[error.status], head, connection, ending, body)))
        self._linger()

    def _finish(self) -> None:
        """No further request will be answered; where the client may not know, it may be sending one."""
        if self._reading is not _NOTHING or self._discarded:
            self._linger()
        else:
            self._close()

    def _linger(self) -> None:
        """Close so that the client can still read its answer although we don't read its request (RFC 9112 §9.6)."""
        self._reading = _NOTHING
        self._receiving = None
        self._queue = None
        self._held = b""
        if self._transport.is_closing() or not self._transport.can_write_eof():
            self._close()
            return
        self._update_reading()
        self._transport.write_eof()
        self.deadline = self.runtime.now + LINGER
