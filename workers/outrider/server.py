"""The server inside one worker: boot, tick, and the two ways to stop. Handlers only ask; `serve` decides."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from outrider.listener import Listener
from outrider.probe import probe
from outrider.scoreboard import Field, WorkerState

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Sequence

    from outrider.lifespan import Lifespan
    from outrider.runtime import Runtime
    from outrider.scoreboard import Row

SWEEP_PERIOD = 0.5
QUICK_STOP = 0.5
# What is left of graceful_timeout for the end of the lifespan, after the last request was cut.
LIFESPAN_SHARE = 0.1
MOST_LIFESPAN_SHARE = 2.0
LAST_CALL = 0.75


class Stop(IntEnum):
    """How the server shall stop; a larger value overrides a smaller one."""

    NO = 0
    DRAIN = 1
    QUICK = 2


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the worker does for the server on each tick, and when it begins to stop."""

    tick: Callable[[], None]
    expect_end_by: Callable[[float], None]


class Server:
    """Serves one application on the worker's sockets until it is told to stop."""

    def __init__(
        self,
        runtime: Runtime,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext | None,
        row: Row,
        lifespan: Lifespan,
        hooks: Hooks,
        tick_period: float,
    ) -> None:
        self._runtime = runtime
        self._row = row
        self._lifespan = lifespan
        self._hooks = hooks
        self._tick_period = tick_period
        self._next_tick = runtime.loop.time()
        self._next_sweep = 0.0
        self._cpu = time.thread_time_ns()
        self._timer: asyncio.TimerHandle | None = None
        self._stop = Stop.NO
        self._changed = asyncio.Event()
        self._listeners = [Listener(runtime, sock, row, tls) for sock in sockets]
        runtime.on_change = self._note_change

    def stop(self, how: Stop) -> None:
        """Ask the server to stop. Safe at any time, also from a signal handler of the loop."""
        self._stop = max(self._stop, how)
        self._changed.set()

    async def serve(self, probe_path: str) -> None:
        """Boot, serve, and stop.

        Raises:
            LifespanError, ProbeError: the application can't serve; nothing was accepted.
        """
        self._row[Field.STATE] = WorkerState.BOOTING
        self._tick()
        try:
            await self._lifespan.startup()
            if probe_path:
                await probe(self._runtime, probe_path)
            self._row[Field.STATE] = WorkerState.READY
            if self._stop is Stop.NO:
                self._note_change()
            await self._until(lambda: self._stop is not Stop.NO)
            deadline = self._runtime.loop.time() + self._runtime.config.graceful_timeout
            if self._stop is Stop.DRAIN:
                await self._drain(deadline)
            await self._end(deadline)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    # -- running

    def _tick(self) -> None:
        """Several times a second: the clock, the heartbeat, the scoreboard; each half second the sweep."""
        runtime = self._runtime
        now = runtime.loop.time()
        lag = max(0.0, now - self._next_tick)
        self._next_tick = now + self._tick_period
        self._timer = runtime.loop.call_at(self._next_tick, self._tick)
        runtime.now = now
        self._hooks.tick()
        runtime.default_headers.refresh(time.time())
        self._write_row(lag)
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_PERIOD
            for connection in [each for each in runtime.connections if each.deadline < now]:
                connection.expire()
            for connection in list(runtime.blocked_writers):
                connection.check_write_progress(now)

    def _write_row(self, lag: float) -> None:
        row = self._row
        runtime = self._runtime
        counters = runtime.counters
        cpu = time.thread_time_ns()
        lag_ns = int(lag * 1e9)
        row[Field.HEARTBEAT] = time.monotonic_ns()
        row[Field.IN_FLIGHT] = len(runtime.streams)
        row[Field.CONNECTIONS] = len(runtime.connections)
        row[Field.REQUESTS] = counters.requests
        row[Field.ERRORS_5XX] = counters.errors_5xx
        row[Field.BYTES_IN] = counters.bytes_in
        row[Field.BYTES_OUT] = counters.bytes_out
        # A blocked loop is busy without using the processor; its lag is the time it was blocked.
        row[Field.LOOP_BUSY_NS] += max(cpu - self._cpu, lag_ns)
        row[Field.LOOP_LAG_NS] = lag_ns
        self._cpu = cpu

    def _note_change(self) -> None:
        """A connection or a request ended: there may be room for more, or nothing left to wait for."""
        runtime = self._runtime
        self._row[Field.CONNECTIONS] = len(runtime.connections)
        if runtime.draining or self._stop is not Stop.NO:
            self._changed.set()
        elif self._row[Field.STATE] == WorkerState.READY:
            has_room = len(runtime.connections) < runtime.config.worker_connections
            for listener in self._listeners:
                if has_room:
                    listener.resume()
                else:
                    listener.pause()

    async def _until(self, condition: Callable[[], bool], deadline: float | None = None) -> None:
        """Wait for a condition that is looked at after each change, or for the deadline (loop time)."""
        try:
            async with asyncio.timeout_at(deadline):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    # -- stopping

    async def _drain(self, deadline: float) -> None:
        """Finish what is held, take nothing new (DESIGN: drain). Ends early when there is nothing left."""
        runtime = self._runtime
        grace = runtime.config.graceful_timeout
        share = min(grace * LIFESPAN_SHARE, MOST_LIFESPAN_SHARE)
        self._row[Field.STATE] = WorkerState.DRAINING
        self._hooks.expect_end_by(deadline)
        runtime.draining = True
        for listener in self._listeners:
            listener.close()
        runtime.drain_event.set()
        for connection in list(runtime.connections):
            connection.begin_drain()
        self._notify_streams(last_call=False)
        last_call = runtime.loop.call_at(deadline - grace * (1 - LAST_CALL), self._notify_streams)
        await self._until(self._is_done, deadline - share)
        last_call.cancel()

    def _is_done(self) -> bool:
        runtime = self._runtime
        return self._stop is Stop.QUICK or not (runtime.connections or runtime.streams)

    def _notify_streams(self, *, last_call: bool = True) -> None:
        for stream in list(self._runtime.streams):
            stream.notify_drain(last_call=last_call)

    async def _end(self, deadline: float) -> None:
        """Cut what is left, then end the lifespan."""
        runtime = self._runtime
        quick = self._stop is Stop.QUICK
        now = runtime.loop.time()
        if quick:
            deadline = min(deadline, now + QUICK_STOP)
            self._hooks.expect_end_by(deadline)
        runtime.draining = True
        runtime.drain_event.set()
        for listener in self._listeners:
            listener.close()
        if runtime.streams:
            if not quick:
                runtime.log.warning(
                    "graceful_timeout is over: cutting %d requests:\n%s",
                    len(runtime.streams),
                    "\n".join(runtime.describe_streams()),
                )
            for stream in list(runtime.streams):
                stream.cancel()
            await self._until(lambda: not runtime.streams, now + (deadline - now) / 2)
        for connection in list(runtime.connections):
            connection.abort()
        await self._lifespan.shutdown(max(0.0, deadline - runtime.loop.time()))
