"""One WebSocket between a fake wire and an application that the test drives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outrider.http1_encoding import encode_fields
from outrider.websocket_handshake import websocket_scope
from outrider.websocket_stream import WebSocketStream
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes.application import Call, DrivenApp
from outrider_testing.fakes.client import Client
from outrider_testing.fakes.exchange import FakeObserver, FakeWire
from outrider_testing.fakes.log import FakeLog
from outrider_testing.fakes.runtime import make_runtime

if TYPE_CHECKING:
    import asyncio

    from outrider.http1_encoding import HeaderPair
    from outrider.runtime import Message
    from outrider_testing.fakes.loop import ManualLoop

ACCEPT = {"type": "websocket.accept"}


def opened(loop: ManualLoop, *, over_tls: bool = False, **config: Any) -> Client:
    """A client whose WebSocket the application has accepted; what was sent so far is forgotten."""
    client = Client.over_tls(loop, **config) if over_tls else Client.of(loop, **config)
    client.feed(ws.handshake())
    client.call.receive()
    client.call.send(ACCEPT)
    client.transport.written.clear()
    return client


def disconnect(code: int, reason: str = "") -> Message:
    """What the application is told at the end."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """What the server sends to close."""
    return bytes((0x88, 2 + len(reason))) + code.to_bytes(2, "big") + reason


class FakeChannel:
    """Keeps what a stream asks of the connection of an open WebSocket; `ended` says how that was ended."""

    def __init__(self) -> None:
        self.written = b""
        self.deadline = 0.0
        self.writable: asyncio.Future[None] | None = None
        self.paused = False
        self.ended = ""

    def take(self) -> bytes:
        """What was written since the last time."""
        written, self.written = self.written, b""
        return written

    def write(self, data: bytes) -> None:
        assert not self.ended, "a write after the end"
        self.written += data

    def is_reading(self) -> bool:
        """Whether the client's bytes are read."""
        return not self.paused

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self, *, linger: bool) -> None:
        assert not self.ended, "a second end"
        self.ended = "linger" if linger else "close"

    def abort(self) -> None:
        self.ended = "abort"


class FakeHandshakeWire(FakeWire):
    """Keeps what a stream asks before the application has accepted; `accepted` is the fields of the response."""

    def __init__(self) -> None:
        super().__init__()
        self.deadline = 0.0
        self.accepted: list[HeaderPair] | None = None
        self.channel = FakeChannel()

    def accept_websocket(self, _: WebSocketStream, headers: list[HeaderPair]) -> FakeChannel:
        encode_fields(headers)
        self.accepted = headers
        return self.channel


class WebSocketExchange:
    """A stream, its wire and its application, which has accepted unless told otherwise."""

    def __init__(
        self,
        loop: ManualLoop,
        *,
        start: bool = True,
        accept: bool = True,
        headers: list[HeaderPair] | None = None,
        **config: Any,
    ) -> None:
        self.loop = loop
        self.app = DrivenApp(loop)
        self.runtime = make_runtime(loop, self.app, **config)
        self.observer = self.runtime.observer = FakeObserver()
        self.wire = FakeHandshakeWire()
        self.channel = self.wire.channel
        http = {"type": "http", "method": "GET", "scheme": "http", "path": "/x", "raw_path": b"/x", "client": None}
        scope = websocket_scope({**http, "headers": headers or []})
        settings = self.runtime.config.websocket
        assert settings is not None
        self.stream = WebSocketStream(self.runtime, settings, self.wire, scope, 8)
        if start:
            self.stream.start()
            loop.run_ready()
            if accept:
                self.call.receive()
                self.call.send({"type": "websocket.accept"})

    def feed(self, data: bytes) -> None:
        """The client sends, and the application reacts."""
        self.stream.feed(data)
        self.loop.run_ready()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, then do what the server does with it."""
        self.loop.advance(seconds)
        self.runtime.now = self.loop.time()
        if self.channel.deadline <= self.runtime.now:
            self.stream.expire()
        self.loop.run_ready()

    @property
    def call(self) -> Call:
        """The only call of the application."""
        return self.app.call

    @property
    def log(self) -> FakeLog:
        """The error log."""
        log = self.runtime.log
        assert isinstance(log, FakeLog)
        return log
