"""What the tests of the listener, the server and the worker share: real sockets, on a loop that the test runs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gunicorn.config import Config

from outrider.listener import Listener
from outrider.runtime import ASGIApp, Runtime
from outrider.scoreboard import Field, Row, Scoreboard, WorkerState
from outrider.settings import OutriderSettings
from outrider.tls_certificates import TLS
from outrider_testing.certificates import Authority, trusting_context
from outrider_testing.fakes import Answer, DrivenApp, FakeLog, ManualLoop, make_runtime, parse_answers
from outrider_testing.waiting import until

T = TypeVar("T")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def eventually(loop: ManualLoop, condition: Callable[[], T]) -> T:
    """Run the loop, its clock standing still, until the condition holds: what the kernel carries takes a moment."""

    def run_and_look() -> T:
        loop.run_ready()
        return condition()

    return until(run_and_look)


class ScriptedSocket(socket.socket):
    """A listening socket whose next `accept` calls fail with `errors`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.errors: deque[OSError] = deque()
        self.accepts = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """Fail as scripted, or accept."""
        self.accepts += 1
        if self.errors:
            raise self.errors.popleft()
        return super().accept()


def listen(host: str = "127.0.0.1") -> ScriptedSocket:
    """A listening TCP socket on a port that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = ScriptedSocket(family, socket.SOCK_STREAM)
    sock.bind((host, 0))
    sock.listen(128)
    return sock


def listen_unix(path: str | bytes) -> ScriptedSocket:
    """A listening unix socket; a path that begins with NUL is an abstract name."""
    sock = ScriptedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    sock.listen(128)
    return sock


class Peer:
    """The client's end of a real connection; it has connected when it is made, accepted or not."""

    def __init__(self, loop: ManualLoop, listening: socket.socket, host: str = "") -> None:
        self._loop = loop
        self.sock = socket.socket(listening.family, socket.SOCK_STREAM)
        address = listening.getsockname()
        self.sock.connect((host, *address[1:]) if host else address)
        self.sock.setblocking(False)
        self.received = b""
        self.closed = False

    def send(self, data: bytes) -> None:
        """Send, and let the server react."""
        self.sock.sendall(data)
        self._loop.run_ready()

    def answers(self, count: int = 1) -> list[Answer]:
        """Wait for so many complete responses."""

        def read() -> list[Answer]:
            self.read()
            answers = parse_answers(self.received, closed=self.closed)
            return answers if sum(answer.complete for answer in answers) >= count else []

        return eventually(self._loop, read)

    def answer(self) -> Answer:
        """Wait for the only response."""
        (answer,) = self.answers()
        return answer

    def read(self) -> None:
        """Take what has come."""
        with contextlib.suppress(BlockingIOError):
            try:
                while data := self._receive():
                    self.received += data
            except ConnectionResetError:
                pass
            self.closed = True

    def wait_closed(self) -> None:
        """Wait until the server has closed the connection."""

        def is_closed() -> bool:
            self.read()
            return self.closed

        eventually(self._loop, is_closed)

    @property
    def is_open(self) -> bool:
        """Whether the server keeps the connection open, as far as is known by now."""
        self._loop.run_ready()
        self.read()
        return not self.closed

    def close(self) -> None:
        """Leave."""
        self.sock.close()
        self._loop.run_ready()

    def _receive(self) -> bytes:
        return self.sock.recv(65536)


class TLSPeer(Peer):
    """A client that speaks TLS once `handshake` has been called."""

    def handshake(self, context: ssl.SSLContext | None = None, server_name: str | None = None) -> None:
        """Begin TLS, wherever the connection is; without a context of the client's own, it trusts everybody."""
        context = context or trusting_context()
        tls = context.wrap_socket(self.sock, do_handshake_on_connect=False, server_hostname=server_name)
        self.sock = tls

        def is_done() -> bool:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return True

        eventually(self._loop, is_done)

    def _receive(self) -> bytes:
        try:
            return super()._receive()
        except ssl.SSLWantReadError as error:
            raise BlockingIOError from error


@dataclass
class Neighbourhood:
    """A scoreboard with this worker's row and those of others, whose writer is the test."""

    board: Scoreboard = field(default_factory=lambda: Scoreboard.anonymous(8))

    def __post_init__(self) -> None:
        self.row = self.board.claim()

    def add(self, connections: int, state: WorkerState = WorkerState.READY, heartbeat_age: float = -3600.0) -> Row:
        """Another worker; its heart beats until an hour from now, or stopped a while ago."""
        row = self.board.claim()
        row[Field.CONNECTIONS] = connections
        row[Field.HEARTBEAT] = time.monotonic_ns() - int(heartbeat_age * 1e9)
        row[Field.STATE] = state
        return row


class Scene:
    """One listener on a real socket, the runtime behind it, and clients."""

    def __init__(
        self,
        loop: ManualLoop,
        sock: ScriptedSocket | None = None,
        app: ASGIApp | None = None,
        tls: TLS | None = None,
        **config: Any,
    ) -> None:
        self.loop = loop
        self.sock = sock or listen()
        self.app = DrivenApp(loop)
        self.runtime: Runtime = make_runtime(loop, app or self.app, **config)
        self.neighbours = Neighbourhood()
        self.listener = Listener(self.runtime, self.sock, self.neighbours.row, tls)
        self.changes = 0
        self.runtime.on_change = self._count_change
        self.peers: list[Peer] = []

    def connect(self, count: int = 1) -> Peer:
        """Connect clients; the last one is returned."""
        for _ in range(count):
            self.peers.append(Peer(self.loop, self.sock))
        return self.peers[-1]

    def connect_tls(self) -> TLSPeer:
        """Connect a client that will speak TLS."""
        peer = TLSPeer(self.loop, self.sock)
        self.peers.append(peer)
        return peer

    @property
    def log(self) -> FakeLog:
        """The error log."""
        log = self.runtime.log
        assert isinstance(log, FakeLog)
        return log

    @property
    def held(self) -> int:
        """How many connections the worker holds when everything has come to rest."""
        self.loop.run_ready()
        return self.runtime.held

    def first_scope(self) -> Any:
        """Wait for the only call of the application."""
        eventually(self.loop, lambda: self.app.calls)
        return self.app.call.scope

    def close(self) -> None:
        """Leave nothing open."""
        for peer in self.peers:
            peer.close()
        self.listener.abandon()
        self.loop.run_ready()
        for connection in list(self.runtime.connections):
            connection.abort()
        self.loop.run_ready()

    def _count_change(self) -> None:
        self.changes += 1


MakeScene = Callable[..., Scene]
"""Make a scene with these options; see the fixture."""


class FakeLifespan:
    """An application's lifespan whose startup and shutdown last until the test resolves them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ready: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.calls: list[str] = []
        self.shutdown_timeouts: list[float | None] = []

    async def startup(self) -> None:
        """Wait for `ready`."""
        self.calls.append("startup")
        try:
            await self.ready
        except asyncio.CancelledError:
            self.calls.append("cancelled")
            raise

    async def shutdown(self, timeout: float | None) -> None:  # noqa: ASYNC109  # the interface of Lifespan
        """Wait for `over`, but no longer than `timeout`; there is nothing to do where nothing was started."""
        if not self.ready.done() or self.ready.cancelled():
            return
        self.calls.append("shutdown")
        self.shutdown_timeouts.append(timeout)
        await asyncio.wait({self.over}, timeout=timeout)


def make_tls(directory: Path, **settings: Any) -> TLS:
    """TLS with a new key and a certificate of its own, and with these settings of gunicorn and Outrider."""
    certfile, keyfile = Authority().write_pair(directory, "server", "localhost")
    return configure_tls(certfile=certfile, keyfile=keyfile, **settings)


def configure_tls(log: FakeLog | None = None, **settings: Any) -> TLS:
    """TLS with these settings of gunicorn and Outrider."""
    cfg = Config()
    own = {}
    for name, value in settings.items():
        if name in OutriderSettings.__slots__:
            own[name] = value
        else:
            cfg.set(name, str(value) if isinstance(value, Path) else value)
    tls = TLS.from_gunicorn(cfg, OutriderSettings(**own), log or FakeLog())
    assert tls is not None
    return tls
