"""The server's end of an open WebSocket (RFC 6455 §5 to §7), over whatever moves its bytes. No ASGI here.

Messages, keep-alive and the closing handshake are here; what to do with a message is for the subclass to say.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from outrider.runtime import name_request
from outrider.websocket_deflate import LEAST_COMPRESSED, Agreement, Compressor, Inflater
from outrider.websocket_frames import (
    ABNORMAL_CLOSURE,
    COMPRESSED,
    FINAL,
    INTERNAL_ERROR,
    PING,
    PONG,
    SERVICE_RESTART,
    FrameReader,
    WebSocketError,
    encode_close,
    encode_frame,
    encode_header,
)
from outrider.websocket_keepalive import FOREVER, KeepAlive, Step

if TYPE_CHECKING:
    import asyncio

    from outrider.config import WebSocketConfig
    from outrider.runtime import Runtime, Scope

# A larger payload is handed to the wire as it is: joining it to its header would copy it.
JOINED_PAYLOAD = 8192
# A drain closes so many a second, for their clients not to reconnect all at once.
CLOSED_PER_SECOND = 100
# What a drain may take of graceful_timeout for that; its last call comes a little later.
DRAIN_SHARE = 0.7


class Channel(Protocol):
    """What moves the bytes of one WebSocket, once that is open.

    `deadline` is set by the WebSocket, in seconds of the runtime's clock; the channel calls `expire` once it has
    passed. `writable` is None while more may be written, else resolved when there is room again or the connection is
    gone. `close` ends the sending side when everything is written; with `linger` the client may still be sending,
    which is thrown away. The channel calls `disconnect` in any case, when all is over.
    """

    deadline: float
    writable: asyncio.Future[None] | None

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self, *, linger: bool) -> None: ...
    def abort(self) -> None: ...


class State(Enum):
    """How far the WebSocket is. DENYING: the application answers with an HTTP response. CLOSING: Close was sent.

    LOST: the client has gone, and what it sent before is still being read.
    """

    CONNECTING = "connecting"
    DENYING = "denying"
    OPEN = "open"
    CLOSING = "closing"
    LOST = "lost"
    CLOSED = "closed"


# Module names, because reaching through the Enum class costs a lookup on every message.
_CONNECTING, _DENYING, _OPEN, _CLOSING, _LOST, _CLOSED = State


class Endpoint:
    """What the client of an open WebSocket talks to; a `websocket_frames.Receiver`."""

    __slots__ = (
        "_channel",
        "_close_with",
        "_compressor",
        "_early",
        "_keep_alive",
        "_late_pong",
        "_leave_at",
        "_reader",
        "_runtime",
        "_state",
        "config",
        "scope",
    )

    # Since the WebSocket is open.
    _channel: Channel
    _reader: FrameReader
    _keep_alive: KeepAlive

    def __init__(self, runtime: Runtime, config: WebSocketConfig, scope: Scope) -> None:
        self._runtime = runtime
        self._state = _CONNECTING
        self._early = b""
        self._compressor: Compressor | None = None
        self._close_with = (ABNORMAL_CLOSURE, "")
        self._late_pong: bytes | None = None
        self._leave_at = FOREVER
        self.config = config
        self.scope = scope

    # -- what the channel calls

    @property
    def buffered(self) -> int:
        """Bytes that have come before the WebSocket was open."""
        return len(self._early)

    def feed(self, data: bytes) -> None:
        """Take bytes from the client; those that come before the WebSocket is open wait for that."""
        state = self._state
        if state is _OPEN or state is _CLOSING:
            self._keep_alive.heard = True
            try:
                self._reader.feed(data)
            except WebSocketError as error:
                self._on_error(error)
        elif state is _CONNECTING:
            self._early += data

    # -- what the server calls

    def notify_drain(self, *, last_call: bool) -> None:
        """Close with 1012, for the client to connect to another worker: soon, or at the `last_call` at once."""
        if self._state is not _OPEN:
            return
        runtime = self._runtime
        if last_call:
            self._begin_close(SERVICE_RESTART, "")
        elif self._leave_at == FOREVER:
            span = min(runtime.websockets / CLOSED_PER_SECOND, runtime.config.graceful_timeout * DRAIN_SHARE)
            self._leave_at = runtime.now + span * random.random()  # noqa: S311  # spreads load, guards nothing
            self._channel.deadline = min(self._channel.deadline, self._leave_at)

    # -- what the reader tells

    @abstractmethod
    def on_message(self, payload: str | bytes) -> None:
        """A message is complete."""

    def on_ping(self, payload: bytes) -> None:
        """Answer with a pong. While the client does not read, only the last ping counts (RFC 6455 §5.5.3)."""
        if self._state is not _OPEN:
            return
        writable = self._channel.writable
        if writable is None:
            self._channel.write(encode_frame(FINAL | PONG, payload))
            return
        if self._late_pong is None:
            writable.add_done_callback(self._send_late_pong)
        self._late_pong = payload

    def on_pong(self, payload: bytes) -> None:
        """That something has come is all there is to know."""

    def on_close(self, code: int, reason: str) -> None:
        """The client closes, or answers our Close: the closing handshake is complete (RFC 6455 §7.1.2)."""
        if self._state is _OPEN:
            self._channel.write(encode_close(code, ""))
        self._close_channel(code, reason, linger=False)

    def on_turn_over(self) -> None:
        """The client has sent many frames at once: other connections have their turn before the rest."""
        if self._state is not _CLOSED:
            self._channel.pause_reading()
            self._runtime.loop.call_soon(self._begin_turn)

    # -- what the subclass uses

    def _open(self, channel: Channel, agreement: Agreement | None) -> None:
        """The handshake is done, with permessage-deflate where that was agreed upon."""
        runtime = self._runtime
        config = self.config
        self._channel = channel
        self._reader = FrameReader(self, config.max_message_size, Inflater() if agreement else None)
        if agreement:
            self._compressor = Compressor(agreement)
        interval = config.ping_interval
        # Clients that connect all at once are not pinged all at once.
        since = runtime.now - interval / 2 * random.random()  # noqa: S311  # spreads load, guards nothing
        self._keep_alive = KeepAlive(interval, config.ping_timeout, since)
        channel.deadline = self._keep_alive.deadline
        self._state = _OPEN
        runtime.websockets += 1

    def _write_message(self, first: int, payload: bytes) -> None:
        """Write a message that is too long for a header of two bytes, compressed where that was agreed upon."""
        if self._compressor is not None and len(payload) >= LEAST_COMPRESSED:
            payload = self._compressor.compress(payload)
            first |= COMPRESSED
        if len(payload) <= JOINED_PAYLOAD:
            self._channel.write(encode_frame(first, payload))
        else:
            self._channel.write(encode_header(first, len(payload)))
            self._channel.write(payload)

    def _pause_reading(self) -> None:
        self._reader.paused = True
        self._channel.pause_reading()

    def _resume_reading(self) -> None:
        try:
            self._reader.resume()
        except WebSocketError as error:
            self._on_error(error)
        if self._state is _CLOSED or self._reader.has_stopped:
            return
        if self._state is _LOST:
            self._finish(*self._close_with)
        else:
            self._channel.resume_reading()

    def _keep_going(self) -> None:
        """The deadline of an open WebSocket: ping, give the client up, or leave, as is due."""
        runtime = self._runtime
        channel = self._channel
        if runtime.now >= self._leave_at:
            self._begin_close(SERVICE_RESTART, "")
            return
        step = self._keep_alive.step(runtime.now, listens=not self._reader.paused)
        if step is Step.GIVE_UP:
            reason = "no answer to a ping"
            channel.write(encode_close(INTERNAL_ERROR, reason))
            self._finish(ABNORMAL_CLOSURE, reason)
            channel.close(linger=False)
            return
        if step is Step.PING:
            if self._compressor is not None:
                self._compressor.release()
            if channel.writable is None:
                channel.write(encode_frame(FINAL | PING, b""))
        channel.deadline = min(self._keep_alive.deadline, self._leave_at)

    def _begin_close(self, code: int, reason: str) -> None:
        """Send Close, and wait for the client's; messages that are on their way still count."""
        self._channel.write(encode_close(code, reason))
        self._close_with = (code, reason)
        self._state = _CLOSING
        self._channel.deadline = self._runtime.now + (self.config.close_timeout or FOREVER)

    def _lose(self) -> None:
        """The client has gone: nothing more goes out, and it is over when what has come is read.

        A transport may tell of the end although it was paused: that of uvloop does, over TLS.
        """
        state = self._state
        if (state is _OPEN or state is _CLOSING or state is _LOST) and self._reader.has_stopped:
            self._state = _LOST
        else:
            self._finish(*self._close_with)

    def _finish(self, code: int, reason: str) -> None:
        """Nothing more goes in or out."""
        state = self._state
        if state is _CLOSED:
            return
        self._state = _CLOSED
        self._early = b""
        if state is _OPEN or state is _CLOSING or state is _LOST:
            self._runtime.websockets -= 1
            self._reader.paused = True
            del self._reader  # it refers to us
            self._compressor = None
        self._on_finish(code, reason)

    @abstractmethod
    def _on_finish(self, code: int, reason: str) -> None:
        """The WebSocket has ended, with this code and reason (RFC 6455 §7.1.5)."""

    def _on_error(self, error: WebSocketError) -> None:
        """The client broke the protocol or a limit."""
        self._fail_connection(error)

    def _fail_connection(self, error: WebSocketError) -> None:
        """End a WebSocket whose client broke the protocol or a limit (RFC 6455 §7.1.7)."""
        self._runtime.log.info("Closed a WebSocket with %d: %s: %s", error.code, error, name_request(self.scope))
        if self._state is _OPEN:
            self._channel.write(encode_close(error.code, error.reason))
        self._close_channel(error.code, error.reason, linger=True)

    # -- inside

    def _close_channel(self, code: int, reason: str, *, linger: bool) -> None:
        """End with this code and reason, unless another Close came before."""
        is_lost = self._state is _LOST
        if self._close_with[0] == ABNORMAL_CLOSURE:
            self._close_with = (code, reason)
        self._finish(*self._close_with)
        if not is_lost:
            self._channel.close(linger=linger)

    def _begin_turn(self) -> None:
        if self._state is _CLOSED:
            return
        self._reader.begin_turn()
        if not self._reader.paused:
            self._resume_reading()

    def _send_late_pong(self, _: asyncio.Future[None]) -> None:
        payload, self._late_pong = self._late_pong, None
        if payload is not None:
            self.on_ping(payload)
