"""One HTTP request and its response, between the wire and the application (ASGI HTTP, spec version 2.5).

The file knows no HTTP version: the wire feeds request events in, and takes response events out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import Enum
from http import HTTPStatus
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from outrider.errors import Aborted
from outrider.http_extensions import (
    ON_THE_WIRE,
    ClientDisconnected,
    ExtendedResponse,
    Response,
    Wire,
    stems_from_disconnect,
)
from outrider.runtime import cancel_call, name_request

if TYPE_CHECKING:
    from outrider.http1_encoding import HeaderPair
    from outrider.runtime import Message, Runtime, Scope, Spawn

__all__ = ["CLIENT_CLOSED_REQUEST", "HIGH_WATER", "ON_THE_WIRE", "ClientDisconnected", "HTTPStream", "Response", "Wire"]

HIGH_WATER = 65536
# What the access log shows for a client that left before there was a status; nginx's number, in no registry.
CLIENT_CLOSED_REQUEST = 499


class Request(Enum):
    """How much of the request has come. DELIVERED: the application has the end of the body."""

    RECEIVING = "receiving"
    RECEIVED = "received"
    DELIVERED = "delivered"


# Module names, because reaching through the Enum class costs a lookup on every message.
_RECEIVING, _RECEIVED, _DELIVERED = Request
_PENDING, _STARTED, _STREAMING, _, _TRAILING, _COMPLETE, _CUT = Response


class HTTPStream(ExtendedResponse):
    """One application call.

    `flags` belongs to the wire. `buffered` is the bytes of request body that wait for `receive()`;
    `expects_continue` holds until the client that waits for it has been sent a 100.
    """

    __slots__ = (
        "_body",
        "_headers",
        "_request",
        "_task",
        "_token",
        "_told_to_end",
        "_waiter",
        "buffered",
        "expects_continue",
        "flags",
        "started_ns",
    )

    _headers: Iterable[HeaderPair]
    _token: Any
    started_ns: int

    def __init__(self, runtime: Runtime, wire: Wire, scope: Scope, flags: int) -> None:
        self._runtime = runtime
        self._wire = wire
        self._body: list[bytes] | None = None
        self._request = _RECEIVING
        self._disconnected = False
        self._told_to_end = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.scope = scope
        self.flags = flags
        self.expects_continue = False
        self.response = _PENDING
        self.buffered = 0
        self.sent = 0

    # -- events from the wire

    def start(self, spawn: Spawn | None = None) -> None:
        """Call the application, in a task from `spawn`. The wire does so when it is this request's turn.

        With `Runtime.spawn_eagerly` the call may be over on return: not from within a callback of the parser, nor
        from within another call.
        """
        runtime = self._runtime
        self.started_ns = monotonic_ns()
        runtime.streams.add(self)
        try:
            self._task = (spawn or runtime.spawn)(self._run())
        except Aborted as aborted:  # from an eager start: a transport would take it for an error of its connection
            runtime.loop.call_soon(aborted.raise_again)

    def feed_body(self, data: bytes) -> None:
        """Take a piece of the request body; it is dropped once the response is over."""
        if self.response is _COMPLETE or self.response is _CUT:
            return
        self.expects_continue = False
        if self._body is None:
            self._body = [data]
        else:
            self._body.append(data)
        self.buffered += len(data)
        if self._waiter is not None:
            self._wake()

    def end_body(self) -> None:
        """The request is complete."""
        self._request = _RECEIVED
        if self._waiter is not None:
            self._wake()

    def disconnect(self, *, connection_lost: bool) -> None:
        """Tell the application that its client has gone (`http.disconnect`).

        With `connection_lost`, writing is over as well: `send()` raises from now on, and the call is cancelled when
        `asgi_disconnect_grace_period` has passed. Otherwise the client only stopped sending (a half-close, RFC 9112
        §9.6) and still gets its response.
        """
        self._told_to_end = True
        self._wake()
        if connection_lost and not self._disconnected:
            self._disconnected = True
            grace = self._runtime.config.disconnect_grace
            if self._task is None or self._task.done():
                return
            if grace > 0:
                self._runtime.loop.call_later(grace, self.cancel)
            else:
                self.cancel()

    def notify_drain(self, *, last_call: bool) -> None:
        """Tell a streaming response that the worker drains.

        The client of an event stream reconnects wherever it ends, so that is told at once; any other response is
        told only at the `last_call`, shortly before it would be cut.
        """
        if self.response is _STREAMING and (last_call or self._is_event_stream()):
            self._told_to_end = True
            self._wake()

    def cancel(self) -> None:
        """Cancel the application call, if it still runs."""
        cancel_call(self._runtime, self, self._task)

    # -- the application's side

    async def receive(self) -> Message:
        """ASGI `receive()`: `http.request` until the body is delivered, then `http.disconnect`."""
        while True:
            if self.response is _COMPLETE or self.response is _CUT:
                return {"type": "http.disconnect"}
            if self._body or self._request is _RECEIVED:
                return self._take_body()
            if self._told_to_end:
                return {"type": "http.disconnect"}
            if self.expects_continue and self.response not in ON_THE_WIRE:
                self.expects_continue = False
                self._wire.send_continue(self)
            if self._waiter is None:
                self._waiter = self._runtime.loop.create_future()
            # Shielded because a cancelled receive() must not take another one's future with it.
            await asyncio.shield(self._waiter)

    async def send(self, message: Message) -> None:
        """ASGI `send()`.

        Raises:
            ClientDisconnected: the client has gone.
            RuntimeError: a message out of order, or one that may not go on the wire.
        """
        kind = message["type"]
        response = self.response
        if self._disconnected:
            raise ClientDisconnected("the client has disconnected")
        if kind == "http.response.body" and (response is _STARTED or response is _STREAMING):
            body = message.get("body", b"")
            more = message.get("more_body", False)
            if type(body) is not bytes:
                body = bytes(memoryview(body))  # unlike bytes() alone, this refuses a number
            wire = self._wire
            unfinished = more or self._trailers is not None
            if response is _STARTED:
                wire.send_response(self, self._status, self._fields, body, unfinished)
            else:
                wire.send_body(self, body, unfinished)
            self.sent += len(body)
            if not unfinished:
                self._complete()
                return
            self.response = _STREAMING if more else _TRAILING
            if (writable := wire.wait_writable(self)) is not None:
                # Shielded for the same reason as in receive().
                await asyncio.shield(writable)
        elif kind == "http.response.start" and response is _PENDING:
            status = self._status = message["status"]
            if not 200 <= status <= 999:  # RFC 9110 §15: three digits, and 1xx is never final
                raise RuntimeError(f"{status!r} is no status of a final response (RFC 9110 §15)")
            self._headers = headers = message.get("headers", ())
            self._fields = fields = self._wire.encode(headers)
            self.response = _STARTED
            self._trailers = [] if "trailers" in message and message["trailers"] else None  # noqa: RUF019  # faster
            if fields[1] is None:
                # The first piece of a body without length may be long in coming: the head does not wait for it.
                self._send_head(b"", more=True)
        else:
            await self._send_extension(kind, message)

    def _send_head(self, body: bytes, more: bool) -> None:
        self._wire.send_response(self, self._status, self._fields, body, more)
        self.response = _STREAMING

    def _take_body(self) -> Message:
        body = self._body or ()
        data = body[0] if len(body) == 1 else b"".join(body)
        was_full = self.buffered > HIGH_WATER
        self._body = None
        self.buffered = 0
        if self._request is _RECEIVED:
            self._request = _DELIVERED
        elif was_full and not self._disconnected:
            self._wire.body_consumed(self)
        return {"type": "http.request", "body": data, "more_body": self._request is _RECEIVING}

    # -- inside

    async def _run(self) -> None:
        runtime = self._runtime
        observer = runtime.observer
        try:
            if observer is not None:
                self._token = None
                self._token = observer.started(self.scope)
            await runtime.app(self.scope, self.receive, self.send)
            if self.response is not _COMPLETE and not self._disconnected:
                self._fail("ASGI application returned without completing its response")
        except ClientDisconnected:
            runtime.log.debug("Client left during %s", name_request(self.scope))
        except asyncio.CancelledError:
            if self.response is not _COMPLETE and not self._disconnected:
                self._fail("Request cancelled", status=503)
        except Aborted:
            raise
        except BaseException as error:  # noqa: BLE001  # sys.exit() in a request must not end the service either
            self._fail("Exception in ASGI application", error)
        finally:
            runtime.streams.discard(self)
            if self.response is not _COMPLETE and self.response is not _CUT:
                self._account_for_disconnect()
            if runtime.draining:
                runtime.on_change()

    def _account_for_disconnect(self) -> None:
        """The client left before its response was complete: this exchange counts and is logged like any other."""
        if self.response is _PENDING:
            self._status = CLIENT_CLOSED_REQUEST
            self._headers = ()
        self.response = _CUT
        self._account()

    def _fail(self, reason: str, error: BaseException | None = None, *, status: int = 500) -> None:
        """Answer with an error, or cut the connection where the response has begun, so that the client can tell."""
        log = self._runtime.log
        if self._disconnected and error is not None and stems_from_disconnect(error):
            log.debug("Client left during %s", name_request(self.scope))
            return
        log.error("%s: %s", reason, name_request(self.scope), exc_info=error)
        if self._disconnected:
            return
        if self.response is _PENDING or self.response is _STARTED:
            body = HTTPStatus(status).phrase.encode()
            self._status = status
            self._headers = headers = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            self._fields = self._wire.encode(headers)
            self._send_head(body, more=False)
            self.sent = len(body)
            self._complete()
        elif self.response in ON_THE_WIRE:
            self.response = _CUT
            self._account()
            self._wire.cut(self)

    def _complete(self) -> None:
        self.response = _COMPLETE
        try:
            self._account()
            if self._waiter is not None:
                self._wake()
        finally:  # whatever a hook has raised, or the depth of the stack: the connection goes on
            self._wire.response_complete(self)

    def _account(self) -> None:
        """Count the exchange, and tell whoever watches; once, at its end."""
        runtime = self._runtime
        counters = runtime.counters
        counters.requests += 1
        if counters.requests == runtime.max_requests:
            runtime.on_max_requests()
        if self._status >= 500:
            counters.errors_5xx += 1
        meter = runtime.meter
        if meter is not None:
            meter.count(self.scope.get("method"), self._status, self.started_ns)
        observer = runtime.observer
        if observer is not None and self._token is not None:  # None: it raised on the start
            observer.finished(self._token, self.scope, self._status, self._headers, self.sent)

    def _is_event_stream(self) -> bool:
        return any(
            bytes(name).lower() == b"content-type" and bytes(value).lower().startswith(b"text/event-stream")
            for name, value in self._headers
        )

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.set_result(None)
