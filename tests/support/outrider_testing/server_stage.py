"""A server with everything around it in the test's hands: real sockets, on a clock that the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from outrider.lifespan import Lifespan
from outrider.runtime import ASGIApp, Runtime
from outrider.scoreboard import Field, WorkerState
from outrider.server import HEAD_START_SHARE, MOST_HEAD_START, Hooks, Server, Stop
from outrider_testing.fakes import DrivenApp, FakeLog, ManualLoop, make_runtime
from outrider_testing.server_fakes import (
    GET,
    FakeLifespan,
    Neighbourhood,
    Peer,
    ScriptedSocket,
    eventually,
    listen,
)

TICK = 0.25
GRACE = 30.0
HEAD_START = min(GRACE * HEAD_START_SHARE, MOST_HEAD_START)


class Stage:
    """A server that boots, with everything around it in the test's hands."""

    def __init__(self, loop: ManualLoop, app: ASGIApp | None = None, probe_path: str = "", **config: Any) -> None:
        self.loop = loop
        self.app = DrivenApp(loop)
        self.sock: ScriptedSocket = listen()
        self.spare = self.sock.dup()
        self.lifespan = FakeLifespan(loop)
        self.runtime: Runtime = make_runtime(loop, app or self.app, graceful_timeout=GRACE, **config)
        self.neighbours = Neighbourhood()
        self.row = self.neighbours.row
        self.booted: list[float] = []
        self.ticks: list[float] = []
        self.end_by: list[float] = []
        self.server = Server(
            self.runtime,
            [self.sock],
            None,
            self.row,
            cast("Lifespan", self.lifespan),
            Hooks(
                booted=lambda: self.booted.append(loop.time()),
                tick=lambda: self.ticks.append(loop.time()),
                expect_end_by=self.end_by.append,
            ),
            TICK,
        )
        self.peers: list[Peer] = []
        self.probe_path = probe_path
        self.serving: asyncio.Task[None] = loop.create_task(self.server.serve(probe_path))
        self.stopped_at = 0.0

    def become_ready(self) -> None:
        """Let the application start."""
        self.loop.run_ready()
        self.lifespan.ready.set_result(None)
        self.loop.run_ready()
        assert self.state() is WorkerState.READY

    def connect(self, count: int = 1) -> Peer:
        """Connect clients; the last one is returned."""
        for _ in range(count):
            self.peers.append(Peer(self.loop, self.sock))
        self.loop.run_ready()
        return self.peers[-1]

    def ask(self) -> Peer:
        """A client whose request is with the application."""
        calls = len(self.app.calls)
        peer = self.connect()
        peer.send(GET)
        eventually(self.loop, lambda: len(self.app.calls) > calls)
        return peer

    def stop(self, how: Stop) -> None:
        """Tell the server to stop."""
        self.stopped_at = self.loop.time()
        self.server.stop(how)
        self.loop.run_ready()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, tick by tick."""
        end = self.loop.time() + seconds
        while self.loop.time() < end:
            self.loop.advance(min(TICK, end - self.loop.time()))

    def time_to_end(self, most: float = 2 * GRACE) -> float:
        """Let time pass until the server has ended; the seconds since it was told to."""
        end = self.loop.time() + most
        while not self.serving.done():
            assert self.loop.time() < end, "the server does not end"
            self.loop.advance(TICK / 5)
        self.serving.result()
        return self.loop.time() - self.stopped_at

    def state(self) -> WorkerState:
        """The state in the scoreboard."""
        return WorkerState(self.row[Field.STATE])

    @property
    def is_over(self) -> bool:
        """Whether the server has ended."""
        self.loop.run_ready()
        return self.serving.done()

    @property
    def log(self) -> FakeLog:
        """The error log."""
        return cast("FakeLog", self.runtime.log)

    def close(self) -> None:
        """Leave nothing open."""
        for peer in self.peers:
            peer.close()
        self.loop.run_ready()
        for connection in list(self.runtime.connections):
            connection.abort()
        self.serving.cancel()
        self.loop.run_ready()
        for listener in self.server._listeners:
            listener.abandon()
        self.spare.close()
        self.loop.run_ready()


MakeStage = Callable[..., Stage]
