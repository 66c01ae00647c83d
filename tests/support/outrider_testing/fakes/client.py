"""A client and its connection to the server under test."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

from outrider.http1 import HTTP1Connection
from outrider_testing.fakes.application import DrivenApp
from outrider_testing.fakes.responses import Answer, parse_answers
from outrider_testing.fakes.runtime import make_context, make_runtime
from outrider_testing.fakes.tls_transport import FakeTLSTransport
from outrider_testing.fakes.transport import FakeTransport

if TYPE_CHECKING:
    from outrider.runtime import ASGIApp, ConnectionContext, Runtime
    from outrider_testing.fakes.application import Call
    from outrider_testing.fakes.log import FakeLog
    from outrider_testing.fakes.loop import ManualLoop


class AtTheServer:
    """What a test sees and does on the server's side of a client's connection, whatever that speaks."""

    loop: ManualLoop
    runtime: Runtime
    transport: FakeTransport

    @property
    def sent(self) -> bytes:
        """Everything the server has sent."""
        return bytes(self.transport.written)

    def is_closed(self) -> bool:
        """Whether the server has closed the connection, or at least its sending side."""
        return self.transport.closing or self.transport.eof_written

    @property
    def log(self) -> FakeLog:
        """The error log."""
        return cast("FakeLog", self.runtime.log)

    @property
    def calls(self) -> list[Call]:
        """The calls of the `DrivenApp`."""
        return cast("DrivenApp", self.runtime.app).calls

    @property
    def call(self) -> Call:
        """The only call of the `DrivenApp`."""
        return cast("DrivenApp", self.runtime.app).call

    def sweep(self, seconds: float) -> None:
        """Let time pass, then do what the server does with it on its tick: deadlines and stalled writers."""
        self.loop.advance(seconds)
        self.runtime.now = self.loop.time()
        for connection in [each for each in self.runtime.connections if each.deadline < self.runtime.now]:
            connection.expire()
        for writer in list(self.runtime.blocked_writers):
            writer.check_write_progress(self.runtime.now)
        self.loop.run_ready()


class Client(AtTheServer):
    """Sends bytes to an `HTTP1Connection` and reads what comes back, on a clock of its own."""

    def __init__(
        self, loop: ManualLoop, context: ConnectionContext, *, half_close: bool = True, unix: bool = False
    ) -> None:
        self.loop = loop
        self.runtime = context.runtime
        self.connection = HTTP1Connection(context)
        self.runtime.connections.add(self.connection)
        family = socket.AF_UNIX if unix else socket.AF_INET
        self.transport = FakeTransport(loop, self.connection, family=family, half_close=half_close)
        self.connection.connection_made(self.transport)

    @classmethod
    def of(cls, loop: ManualLoop, app: ASGIApp | None = None, **config: Any) -> Client:
        """A connection to a runtime of its own, by default with a `DrivenApp`."""
        return cls(loop, make_context(make_runtime(loop, app or DrivenApp(loop), **config)))

    @classmethod
    def over_tls(cls, loop: ManualLoop, app: ASGIApp | None = None, **config: Any) -> Client:
        """The same over TLS."""
        client = cls(loop, make_context(make_runtime(loop, app or DrivenApp(loop), **config), scheme="https"))
        client.transport = FakeTLSTransport(loop, client.connection)
        client.connection.connection_made(client.transport)
        return client

    # -- the client's side

    def feed_last(self, data: bytes) -> None:
        """Over TLS: send, end the connection with a closure alert, and let the server react."""
        assert isinstance(self.transport, FakeTLSTransport)
        self.transport.feed_last(data)
        self.loop.run_ready()

    def feed(self, data: bytes) -> None:
        """Send, and let the server react."""
        self.transport.feed(data)
        self.loop.run_ready()

    def feed_eof(self) -> None:
        """Send no more (half-close), and let the server react."""
        self.transport.feed_eof()
        self.loop.run_ready()

    def lose(self, error: Exception | None = None) -> None:
        """Break the connection."""
        self.transport.lose(error)
        self.loop.run_ready()

    def take(self, size: int) -> None:
        """Read from a congested connection."""
        self.transport.take(size)
        self.loop.run_ready()

    def answers(self, *methods: str) -> list[Answer]:
        """What the server has sent, read as responses to requests with these methods (default GET)."""
        return parse_answers(self.sent, closed=self.is_closed(), methods=methods)

    def answer(self, method: str = "GET") -> Answer:
        """The only response."""
        (answer,) = self.answers(method)
        return answer

    @property
    def statuses(self) -> list[int]:
        """The statuses of the responses."""
        return [answer.status for answer in self.answers()]

    # -- the server's side

    def drain(self) -> None:
        """Begin the drain of the worker."""
        self.runtime.draining = True
        self.connection.begin_drain()
        self.loop.run_ready()
