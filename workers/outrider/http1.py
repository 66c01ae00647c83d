"""HTTP/1.1 on one connection (RFC 9112): bytes to stream events through llhttp.

The parser's callbacks record; `on_headers_complete` starts a stream. Requests are answered in the order they came:
one stream runs, the others wait in a bounded queue. Every deadline is a number that the server's sweep compares;
there is no timer per request. How a response becomes bytes is in `http1_response`.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import httptools

from outrider.http1_encoding import STATUS_LINES, HeaderPair, encode_fields
from outrider.http1_head import interpret
from outrider.http1_llhttp import TAB, UNDERSCORE, bad_request, body_parser, is_odd
from outrider.http1_response import FOREVER, WRITE_HIGH_WATER, Reading
from outrider.http1_rules import BadRequest
from outrider.http1_upgrade import AnyStream, UpgradableConnection
from outrider.http_stream import HIGH_WATER, ON_THE_WIRE, HTTPStream, Response
from outrider.runtime import EXPECTS_CONTINUE, PERSISTENT, UPGRADE, name_peer
from outrider.tls_closing import is_flushed

if TYPE_CHECKING:
    import asyncio

    from outrider.runtime import ConnectionContext

LINGER = 2.0
MOST_DISCARDED = 1 << 20
MOST_QUEUED = 32
FEED_SLICE = 32768
MOST_FRAMING = 16384


_IDLE, _HEAD, _BODY, _HANDSHAKE, _NOTHING = Reading
_COMPLETE = Response.COMPLETE

_PARSER_STOPS = (httptools.HttpParserError, httptools.HttpParserUpgrade)
_CR = 0x0D
_KEEPALIVE_PROBES = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


# Where trailer fields go: nowhere. The fields of a request are complete with its head.
_TRAILERS = cast("list[HeaderPair]", deque(maxlen=0))


class HTTP1Connection(UpgradableConnection):
    """One client connection. The listener makes it; the transport and the server's sweep drive it."""

    __slots__ = (
        "_discarded",
        "_headers",
        "_held",
        "_later_odd",
        "_odd",
        "_overhead",
        "_queue",
        "_receiving",
        "_refusal",
        "_served",
        "_unstarted",
        "_url",
    )

    def __init__(self, context: ConnectionContext) -> None:
        super().__init__(context)
        self._url = b""
        self._headers: list[HeaderPair] = []
        self._overhead = 0
        self._discarded = 0
        self._odd = self._later_odd = False
        self._unstarted: AnyStream | None = None
        self._receiving: HTTPStream | None = None
        self._queue: deque[AnyStream] | None = None
        self._refusal: BadRequest | None = None
        self._held = b""
        self._served = False

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is open."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.deadline = self._deadline_in(self._config.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._reading = _NOTHING
        self._runtime.connections.discard(self)
        self._runtime.half_closed.discard(self)
        self._queue = None
        self.resume_writing()
        stream, self._active = self._active, None
        self._websocket = None
        if stream is not None:
            stream.disconnect(connection_lost=True)
        self._runtime.on_change()

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
        sock = cast("socket.socket", self._transport.get_extra_info("socket"))
        if sock.family != socket.AF_UNIX:
            # Only TCP can find out whether a half-closed client still exists.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE_PROBES:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self._runtime.half_closed.add(self)
        return True

    def resume_writing(self) -> None:
        """asyncio: the client has read enough for more."""
        super().resume_writing()
        if self._active is None and self._queue:
            self._next()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the client."""
        size = len(data)
        self._runtime.counters.bytes_in += size
        reading = self._reading
        if reading is _IDLE:
            if size <= self._config.short_head:
                # is_odd(data), without the call.
                self._odd = self._later_odd = UNDERSCORE in data or TAB in data or data.find(b" \r\n") >= 0
            else:
                # Only the first head is looked at; most often the rest is its body.
                end = data.find(b"\r\n\r\n", 0, self._config.short_head)
                # Empty lines may come before a head (RFC 9112 §2.2), and hide its end.
                self._odd = end < 0 or data[0] <= _CR or is_odd(data[: end + 2])
                self._later_odd = True
        elif reading is _NOTHING:
            self._discarded += size
            return
        elif reading is _HANDSHAKE:
            self._feed_websocket(data)
            return
        else:
            # A head may end, or after a body another may begin, whose earlier bytes were not looked at.
            self._odd = self._later_odd = True
            self._overhead += size
        if size <= FEED_SLICE:
            stop = None
            try:
                self._parser.feed_data(data)
            except _PARSER_STOPS as error:
                stop = error
            if stop is not None:
                self._handle_parser_stop(stop, data)
        else:
            self._feed_slices(data)
        stream = self._unstarted
        if stream is not None:
            self._unstarted = None
            stream.start(self._runtime.spawn_eagerly)
        if self._reading is not _IDLE:
            self._note_unfinished(reading, size)

    def _handle_parser_stop(self, stop: Exception, data: bytes | memoryview) -> None:
        """Go on behind an upgrade, where llhttp stops; refuse the request that it stopped in otherwise.

        Not to be called while `stop` is being handled: the next stop would take it for its cause.
        """
        while isinstance(stop, httptools.HttpParserUpgrade):
            data = memoryview(data)[stop.args[0] :]
            if self._websocket is not None:
                self._feed_websocket(bytes(data))
                return
            if self._unparsed_framing is not None:
                framing, self._unparsed_framing = self._unparsed_framing, None
                self._parser = body_parser(self, framing)
            try:
                self._parser.feed_data(data)
            except _PARSER_STOPS as next_stop:
                stop = next_stop
            else:
                return
        # Bytes after the last request that will be answered are no concern of ours.
        if self._reading is not _NOTHING:
            self._refuse(bad_request(stop, bytes(data)))

    def _feed_slices(self, data: bytes) -> None:
        """Feed a large read bit by bit, so that it can't fill the queue with thousands of small requests."""
        view = memoryview(data)
        for position in range(0, len(data), FEED_SLICE):
            if self._reading is _HANDSHAKE:
                self._feed_websocket(bytes(view[position:]))
                return
            if self._queue and len(self._queue) >= MOST_QUEUED:
                self._held = bytes(view[position:])
                self._update_reading()
                return
            part = view[position : position + FEED_SLICE]
            stop = None
            try:
                self._parser.feed_data(part)
            except _PARSER_STOPS as error:
                stop = error
            if stop is not None:
                self._handle_parser_stop(stop, part)

    def _note_unfinished(self, before: Reading, size: int) -> None:
        """After bytes that did not end a request: set its deadline, and hold it to its limits."""
        config = self._config
        if self._reading is _HEAD:
            if before is not _HEAD:
                self._overhead = min(size, FEED_SLICE)
                if self._active is None:
                    self.deadline = self._deadline_in(config.header_timeout)
            self._refuse_oversized_head()
        elif self._receiving is not None:
            if self._overhead > MOST_FRAMING:
                self._refuse(BadRequest(400, "chunk extensions or trailers outweigh the body"))
            elif self._paused or self._receiving.expects_continue:
                self.deadline = FOREVER
            elif before is not _BODY:
                self.deadline = self._deadline_in(config.body_timeout)
            elif config.body_timeout:
                credit = size / config.min_body_rate if config.min_body_rate else config.body_timeout
                self.deadline = min(self.deadline + credit, self._runtime.now + config.body_timeout)

    def _refuse_oversized_head(self) -> None:
        config = self._config
        line = config.limit_request_line
        complete = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
        field = config.limit_request_field_size
        if line and len(self._url) > line:
            self._refuse(BadRequest(414, "the request line is longer than limit_request_line"))
        elif len(self._headers) > config.limit_request_fields:
            self._refuse(BadRequest(431, "more header fields than limit_request_fields"))
        elif self._overhead > config.largest_head or (
            # The head began somewhere in the first read, so that one is allowed for.
            self._headers and field and self._overhead - complete > field + FEED_SLICE
        ):
            self._refuse(BadRequest(431, "a header field is larger than limit_request_field_size"))

    # -- what the parser calls

    def on_url(self, url: bytes) -> None:
        """httptools: a piece of the request target."""
        if self._reading is _NOTHING:
            raise BadRequest(400, "a request after the last one")
        self._url += url
        self._reading = _HEAD

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header field, or a trailer field once the body has begun."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """httptools: the head is complete. Start its stream, or queue it behind the one that runs."""
        scope, flags = interpret(self._context, self._parser, self._url, self._headers, self._odd)
        self._url = b""
        self._headers = _TRAILERS
        self._odd = self._later_odd
        self._overhead = 0
        most = self._config.limit_concurrency
        if most and len(self._runtime.streams) >= most:
            raise BadRequest(503, "limit_concurrency requests are in flight")
        stream: AnyStream | None = None
        if flags & UPGRADE:
            stream = self._begin_handshake(scope, flags)
        if stream is None:
            stream = self._receiving = HTTPStream(self._runtime, self, scope, flags)
            self._reading = _BODY
            if flags != PERSISTENT:
                self._plan_uncommon(stream)
        if self._active is None and self._writable is None:
            self._active = self._unstarted = stream
        elif self._queue is None:
            self._queue = deque((stream,))
        else:
            self._queue.append(stream)
            if len(self._queue) >= MOST_QUEUED:
                self._update_reading()

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of the request body."""
        stream = self._receiving
        if stream is None:
            return
        self._overhead = max(0, self._overhead - 16 * len(body))
        if stream.response is _COMPLETE:
            self._discarded += len(body)
            if self._discarded > MOST_DISCARDED:
                self._linger()
            return
        stream.feed_body(body)
        if stream.buffered > HIGH_WATER or self._queue:
            self._update_reading()

    def on_message_complete(self) -> None:
        """httptools: the request is complete, trailers included; those are dropped."""
        stream = self._receiving
        if stream is None or self._unparsed_framing is not None:
            return
        self._receiving = None
        self._headers = []
        self._reading = _IDLE if stream.flags & PERSISTENT else _NOTHING
        self.deadline = FOREVER
        stream.end_body()
        if self._paused:
            self._update_reading()
        if stream.response is _COMPLETE:
            self._discarded = 0
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
        if self._reading is _IDLE and not (self._queue or self._closing or self._runtime.draining):
            self.deadline = self._runtime.now + self._config.keepalive
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
            self.deadline = min(self.deadline, self._runtime.now + self._config.drain_linger)

    def expire(self) -> None:
        """The deadline has passed."""
        config = self._config
        if self._transport.is_closing():
            if self._context.tls is not None and is_flushed(self._transport):
                self._transport.abort()
                return
            self.deadline = self._closing_deadline()
            self.check_write_progress(self._runtime.now)
        elif self._websocket is not None and self._reading is _HANDSHAKE:
            self._websocket.expire()
        elif self._reading is _HEAD or self._reading is _BODY:
            self._refuse(BadRequest(408, "the request did not arrive in time"))
        elif self._reading is _IDLE and self._writable is not None:
            # Not idle yet: the client still reads the last response.
            self.deadline = self._deadline_in(config.keepalive)
        elif self._reading is _IDLE and self._poll(select.POLLIN):
            # A request is here, and the loop was too busy to read it: the next sweep finds it read.
            self.deadline = self._runtime.now
        else:
            self._close()

    def check_client(self) -> None:
        """Look whether a half-closed client has gone for good: the transport reads no more, so it can't tell."""
        if self._poll(0):  # an error and a hang-up are always reported
            self.abort()

    # -- inside

    def _plan_uncommon(self, stream: HTTPStream) -> None:
        """What is special about a request that is not an everyday one."""
        if stream.flags & EXPECTS_CONTINUE:
            stream.expects_continue = True
        if stream.flags & UPGRADE:
            stream.flags = self._plan_upgrade(stream.scope["headers"], stream.flags)

    def _poll(self, events: int) -> bool:
        """Whether the socket has one of these events, or is broken, at this moment."""
        sock = cast("socket.socket", self._transport.get_extra_info("socket"))
        poll = select.poll()
        poll.register(sock.fileno(), events)
        return bool(poll.poll(0))

    def _next(self) -> None:
        """Nothing is being answered: take the next request from the queue, or wait for one."""
        if self._queue:
            if self._writable is not None:
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
            idle = min(config.keepalive, config.drain_linger) if self._runtime.draining else config.keepalive
            self.deadline = self._runtime.now + idle
        else:
            self.deadline = self._deadline_in(self._config.header_timeout)

    def _is_last(self, stream: HTTPStream) -> bool:
        runtime = self._runtime
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
                held, self._held = self._held, b""
                before = self._reading
                self._feed_slices(held)
                unstarted, self._unstarted = self._unstarted, None
                if unstarted is not None:
                    unstarted.start()
                if self._reading is not _IDLE:
                    self._note_unfinished(before, len(held))

    def _queue_is_full(self) -> bool:
        queue = self._queue or ()
        return len(queue) >= MOST_QUEUED or sum(stream.buffered for stream in queue) > HIGH_WATER

    def _refuse(self, error: BadRequest) -> None:
        """Answer with an error of our own once the requests before it are answered, and read no more."""
        self._runtime.log.warning("Refused a request from %s: %s", name_peer(self.client), error)
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
        body = HTTPStatus(error.status).phrase.encode()
        fields = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), *error.fields]
        head, *_ = encode_fields(fields)
        ending = self._runtime.default_headers.endings[0]
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
        self.deadline = self._runtime.now + LINGER
