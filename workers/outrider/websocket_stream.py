"""One WebSocket between a wire and the application (ASGI WebSocket, spec version 2.5; RFC 6455, RFC 7692).

The file knows no HTTP version. The wire moves bytes: over HTTP/1.1 those behind the response 101, over HTTP/2 those in
DATA frames (RFC 8441). Until the application has accepted, the wire is that of an HTTP request, which may be denied.
"""

from __future__ import annotations

import asyncio
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Protocol, cast

from outrider.errors import Aborted
from outrider.http_extensions import ClientDisconnected, Wire, stems_from_disconnect
from outrider.http_stream import HIGH_WATER
from outrider.runtime import cancel_call, name_request
from outrider.websocket_deflate import negotiate
from outrider.websocket_denial import Denial
from outrider.websocket_endpoint import Channel, Endpoint, State
from outrider.websocket_frames import (
    ABNORMAL_CLOSURE,
    INTERNAL_ERROR,
    MOST_IN_CONTROL,
    NO_STATUS,
    NORMAL_CLOSURE,
    SERVICE_RESTART,
    SHORT_HEADERS,
    WHOLE_BINARY,
    WHOLE_TEXT,
    WebSocketError,
    may_be_sent,
)
from outrider.websocket_handshake import extension_offers, response_fields
from outrider.websocket_keepalive import FOREVER

if TYPE_CHECKING:
    from outrider.config import WebSocketConfig
    from outrider.http1_encoding import HeaderPair
    from outrider.runtime import Message, Runtime, Scope, Spawn

# What websocket_max_queue = 0 amounts to; the bytes of the messages are limited in any case.
MOST_WAITING = 1024


class HandshakeWire(Wire, Protocol):
    """What a stream asks of its connection before the application has accepted.

    `deadline` is set by the stream, in seconds of the runtime's clock; the wire calls `expire` once it has passed.
    """

    deadline: float

    def accept_websocket(self, stream: WebSocketStream, headers: list[HeaderPair]) -> Channel: ...


_AFTER_ACCEPT = ("websocket.send", "websocket.http.response.body")

# Module names, because reaching through the Enum class costs a lookup on every message.
_CONNECTING, _DENYING, _OPEN, _CLOSING, _LOST, _CLOSED = State
_ENDING = (_CLOSING, _LOST, _CLOSED)


class WebSocketStream(Endpoint):
    """One application call. `flags` belongs to the wire; `sent` is bytes of messages before compression.

    `_waiting` is the size of the messages that wait for `receive()`.
    """

    __slots__ = (
        "_denial",
        "_end",
        "_headers",
        "_is_gone",
        "_messages",
        "_offers",
        "_task",
        "_token",
        "_waiter",
        "_waiting",
        "_wire",
        "flags",
        "sent",
        "started_ns",
    )

    _headers: list[HeaderPair] | None
    _task: asyncio.Task[None] | None
    started_ns: int

    def __init__(
        self, runtime: Runtime, config: WebSocketConfig, wire: HandshakeWire, scope: Scope, flags: int
    ) -> None:
        super().__init__(runtime, config, scope)
        self._wire: HandshakeWire | None = wire
        self._offers = extension_offers(scope["headers"])
        # A list, for it is short and an empty deque holds 600 bytes.
        self._messages: list[Message] = [{"type": "websocket.connect"}]
        self._waiting = 0
        self._waiter: asyncio.Future[None] | None = None
        # What comes behind the messages: the end, or the error that will be the end.
        self._end: Message | WebSocketError | None = None
        self._denial: Denial | None = None
        self._headers = None
        self._task = None
        self._token: Any = None
        self._is_gone = False
        self.flags = flags
        self.sent = 0

    # -- events from the wire

    def start(self, spawn: Spawn | None = None) -> None:
        """Call the application, in a task from `spawn`; as `HTTPStream.start`."""
        runtime = self._runtime
        self.started_ns = monotonic_ns()
        runtime.streams.add(self)
        if self._wire is not None:
            timeout = self.config.handshake_timeout
            self._wire.deadline = runtime.now + timeout if timeout else FOREVER
        try:
            self._task = (spawn or runtime.spawn)(self._run())
        except Aborted as aborted:  # from an eager start: a transport would take it for an error of its connection
            runtime.loop.call_soon(aborted.raise_again)

    def disconnect(self, *, connection_lost: bool = True) -> None:
        """The connection is gone, or the client sends no more without having said Close; which is the same here."""
        if self._denial is not None:
            self._denial.disconnect(connection_lost=True)
        self._lose()
        if not self._is_gone:
            self._is_gone = True
            self._begin_grace()

    def expire(self) -> None:
        """The wire's deadline has passed."""
        if isinstance(self._end, WebSocketError):
            self._fail_connection(self._end)
        elif self._state is _OPEN:
            self._keep_going()
        elif self._state is _CLOSING:
            self._finish(*self._close_with)
            self._channel.abort()
        elif self._state is _CONNECTING and self._wire is not None:
            self._wire.deadline = FOREVER
            self._runtime.log.warning("websocket_handshake_timeout is over: %s", name_request(self.scope))
            self.cancel()

    def cancel(self) -> None:
        """Cancel the application call, if it still runs."""
        cancel_call(self._runtime, self, self._task)

    # -- the application's side

    async def receive(self) -> Message:
        """ASGI `receive()`: `websocket.connect`, then what comes, then `websocket.disconnect`."""
        messages = self._messages
        while not messages:
            if self._end is not None:
                return self._take_end(self._end)
            waiter = self._waiter
            if waiter is None or waiter.done():
                waiter = self._waiter = self._runtime.loop.create_future()
                await waiter
            else:
                await asyncio.wait((waiter,))
        message = messages.pop(0)
        if messages:
            self._waiting -= len(message.get("text") or message.get("bytes") or b"")
        else:
            self._waiting = 0
        state = self._state
        is_read = state is _OPEN or state is _CLOSING or state is _LOST
        if is_read and self._reader.paused and self._has_room(share=0.5):
            self._resume_reading()
        return message

    async def send(self, message: Message) -> None:
        """ASGI `send()`.

        Raises:
            ClientDisconnected: the client has gone, or the WebSocket is closed.
            RuntimeError: a message out of order, or one that may not go on the wire.
        """
        if message["type"] == "websocket.send" and self._state is _OPEN:
            payload = message.get("bytes")
            if payload is None:
                first = WHOLE_TEXT
                payload = message["text"].encode()
            else:
                first = WHOLE_BINARY
                if type(payload) is not bytes:
                    payload = bytes(memoryview(payload))  # unlike bytes() alone, this refuses a number
            size = len(payload)
            self.sent += size
            channel = self._channel
            if size <= MOST_IN_CONTROL:
                channel.write(SHORT_HEADERS[first][size] + payload)
            else:
                self._write_message(first, payload)
            if channel.writable is not None:
                # Shielded because a cancelled send() must not take another one's future with it.
                await asyncio.shield(channel.writable)
        else:
            await self._send_uncommon(message)

    async def _send_uncommon(self, message: Message) -> None:
        kind = message["type"]
        state = self._state
        if state is _CONNECTING and kind == "websocket.accept":
            self._accept(message)
        elif state is _CONNECTING and kind == "websocket.close":
            self._state = _DENYING
            await self._deny().refuse()
            self._end_denial()
        elif (state is _CONNECTING and kind == "websocket.http.response.start") or (
            state is _DENYING and kind == "websocket.http.response.body"
        ):
            self._state = _DENYING
            await self._deny().send_part(message)
            self._end_denial()
        elif state is _OPEN and kind == "websocket.close":
            self._close(message.get("code") or NORMAL_CLOSURE, message.get("reason") or "")
        elif kind != "websocket.close" and (self._is_gone or (kind in _AFTER_ACCEPT and state in (_CLOSING, _CLOSED))):
            raise ClientDisconnected("the WebSocket is closed")
        elif kind != "websocket.close" or state is _DENYING:
            raise RuntimeError(f"{kind!r} was sent while the WebSocket was {state.value}")

    def _accept(self, message: Message) -> None:
        runtime = self._runtime
        agreement = negotiate(self._offers) if self.config.per_message_deflate else None
        given = list(message.get("headers") or ())
        fields = response_fields(given, message.get("subprotocol"), agreement and agreement.response)
        wire = cast("HandshakeWire", self._wire)
        channel = wire.accept_websocket(self, fields)
        self._wire = None
        self._headers = given
        self._open(channel, agreement)
        counters = runtime.counters
        counters.requests += 1
        counters.websockets += 1
        if counters.requests == runtime.max_requests:
            runtime.on_max_requests()
        early, self._early = self._early, b""
        if early:
            self.feed(early)
            if len(early) > HIGH_WATER and self._state is _OPEN and not self._reader.has_stopped:
                channel.resume_reading()

    def _deny(self) -> Denial:
        if self._denial is None:
            wire = cast("HandshakeWire", self._wire)
            wire.deadline = FOREVER
            self._early = b""
            self._denial = self._make_denial(wire)
        return self._denial

    def _make_denial(self, wire: Wire) -> Denial:
        return Denial(self._runtime, wire, self.scope, self.flags, self._token, self.started_ns)

    def _end_denial(self) -> None:
        if self._denial is not None and self._denial.is_complete:
            self._finish(ABNORMAL_CLOSURE, "")

    def _close(self, code: int, reason: str) -> None:
        """The application closes: what the client sends from now on is thrown away."""
        if code != NO_STATUS and not may_be_sent(code):
            raise RuntimeError(f"{code!r} is no close code that may be sent (RFC 6455 §7.4)")
        self._begin_close(code, reason)
        self._messages.clear()
        self._waiting = 0
        self._end = _disconnect_message(code, reason)
        self._wake()
        if self._reader.paused:
            self._resume_reading()

    # -- what the reader tells

    def on_message(self, payload: str | bytes) -> None:
        """A message is complete."""
        if self._end is not None:
            return
        messages = self._messages
        kind = "text" if type(payload) is str else "bytes"
        messages.append({"type": "websocket.receive", kind: payload})
        self._waiting += len(payload)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if (len(messages) > 1 or len(payload) > HIGH_WATER) and not self._has_room(share=1):
            self._pause_reading()

    # -- inside

    def _begin_grace(self) -> None:
        """The client has gone: the call may go on for a while, which begins anew while it receives what is left."""
        if self._task is not None and not self._task.done():
            grace = self._runtime.config.disconnect_grace
            self._runtime.loop.call_later(grace, self._end_grace, next(iter(self._messages), None))

    def _end_grace(self, first: Message | None) -> None:
        if next(iter(self._messages), None) is first:
            self.cancel()
        else:
            self._begin_grace()

    def _has_room(self, share: float) -> bool:
        """Whether less waits for the application than this share of what may."""
        most = self.config.max_queue or MOST_WAITING
        has_room = len(self._messages) < max(1, most * share) and self._waiting <= HIGH_WATER * share
        return has_room and not isinstance(self._end, WebSocketError)

    def _on_error(self, error: WebSocketError) -> None:
        """The application first answers what came before the error: the client may tell by that what went wrong."""
        if self._messages and self._state is _OPEN and self._end is None:
            self._end = error
            self._pause_reading()
            self._channel.deadline = self._runtime.now + (self.config.close_timeout or FOREVER)
        else:
            self._fail_connection(error)

    def _take_end(self, end: Message | WebSocketError) -> Message:
        if isinstance(end, WebSocketError):
            self._fail_connection(end)
            return _disconnect_message(end.code, end.reason)
        return dict(end)

    def _on_finish(self, code: int, reason: str) -> None:
        """The application gets what is left, then `websocket.disconnect`."""
        if not isinstance(self._end, dict):
            self._end = _disconnect_message(code, reason)
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _run(self) -> None:
        runtime = self._runtime
        observer = runtime.observer
        try:
            if observer is not None:
                self._token = observer.started(self.scope)
            await runtime.app(self.scope, self.receive, self.send)
            if self._state is _OPEN:
                self._close(NORMAL_CLOSURE, "")
            elif self._state is _CONNECTING or self._state is _DENYING:
                self._fail("ASGI application returned without accepting or denying")
        except asyncio.CancelledError:
            if self._state not in _ENDING:
                self._fail("WebSocket cancelled", status=503)
        except Aborted:
            raise
        except BaseException as error:  # noqa: BLE001  # sys.exit() in a call must not end the service either
            if self._state in _ENDING and stems_from_disconnect(error):
                runtime.log.debug("Client left during %s", name_request(self.scope))
            else:
                self._fail("Exception in ASGI application", error)
        finally:
            runtime.streams.discard(self)
            self._account()
            if runtime.draining:
                runtime.on_change()

    def _fail(self, reason: str, error: BaseException | None = None, *, status: int = 500) -> None:
        """The application has failed: deny what it has not accepted, close what it has."""
        if self._state is _CONNECTING or self._state is _DENYING:
            self._deny().fail(reason, error, status)
            self._finish(ABNORMAL_CLOSURE, "")
            return
        self._runtime.log.error("%s: %s", reason, name_request(self.scope), exc_info=error)
        if self._state is _OPEN and self._runtime.draining:
            self._close(SERVICE_RESTART, "")
        elif self._state is _OPEN:
            self._runtime.counters.errors_5xx += 1  # what a canary is judged by
            self._close(INTERNAL_ERROR, "")

    def _account(self) -> None:
        """Tell whoever watches how it went; once, at the end of the call."""
        if self._state is _LOST:  # what is left to receive is for nobody
            self._finish(*self._close_with)
        if self._headers is None:
            if self._denial is None and self._wire is not None:
                self._denial = self._make_denial(self._wire)
            if self._denial is not None:
                self._denial.abandon()
            return
        observer = self._runtime.observer
        if observer is not None and self._token is not None:  # None: it raised on the start
            observer.finished(self._token, self.scope, 101, self._headers, self.sent, self._close_with[0])


def _disconnect_message(code: int, reason: str) -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}
