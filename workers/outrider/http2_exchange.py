"""One stream of an HTTP/2 connection (RFC 9113 §5): the wire of its HTTPStream, with flow control both ways."""

from __future__ import annotations

import math
from abc import abstractmethod
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from outrider.backpressure import BackpressureProtocol
from outrider.http1_encoding import InvalidResponse, wrong_length
from outrider.http1_rules import BadRequest
from outrider.http2_engine import EngineError, ErrorCode
from outrider.http2_fields import STATUS_FIELDS, encode_fields
from outrider.http_stream import HIGH_WATER, ON_THE_WIRE, Response
from outrider.runtime import HEAD

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine, Iterable

    from outrider.file_region import FileRegion
    from outrider.http1_encoding import HeaderPair
    from outrider.http2_engine import Engine
    from outrider.http2_fields import DefaultFields, Fields
    from outrider.http_stream import HTTPStream

FOREVER = math.inf
LOW_WATER = HIGH_WATER // 4
MOST_DISCARDED = 1 << 20

_COMPLETE = Response.COMPLETE
_CUT = Response.CUT
# Plain numbers: comparing with an IntEnum costs several times as much.
_BODILESS = frozenset((int(HTTPStatus.NO_CONTENT), int(HTTPStatus.NOT_MODIFIED)))
_NO_CONTENT = int(HTTPStatus.NO_CONTENT)
_CONTINUE = (STATUS_FIELDS[100],)


class Carrier(BackpressureProtocol):
    """What an exchange needs of its connection."""

    __slots__ = ("deadline", "default_fields", "engine", "finishing", "waiting")

    engine: Engine
    default_fields: DefaultFields
    deadline: float
    waiting: set[Exchange]
    """Exchanges whose application waits for the client's window."""
    finishing: set[Exchange]
    """Exchanges whose response is complete, and may still be on its way."""

    @abstractmethod
    def schedule_flush(self) -> None:
        """Write what the engine has to send, once everything that is to be done now is done."""

    @abstractmethod
    def flush(self) -> None:
        """Write what the engine has to send."""

    @abstractmethod
    def completed(self, exchange: Exchange) -> None:
        """Write a response that is complete, soon or at once."""

    @abstractmethod
    def refuse(self, exchange_id: int, error: BadRequest, *, is_head: bool) -> None:
        """Answer a request without the application."""

    @abstractmethod
    def reset(self, exchange_id: int, code: ErrorCode) -> None:
        """End a stream at once."""

    @abstractmethod
    def reset_when_sent(self, exchange_id: int) -> None:
        """End a stream whose response is complete, once that is written: take no more of what the client sends."""


class Exchange:
    """A request and its response. `id` is that of its HTTP/2 stream.

    `deadline` is when the client must have sent more of its request. `withheld` is the flow-control credit that it
    does not get back before the application has received.
    """

    __slots__ = (
        "_deadline",
        "_discarded",
        "_engine",
        "_has_body",
        "_has_ended",
        "_is_over",
        "_is_whole",
        "_left",
        "_mark",
        "_written",
        "carrier",
        "id",
        "stream",
        "withheld",
        "writable",
    )

    stream: HTTPStream

    def __init__(self, carrier: Carrier, exchange_id: int) -> None:
        self.carrier = carrier
        self.id = exchange_id
        self.withheld = 0
        self.writable: asyncio.Future[None] | None = None
        self._engine = carrier.engine
        self._deadline = FOREVER
        self._discarded = 0
        self._has_body = True
        self._has_ended = False
        self._is_over = False
        self._is_whole = True
        self._left = -1  # bytes of body by Content-Length; negative without one
        self._written = 0  # bytes of body that the engine was given
        self._mark: tuple[float, int] | None = None  # a time, and how many of them the client had taken by then

    @property
    def deadline(self) -> float:
        """When `expire` is to be called, by the runtime's clock."""
        return self._deadline

    @deadline.setter
    def deadline(self, when: float) -> None:
        self._deadline = when
        self.carrier.deadline = min(self.carrier.deadline, when)

    # -- what the stream calls

    encode = staticmethod(encode_fields)

    def send_informational(self, stream: HTTPStream, status: int, headers: Iterable[HeaderPair]) -> None:
        """Send an interim response (RFC 9110 §15.2).

        Raises:
            InvalidResponse: a field is invalid; nothing was sent.
        """
        self._inform((STATUS_FIELDS[status], *encode_fields(headers)[0]))

    def send_continue(self, stream: HTTPStream) -> None:
        """Send the interim response 100 (RFC 9110 §10.1.1) and start to expect the body."""
        self._inform(_CONTINUE)
        self.deadline = self._in(self.carrier.runtime.config.body_timeout)

    def send_response(self, stream: HTTPStream, status: int, fields: Fields, body: bytes, more: bool) -> None:
        """Send the head and the first piece of body.

        Raises:
            InvalidResponse: the body does not fit the Content-Length; nothing was sent.
        """
        headers, length, _, given = fields
        if status in _BODILESS or stream.flags & HEAD:
            self._has_body = False
            body = b""
            if status == _NO_CONTENT and length is not None:  # RFC 9110 §8.6
                headers = tuple(field for field in headers if field[0] != b"content-length")
        elif length is not None:
            left = length - len(body)
            if left < 0 or (left and not more):
                raise InvalidResponse(wrong_length(left))
            self._left = left
        head = (STATUS_FIELDS[status], *headers, *self.carrier.default_fields[given])
        self._has_ended = not more
        self._written += len(body)
        engine = self._engine
        try:
            if body:
                engine.respond(self.id, head)
                engine.send(self.id, body, end_stream=not more)
            else:
                engine.respond(self.id, head, end_stream=not more)
        except EngineError:
            return  # the client has reset the stream, which the next event tells of
        if more:
            self.carrier.schedule_flush()

    def send_body(self, stream: HTTPStream, body: bytes, more: bool) -> None:
        """Send another piece of body.

        Raises:
            InvalidResponse: it does not fit the Content-Length; nothing was sent.
        """
        if not self._has_body:
            body = b""
        elif self._left >= 0:
            left = self._left - len(body)
            if left < 0 or (left and not more):
                raise InvalidResponse(wrong_length(left))
            self._left = left
        if body or not more:
            self._send(body, is_last=not more)

    def send_file(self, stream: HTTPStream, region: FileRegion, more: bool) -> Coroutine[Any, Any, None] | None:
        """Have the stream read the file: it must be cut into frames."""
        return None

    def send_trailers(self, stream: HTTPStream, headers: Iterable[HeaderPair]) -> None:
        """End the message with trailers (RFC 9113 §8.1), or without any.

        Raises:
            InvalidResponse: a field is invalid, or the body is shorter than its Content-Length; nothing was sent.
        """
        fields = encode_fields(headers)[0]
        if self._has_body and self._left > 0:
            raise InvalidResponse(wrong_length(self._left))
        if not (fields and self._has_body):
            self._send(b"", is_last=True)
            return
        self._has_ended = True
        try:
            self._engine.send_trailers(self.id, fields)
        except EngineError:
            return  # as in send_response

    def response_complete(self, stream: HTTPStream) -> None:
        """Everything is with the engine; what is left of the request is taken for a while, and dropped."""
        if self._is_over:
            return
        if not self._is_whole:
            self.release()
            self.deadline = self._in(self.carrier.runtime.config.body_timeout)
        self.carrier.completed(self)

    def cut(self, stream: HTTPStream) -> None:
        """Reset the stream so that the client can tell that the response is incomplete."""
        self.reset(ErrorCode.INTERNAL_ERROR)

    def body_consumed(self, stream: HTTPStream) -> None:
        """The application has taken the buffered request body: the client may send on."""
        self.release()
        self.deadline = self._in(self.carrier.runtime.config.body_timeout)

    def wait_writable(self, stream: HTTPStream) -> asyncio.Future[None] | None:
        """A future to await before more is sent, or None when the client's window takes more now."""
        return self.wait_until_sent()

    def wait_until_sent(self) -> asyncio.Future[None] | None:
        """What `wait_writable` returns; it is `writable` then."""
        queued = self._engine.queued
        if queued(self.id) <= HIGH_WATER:
            return None
        self.carrier.flush()
        if queued(self.id) <= HIGH_WATER:
            return None
        if self.writable is None:
            self.writable = self.carrier.runtime.loop.create_future()
            self.carrier.waiting.add(self)
            self.carrier.schedule_flush()  # which sees to it that somebody watches
        return self.writable

    # -- what the connection calls

    def start(self) -> None:
        """Call the application."""
        self.stream.start(self.carrier.runtime.spawn_eagerly)

    def expect_body(self) -> None:
        """The request has a body, which is still to come."""
        self._is_whole = False
        self.deadline = FOREVER if self.stream.expects_continue else self._in(self.carrier.runtime.config.body_timeout)

    def feed(self, data: bytes, *, is_last: bool) -> None:
        """Take a piece of the request body."""
        stream = self.stream
        self._is_whole = is_last
        if self._has_ended:
            self._discard(data, is_last=is_last)
            return
        if data:
            stream.feed_body(data)
        if is_last:
            self.withheld += len(data)
            self.release()
            self._deadline = FOREVER
            stream.end_body()
        elif stream.buffered > HIGH_WATER:
            self.withheld += len(data)
            self._deadline = FOREVER
        else:
            self.consume(len(data))
            self._extend_deadline(len(data))

    def end(self) -> None:
        """The client has sent trailers: the request is complete. They are dropped, as those of HTTP/1.1."""
        self.feed(b"", is_last=True)

    def expire(self) -> None:
        """The deadline has passed: the body of the request did not arrive in time."""
        self._deadline = FOREVER
        response = self.stream.response
        if response is _COMPLETE:
            self.carrier.reset_when_sent(self.id)  # RFC 9113 §8.1: the rest of the request is not needed
        elif response in ON_THE_WIRE:
            self.reset(ErrorCode.CANCEL)
        else:
            self.stream.disconnect(connection_lost=True)
            is_head = bool(self.stream.flags & HEAD)
            self._has_ended = True
            self.carrier.finishing.add(self)
            self.carrier.refuse(self.id, BadRequest(408, "the request did not arrive in time"), is_head=is_head)

    def closed(self) -> bool:
        """The HTTP/2 stream has ended; whether that was before its response had."""
        self._is_over = True
        self.carrier.finishing.discard(self)
        if self.withheld:
            self.release()
        if self.writable is not None:
            self.wake()
        stream = self.stream
        del self.stream  # which refers to us: without this, each request would be garbage for the collector to find
        if self._has_ended or stream.response is _CUT:
            return False
        stream.disconnect(connection_lost=True)
        return True

    def wake(self) -> None:
        """There is room again, or nothing will be sent any more."""
        writable, self.writable = self.writable, None
        if writable is not None:
            self._mark = None
            self.carrier.waiting.discard(self)
            if not writable.done():
                writable.set_result(None)

    def mark_progress(self, now: float) -> None:
        """Begin to measure how fast the client takes the response."""
        self._mark = (now, self._written - self._engine.queued(self.id))

    def has_stalled(self, now: float, window: float, least: float) -> bool:
        """Whether the client took fewer than `least` bytes in `window` seconds, although there was more for it."""
        queued = self._engine.queued(self.id)
        # Where nothing is queued, the end of the stream is: that waits for the window as well.
        if self.writable is None and not (self._has_ended and (queued or self._is_whole)):
            return False
        taken = self._written - queued
        if self._mark is not None and now - self._mark[0] < window:
            return False
        mark, self._mark = self._mark, (now, taken)
        return mark is not None and taken - mark[1] < least

    def reset(self, code: ErrorCode) -> None:
        """End the HTTP/2 stream at once."""
        self.carrier.reset(self.id, code)

    # -- inside

    def consume(self, size: int) -> None:
        """Give flow-control credit back to the client."""
        if size:
            try:
                self._engine.consume(size, self.id)
            except EngineError:
                return
            self.carrier.schedule_flush()

    def release(self) -> None:
        """Give back all credit that is withheld."""
        size, self.withheld = self.withheld, 0
        self.consume(size)

    def _discard(self, data: bytes, *, is_last: bool) -> None:
        self.consume(len(data))
        self._discarded += len(data)
        if is_last:
            self._deadline = FOREVER
        elif self._discarded > MOST_DISCARDED:
            self.carrier.reset_when_sent(self.id)

    def _inform(self, fields: tuple[HeaderPair, ...]) -> None:
        try:
            self._engine.inform(self.id, fields)
        except EngineError:
            return
        self.carrier.schedule_flush()

    def _send(self, data: bytes, *, is_last: bool) -> None:
        self._has_ended = is_last
        self._written += len(data)
        try:
            self._engine.send(self.id, data, end_stream=is_last)
        except EngineError:
            return  # as in send_response
        if not is_last:
            self.carrier.schedule_flush()

    def _extend_deadline(self, size: int) -> None:
        """A piece of body earns the time that it may take at `min_body_rate`."""
        config = self.carrier.runtime.config
        timeout = config.body_timeout
        if timeout:
            credit = size / config.min_body_rate if config.min_body_rate else timeout
            self.deadline = min(self._deadline + credit, self.carrier.runtime.now + timeout)

    def _in(self, seconds: float) -> float:
        return self.carrier.runtime.now + seconds if seconds else FOREVER
