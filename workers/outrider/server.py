"""The server inside one worker: boot, tick, and the two ways to stop. Handlers only ask; `serve` decides."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING

from outrider.balance import STALE_AFTER_NS, surplus_to_shed
from outrider.listener import Listener
from outrider.loop_busy import make_meter
from outrider.probe import ProbeError, probe
from outrider.scoreboard import Field, WorkerState

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from outrider.lifespan import Lifespan
    from outrider.runtime import BlockedWriter, Connection, HalfClosed, Runtime
    from outrider.scoreboard import Row
    from outrider.tls_certificates import TLS

SWEEP_PERIOD = 0.5
QUICK_STOP = 0.5
HEAD_START_SHARE = 0.1
MOST_HEAD_START = 0.25
# A loop that still runs at the deadline ends by itself within this.
ABORT_AFTER = 0.05
# What is left of graceful_timeout for the end of the lifespan, after the last request was cut.
LIFESPAN_SHARE = 0.1
MOST_LIFESPAN_SHARE = 2.0
LAST_CALL = 0.75


def drain_time(graceful_timeout: float) -> float:
    """Seconds that a drain may take. gunicorn's clock began before ours, and kills: be gone a little earlier."""
    return graceful_timeout - min(graceful_timeout * HEAD_START_SHARE, MOST_HEAD_START)


class Stop(IntEnum):
    """How the server shall stop; a larger value overrides a smaller one."""

    NO = 0
    DRAIN = 1
    QUICK = 2


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the worker does for the server: before it accepts, on each tick, and when it begins to stop."""

    booted: Callable[[], None]
    tick: Callable[[], None]
    expect_end_by: Callable[[float], None]


class Server:
    """Serves one application on the worker's sockets until it is told to stop."""

    def __init__(
        self,
        runtime: Runtime,
        sockets: Sequence[socket.socket],
        tls: TLS | None,
        row: Row,
        lifespan: Lifespan,
        hooks: Hooks,
        tick_period: float,
    ) -> None:
        self._runtime = runtime
        self._tls = tls
        self._row = row
        self._lifespan = lifespan
        self._hooks = hooks
        self._tick_period = tick_period
        self._next_tick = runtime.loop.time()
        self._next_sweep = 0.0
        self._is_held_up = False
        self._busy = make_meter(runtime.loop)
        self._timer: asyncio.TimerHandle
        self._stop = Stop.NO
        self._asked_to_stop_at = 0.0
        self._last_call_at = 0.0
        self._changed = asyncio.Event()
        self._listeners = [Listener(runtime, sock, row, tls) for sock in sockets]
        runtime.on_change = self._note_change

    def stop(self, how: Stop, asked_at: float | None = None) -> None:
        """Ask the server to stop, which somebody wanted at `asked_at` (loop time) or wants now."""
        if self._stop is Stop.NO:
            self._asked_to_stop_at = self._runtime.loop.time() if asked_at is None else asked_at
        self._stop = max(self._stop, how)
        self._changed.set()

    def leave_queues(self) -> None:
        """Accept nothing more: what waits in the listeners' queues is for other workers."""
        for listener in self._listeners:
            listener.abandon()

    async def serve(self, probe_path: str) -> None:
        """Boot, serve, and stop.

        Raises:
            LifespanError, ProbeError: the application can't serve; nothing was accepted.
        """
        self._row[Field.STATE] = WorkerState.BOOTING
        self._tick()
        try:
            is_ready = await self._boot(probe_path)
            if is_ready:
                self._hooks.booted()
                self._runtime.renew_spawn()
                self._row[Field.STATE] = WorkerState.READY
                self._note_change()
                await self._until(self._is_told_to_stop)
            deadline = self._asked_to_stop_at + drain_time(self._runtime.config.graceful_timeout)
            if is_ready and self._stop is Stop.DRAIN:
                await self._drain(deadline)
            await self._end(deadline)
        finally:
            self._timer.cancel()
            self._write_row(0.0)  # what was counted since the last tick outlives this worker

    async def _boot(self, probe_path: str) -> bool:
        """Start the application. False: the server was told to stop before it was ready, and the start cancelled."""
        boot = self._runtime.loop.create_task(self._start_application(probe_path), name="boot")
        boot.add_done_callback(self._note_boot_end)
        await self._until(lambda: boot.done() or self._is_told_to_stop())
        if boot.done():
            boot.result()
            return True
        self._runtime.log.info("Told to stop before the application was ready")
        boot.cancel()
        await asyncio.wait({boot}, timeout=QUICK_STOP)
        return False

    async def _start_application(self, probe_path: str) -> None:
        await self._lifespan.startup()
        if probe_path:
            try:
                await probe(self._runtime, probe_path)
            except ProbeError:
                await self._lifespan.shutdown(MOST_LIFESPAN_SHARE)
                raise

    def _note_boot_end(self, boot: asyncio.Task[None]) -> None:
        self._changed.set()
        if not boot.cancelled():
            boot.exception()  # seen: what comes after a stop is nobody's concern

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
        runtime.shed = self._surplus()
        was_held_up, self._is_held_up = self._is_held_up, lag > SWEEP_PERIOD
        if self._is_held_up and not was_held_up:
            # What has arrived meanwhile is read before anybody is found to be late.
            self._next_sweep = now + self._tick_period
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_PERIOD
            self._sweep(now)
            if self._tls is not None:
                self._tls.look(runtime.loop)
            if runtime.draining:
                self._notify_streams(last_call=now >= self._last_call_at)

    def _sweep(self, now: float) -> None:
        """Look after the connections for which it is time."""
        runtime = self._runtime
        for connection in [each for each in runtime.connections if each.deadline < now]:
            self._look_after(connection, connection.expire)
        for writer in list(runtime.blocked_writers):
            self._look_after(writer, partial(writer.check_write_progress, now))
        for connection_without_input in list(runtime.half_closed):
            self._look_after(connection_without_input, connection_without_input.check_client)

    def _look_after(self, connection: Connection | BlockedWriter | HalfClosed, step: Callable[[], None]) -> None:
        """Take a step that a fault of the connection must not keep the others from."""
        try:
            step()
        except Exception:
            self._runtime.log.exception("Exception while looking after a connection, which is aborted")
            connection.abort()

    def _write_row(self, lag: float) -> None:
        row = self._row
        runtime = self._runtime
        counters = runtime.counters
        lag_ns = int(lag * 1e9)
        row[Field.HEARTBEAT] = time.monotonic_ns()
        row[Field.IN_FLIGHT] = len(runtime.streams)
        row[Field.CONNECTIONS] = runtime.held
        row[Field.WEBSOCKETS] = runtime.websockets
        row[Field.HTTP2_CONNECTIONS] = runtime.http2_connections
        row[Field.REQUESTS] = counters.requests
        row[Field.ERRORS_5XX] = counters.errors_5xx
        row[Field.BYTES_IN] = counters.bytes_in
        row[Field.BYTES_OUT] = counters.bytes_out
        row[Field.WEBSOCKETS_OPENED] = counters.websockets
        row[Field.LOOP_BUSY_NS] += self._busy.take(lag_ns)
        row[Field.LOOP_LAG_NS] = lag_ns

    def _surplus(self) -> int:
        """How many connections freer workers should have: without that, one that was started late would get none."""
        runtime = self._runtime
        if not runtime.config.accept_gate or self._row[Field.STATE] != WorkerState.READY:
            return 0
        fewest = self._row.least_loaded_peer(time.monotonic_ns(), STALE_AFTER_NS)
        return 0 if fewest is None else surplus_to_shed(runtime.held, fewest)

    def _note_change(self) -> None:
        """A connection or a request ended: there may be room for more, or nothing left to wait for."""
        runtime = self._runtime
        self._row[Field.CONNECTIONS] = runtime.held
        if runtime.draining or self._stop is not Stop.NO:
            self._changed.set()
        elif self._row[Field.STATE] == WorkerState.READY:
            has_room = runtime.held < runtime.config.worker_connections
            for listener in self._listeners:
                if has_room:
                    listener.resume()
                else:
                    listener.pause()

    def _is_told_to_stop(self) -> bool:
        return self._stop is not Stop.NO

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
        self._last_call_at = deadline - grace * (1 - LAST_CALL)
        self._hooks.expect_end_by(deadline + ABORT_AFTER)
        runtime.draining = True
        for listener in self._listeners:
            listener.close()
        self._row[Field.STATE] = WorkerState.DRAINING  # only now: a reload is over when no old worker accepts
        runtime.drain_event.set()
        for connection in list(runtime.connections):
            connection.begin_drain()
        self._notify_streams(last_call=False)
        await self._until(self._is_done, deadline - share)

    def _is_done(self) -> bool:
        runtime = self._runtime
        return self._stop is Stop.QUICK or not (runtime.held or runtime.streams)

    def _notify_streams(self, *, last_call: bool) -> None:
        """Tell the streams, and with the next sweep those that have begun since, that the worker drains."""
        for stream in list(self._runtime.streams):
            stream.notify_drain(last_call=last_call)

    async def _end(self, deadline: float) -> None:
        """Cut what is left, then end the lifespan."""
        runtime = self._runtime
        quick = self._stop is Stop.QUICK
        now = runtime.loop.time()
        if quick:
            deadline = min(deadline, now + QUICK_STOP)
        self._hooks.expect_end_by(deadline + ABORT_AFTER)
        runtime.draining = True
        runtime.drain_event.set()
        self.leave_queues()
        self._row[Field.STATE] = WorkerState.DRAINING
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
            await asyncio.sleep(0)  # HTTP/2 writes what they have said last on the loop's next turn
        for connection in list(runtime.connections):
            connection.abort()
        await self._lifespan.shutdown(max(0.0, deadline - runtime.loop.time()))
