"""HTTP/1.1 on one connection (RFC 9112): bytes to stream events through llhttp.

The parser's callbacks record; `on_headers_complete` starts a stream, or queues it. Whose turn it is, and how the
connection ends, is in `http1_pipeline`; how a response becomes bytes is in `http1_response`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from outrider.http1_head import interpret
from outrider.http1_llhttp import TAB, UNDERSCORE, bad_request, body_parser, is_odd
from outrider.http1_pipeline import MOST_QUEUED
from outrider.http1_response import FOREVER, WRITE_HIGH_WATER, Reading
from outrider.http1_rules import BadRequest
from outrider.http1_upgrade import UpgradableConnection
from outrider.http_stream import HIGH_WATER, HTTPStream, Response
from outrider.runtime import EXPECTS_CONTINUE, PERSISTENT, UPGRADE

if TYPE_CHECKING:
    import asyncio

    from outrider.http1_encoding import HeaderPair
    from outrider.http1_pipeline import AnyStream
    from outrider.runtime import ConnectionContext

MOST_DISCARDED = 1 << 20
FEED_SLICE = 32768
MOST_FRAMING = 16384

_IDLE, _HEAD, _BODY, _HANDSHAKE, _NOTHING = Reading
_COMPLETE = Response.COMPLETE

_PARSER_STOPS = (httptools.HttpParserError, httptools.HttpParserUpgrade)
_CR = 0x0D
# Where trailer fields go: nowhere. The fields of a request are complete with its head.
_TRAILERS = cast("list[HeaderPair]", deque(maxlen=0))


class HTTP1Connection(UpgradableConnection):
    """One client connection. The listener makes it; the transport and the server's sweep drive it."""

    __slots__ = ("_later_odd", "_odd", "_overhead", "_url")

    def __init__(self, context: ConnectionContext) -> None:
        super().__init__(context)
        self._url = b""
        self._overhead = 0
        self._odd = self._later_odd = False

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is open."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.deadline = self._deadline_in(self._config.header_timeout)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the client."""
        size = len(data)
        self.runtime.counters.bytes_in += size
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
                stop = error.with_traceback(None)  # which refers to this frame, and so to `stop`
            if stop is not None:
                self._handle_parser_stop(stop, data)
        else:
            self._feed_slices(data)
        stream = self._unstarted
        if stream is not None:
            self._unstarted = None
            stream.start(self.runtime.spawn_eagerly)
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
                stop = next_stop.with_traceback(None)
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
                stop = error.with_traceback(None)
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
                self.deadline = min(self.deadline + credit, self.runtime.now + config.body_timeout)

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
        if most and len(self.runtime.streams) >= most:
            raise BadRequest(503, "limit_concurrency requests are in flight")
        stream: AnyStream | None = None
        if flags & UPGRADE:
            stream = self._begin_handshake(scope, flags)
        if stream is None:
            stream = self._receiving = HTTPStream(self.runtime, self, scope, flags)
            self._reading = _BODY
            if flags != PERSISTENT:
                self._plan_uncommon(stream)
        if self._active is None and self.writable is None:
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

    # -- inside

    def _plan_uncommon(self, stream: HTTPStream) -> None:
        """What is special about a request that is not an everyday one."""
        if stream.flags & EXPECTS_CONTINUE:
            stream.expects_continue = True
        if stream.flags & UPGRADE:
            stream.flags = self._plan_upgrade(stream.scope["headers"], stream.flags)

    def _feed_held(self) -> None:
        held, self._held = self._held, b""
        before = self._reading
        self._feed_slices(held)
        unstarted, self._unstarted = self._unstarted, None
        if unstarted is not None:
            unstarted.start()
        if self._reading is not _IDLE:
            self._note_unfinished(before, len(held))
