"""The server inside one worker: boot, tick, drain and quick stop, on real sockets and a clock that the test sets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from outrider.http1 import HTTP1Connection
from outrider.http1_encoding import DefaultHeaders
from outrider.lifespan import Lifespan, LifespanError
from outrider.probe import ProbeError
from outrider.runtime import ASGIApp, BlockedWriter, Connection, HalfClosed, Runtime
from outrider.scoreboard import Field, WorkerState
from outrider.server import (
    ABORT_AFTER,
    HEAD_START_SHARE,
    LAST_CALL,
    LIFESPAN_SHARE,
    MOST_HEAD_START,
    MOST_LIFESPAN_SHARE,
    QUICK_STOP,
    SWEEP_PERIOD,
    Hooks,
    Server,
    Stop,
    drain_time,
)
from outrider_testing.fakes import DrivenApp, FakeLog, ManualLoop, constant, make_runtime
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
        self.ticks: list[float] = []
        self.end_by: list[float] = []
        self.server = Server(
            self.runtime,
            [self.sock],
            None,
            self.row,
            cast("Lifespan", self.lifespan),
            Hooks(tick=lambda: self.ticks.append(loop.time()), expect_end_by=self.end_by.append),
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
HEAD_START = min(GRACE * HEAD_START_SHARE, MOST_HEAD_START)


@pytest.fixture
def make_stage(loop: ManualLoop) -> Iterator[MakeStage]:
    stages: list[Stage] = []

    def make(app: ASGIApp | None = None, **options: Any) -> Stage:
        stages.append(Stage(loop, app, **options))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    stage = make_stage()
    stage.become_ready()
    return stage


# -- boot


def test_nothing_is_accepted_before_the_application_is_ready(make_stage: MakeStage) -> None:
    stage = make_stage()
    peer = stage.connect()
    peer.send(GET)
    stage.pass_time(5)
    assert stage.state() is WorkerState.BOOTING
    assert not stage.runtime.connections
    stage.become_ready()
    eventually(stage.loop, lambda: stage.app.calls)
    stage.app.call.respond(b"hello")
    assert peer.answer().body == b"hello"


def test_heart_beats_while_the_application_starts(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.loop.run_ready()
    stage.pass_time(10)
    assert len(stage.ticks) == 10 / TICK + 1
    assert stage.row[Field.HEARTBEAT] > 0


def test_change_during_the_boot_accepts_nothing(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.connect()
    stage.runtime.on_change()
    stage.pass_time(1)
    assert stage.runtime.held == 0


def test_task_factory_that_the_application_sets_makes_its_requests(make_stage: MakeStage) -> None:
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro.__name__)
        return asyncio.Task(coro, loop=loop, **options)

    stage = make_stage()
    stage.loop.run_ready()
    stage.loop.set_task_factory(cast("Any", factory))
    stage.become_ready()
    stage.ask()
    assert "_run" in made


def test_failed_startup_ends_the_boot(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.loop.run_ready()
    stage.lifespan.ready.set_exception(LifespanError("no database"))
    assert stage.is_over
    with pytest.raises(LifespanError, match="no database"):
        stage.serving.result()
    ticks = len(stage.ticks)
    stage.loop.advance(5)
    assert len(stage.ticks) == ticks, "nothing ticks after the end"


def test_worker_is_ready_after_a_successful_probe(make_stage: MakeStage) -> None:
    stage = make_stage(probe_path="/health")
    stage.loop.run_ready()
    stage.lifespan.ready.set_result(None)
    stage.loop.run_ready()
    assert stage.state() is WorkerState.BOOTING
    assert stage.app.call.scope["path"] == "/health"
    stage.app.call.respond()
    assert stage.state() is WorkerState.READY


def test_failed_probe_ends_the_boot(make_stage: MakeStage) -> None:
    stage = make_stage(constant(status=503), probe_path="/health")
    stage.loop.run_ready()
    stage.lifespan.ready.set_result(None)
    assert stage.is_over
    with pytest.raises(ProbeError, match="503"):
        stage.serving.result()


@pytest.mark.parametrize("how", [Stop.DRAIN, Stop.QUICK])
def test_stop_during_startup_cancels_it(make_stage: MakeStage, how: Stop) -> None:
    stage = make_stage()
    stage.pass_time(1)
    stage.connect()
    stage.stop(how)
    assert stage.is_over
    stage.serving.result()
    assert stage.lifespan.calls == ["startup", "cancelled"]
    assert stage.log.messages("info") == ["Told to stop before the application was ready"]
    stage.spare.setblocking(False)
    accepted, _ = stage.spare.accept()
    accepted.close()


@pytest.mark.parametrize("how", [Stop.DRAIN, Stop.QUICK])
def test_stop_before_the_boot_starts_nothing(make_stage: MakeStage, how: Stop) -> None:
    stage = make_stage()
    stage.stop(how)
    assert stage.is_over
    assert stage.lifespan.calls == []
    assert stage.state() is WorkerState.DRAINING


def test_stop_during_the_probe_ends_the_lifespan(make_stage: MakeStage) -> None:
    stage = make_stage(probe_path="/health")
    stage.loop.run_ready()
    stage.lifespan.ready.set_result(None)
    stage.loop.run_ready()
    stage.lifespan.over.set_result(None)
    stage.stop(Stop.DRAIN)
    assert stage.is_over
    assert stage.app.call.cancelled
    assert stage.lifespan.calls == ["startup", "shutdown"]


def test_startup_that_fails_when_cancelled_is_not_an_error(make_stage: MakeStage) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise RuntimeError("gave up") from None

    stage = make_stage(app, probe_path="/health")
    stage.loop.run_ready()
    stage.lifespan.ready.set_result(None)
    stage.lifespan.over.set_result(None)
    stage.loop.run_ready()
    stage.stop(Stop.DRAIN)
    assert stage.is_over
    stage.serving.result()


def test_cancelled_startup_may_undo_what_it_began(make_stage: MakeStage) -> None:
    stage = make_stage()
    undone = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            undone.append(stage.serving.done())

    stage.server._lifespan = Lifespan(app, "on", stage.runtime.log, {})
    stage.pass_time(1)
    stage.stop(Stop.DRAIN)
    assert stage.is_over
    assert undone == [False]


def test_startup_that_ignores_the_cancellation_is_left_behind(make_stage: MakeStage) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        while not stage.over:  # type: ignore[attr-defined]  # set below
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                continue

    stage = make_stage(app, probe_path="/health")
    stage.over = False  # type: ignore[attr-defined]  # for the application
    stage.loop.run_ready()
    stage.lifespan.ready.set_result(None)
    stage.lifespan.over.set_result(None)
    stage.loop.run_ready()
    stage.stop(Stop.QUICK)
    assert stage.time_to_end() <= QUICK_STOP + TICK
    stage.over = True  # type: ignore[attr-defined]  # for the application


# -- tick


def test_tick_writes_the_row(stage: Stage) -> None:
    peer = stage.ask()
    counters = stage.runtime.counters
    counters.requests, counters.errors_5xx, counters.bytes_in, counters.bytes_out = 11, 12, 13, 14
    stage.loop.advance(TICK)
    row = stage.row
    assert row[Field.CONNECTIONS] == 1
    assert row[Field.IN_FLIGHT] == 1
    assert row[Field.REQUESTS] == 11
    assert row[Field.ERRORS_5XX] == 12
    assert row[Field.BYTES_IN] == 13
    assert row[Field.BYTES_OUT] == 14
    assert stage.runtime.now == stage.loop.time()
    assert peer.is_open


def test_tick_says_how_many_connections_a_freer_worker_should_have(stage: Stage) -> None:
    peer = stage.neighbours.add(connections=0)
    stage.connect(3)
    stage.loop.advance(TICK)
    assert stage.runtime.shed == 1
    peer[Field.CONNECTIONS] = 1
    stage.loop.advance(TICK)
    assert stage.runtime.shed == 0


def test_tick_measures_a_blocked_loop(stage: Stage) -> None:
    stage.loop.advance(TICK)
    assert stage.row[Field.LOOP_LAG_NS] == 0
    busy = stage.row[Field.LOOP_BUSY_NS]
    stage.loop.advance(TICK + 2)
    assert stage.row[Field.LOOP_LAG_NS] == 2_000_000_000
    assert stage.row[Field.LOOP_BUSY_NS] >= busy + 2_000_000_000
    stage.loop.advance(TICK)
    assert stage.row[Field.LOOP_LAG_NS] == 0


def test_tick_refreshes_the_date(stage: Stage) -> None:
    headers = DefaultHeaders(server=False, date=True, extra=())
    stage.runtime.default_headers = headers
    stage.loop.advance(TICK)
    assert b"date: " in headers.endings[0].lower()


class FakeConnection:
    """Notes what the sweep asks of it."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.calls: list[Any] = []

    def expire(self) -> None:
        self.calls.append("expire")
        self.deadline = float("inf")

    def begin_drain(self) -> None:
        self.calls.append("begin_drain")

    def check_write_progress(self, now: float) -> None:
        self.calls.append(now)

    def check_client(self) -> None:
        self.calls.append("check_client")

    def abort(self) -> None:
        self.calls.append("abort")


def test_sweep_expires_connections_after_their_deadline(stage: Stage) -> None:
    early, late = FakeConnection(stage.loop.time() + 1), FakeConnection(stage.loop.time() + 2)
    stage.runtime.connections |= {cast("Connection", early), cast("Connection", late)}
    stage.pass_time(1)
    assert early.calls == []
    stage.pass_time(SWEEP_PERIOD)
    assert (early.calls, late.calls) == (["expire"], [])
    stage.runtime.connections.clear()


def test_sweep_waits_for_what_came_while_the_process_was_held_up(stage: Stage) -> None:
    idle = FakeConnection(stage.loop.time() + 1)
    stage.runtime.connections.add(cast("Connection", idle))
    stage.loop.advance(5)  # in one step: no tick in between
    assert idle.calls == []
    stage.pass_time(SWEEP_PERIOD)
    assert idle.calls == ["expire"]
    stage.runtime.connections.clear()


def test_sweep_looks_after_half_closed_clients(stage: Stage) -> None:
    calls: list[str] = []

    class HalfClosedClient:
        def check_client(self) -> None:
            calls.append("check")

    stage.runtime.half_closed.add(HalfClosedClient())
    stage.pass_time(SWEEP_PERIOD)
    assert calls == ["check"]
    stage.runtime.half_closed.clear()


def test_sweep_checks_blocked_writers(stage: Stage) -> None:
    writer = FakeConnection(float("inf"))
    stage.runtime.blocked_writers.add(cast("BlockedWriter", writer))
    stage.pass_time(SWEEP_PERIOD)
    assert writer.calls == [stage.loop.time()]
    stage.runtime.blocked_writers.clear()


def test_sweep_waits_for_what_arrived_while_the_loop_was_held(stage: Stage) -> None:
    late = FakeConnection(stage.loop.time() + 1)
    stage.runtime.connections.add(cast("Connection", late))
    stage.loop.advance(5)
    assert late.calls == []
    stage.loop.advance(TICK)
    assert late.calls == ["expire"]
    stage.runtime.connections.clear()


def test_loop_that_is_held_all_the_time_is_swept_all_the_same(stage: Stage) -> None:
    late = FakeConnection(stage.loop.time() + 1)
    stage.runtime.connections.add(cast("Connection", late))
    for _ in range(3):
        stage.loop.advance(2)
    assert late.calls == ["expire"]
    stage.runtime.connections.clear()


def test_sweep_checks_half_closed_clients(stage: Stage) -> None:
    client = FakeConnection(float("inf"))
    stage.runtime.half_closed.add(cast("HalfClosed", client))
    stage.pass_time(SWEEP_PERIOD)
    assert client.calls == ["check_client"]
    stage.runtime.half_closed.clear()


# -- worker_connections


def test_worker_pauses_at_worker_connections_and_resumes_below(make_stage: MakeStage) -> None:
    stage = make_stage(worker_connections=2)
    stage.become_ready()
    stage.connect(3)
    eventually(stage.loop, lambda: stage.runtime.held == 2)
    stage.pass_time(1)
    assert stage.runtime.held == 2
    stage.peers[0].close()
    third = stage.peers[2]
    third.send(GET)
    eventually(stage.loop, lambda: stage.app.calls)
    assert stage.app.call.scope["client"] == third.sock.getsockname()
    assert stage.row[Field.CONNECTIONS] == 2


def test_failed_proxy_headers_make_room_again(make_stage: MakeStage) -> None:
    stage = make_stage(worker_connections=1, proxy_protocol="v1")
    stage.become_ready()
    stage.connect(2)
    eventually(stage.loop, lambda: stage.runtime.opening == 1)
    stage.peers[0].sock.shutdown(socket.SHUT_WR)
    stage.peers[1].send(b"PROXY UNKNOWN\r\n" + GET)
    eventually(stage.loop, lambda: stage.app.calls)


# -- drain


def test_drain_without_connections_ends_at_once(stage: Stage) -> None:
    stage.lifespan.over.set_result(None)
    stage.stop(Stop.DRAIN)
    assert stage.is_over
    assert stage.state() is WorkerState.DRAINING
    assert stage.runtime.drain_event.is_set()
    assert stage.lifespan.calls == ["startup", "shutdown"]


def test_drain_takes_nothing_new(stage: Stage) -> None:
    address = stage.sock.getsockname()
    stage.ask()
    stage.stop(Stop.DRAIN)
    stage.spare.close()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(address)


def test_drain_serves_what_was_queued(stage: Stage) -> None:
    peer = Peer(stage.loop, stage.sock)
    stage.peers.append(peer)
    stage.stop(Stop.DRAIN)
    peer.send(GET)
    eventually(stage.loop, lambda: stage.app.calls)
    stage.app.call.respond(b"late")
    assert peer.answer().body == b"late"


def test_drain_finishes_requests_and_ends_when_nothing_is_left(stage: Stage) -> None:
    peer = stage.ask()
    stage.lifespan.over.set_result(None)
    stage.stop(Stop.DRAIN)
    stage.pass_time(10)
    assert not stage.is_over
    stage.app.call.respond(b"done")
    answer = peer.answer()
    assert answer.body == b"done"
    assert answer.closes
    peer.close()
    assert stage.time_to_end() <= 10 + TICK


def test_drain_waits_for_the_first_request_of_a_silent_connection(stage: Stage) -> None:
    peer = stage.connect()
    eventually(stage.loop, lambda: stage.runtime.held == 1)
    stage.stop(Stop.DRAIN)
    stage.pass_time(5)
    assert not stage.is_over
    peer.send(GET)
    eventually(stage.loop, lambda: stage.app.calls)
    stage.app.call.respond()
    assert peer.answer().closes


def test_drain_waits_for_a_connection_that_owes_its_proxy_header(make_stage: MakeStage) -> None:
    stage = make_stage(proxy_protocol="v1")
    stage.become_ready()
    peer = stage.connect()
    eventually(stage.loop, lambda: stage.runtime.opening == 1)
    stage.stop(Stop.DRAIN)
    stage.pass_time(1)
    assert not stage.is_over
    peer.send(b"PROXY UNKNOWN\r\n" + GET)
    eventually(stage.loop, lambda: stage.app.calls)
    stage.app.call.respond()
    assert peer.answer().closes


def test_drain_closes_idle_connections_after_a_linger(make_stage: MakeStage) -> None:
    stage = make_stage(drain_linger=2.0, keepalive=60.0)
    stage.become_ready()
    peer = stage.ask()
    stage.app.call.respond()
    peer.answer()
    stage.lifespan.over.set_result(None)
    stage.stop(Stop.DRAIN)
    stage.pass_time(1.5)
    assert peer.is_open
    assert stage.time_to_end() <= 2.0 + SWEEP_PERIOD + TICK
    peer.wait_closed()


EVENT_STREAM = [(b"content-type", b"text/event-stream")]


def test_drain_tells_event_streams_at_once(stage: Stage) -> None:
    stage.ask()
    call = stage.app.call
    call.start(200, EVENT_STREAM)
    assert call.receive()["type"] == "http.request"
    waiting = call.receiving()
    stage.stop(Stop.DRAIN)
    assert waiting.result()["type"] == "http.disconnect"


def test_drain_tells_event_streams_that_begin_later(stage: Stage) -> None:
    stage.ask()
    call = stage.app.call
    assert call.receive()["type"] == "http.request"
    waiting = call.receiving()
    stage.stop(Stop.DRAIN)
    call.start(200, EVENT_STREAM)
    assert not waiting.done()
    stage.pass_time(SWEEP_PERIOD + TICK)
    assert waiting.result()["type"] == "http.disconnect"


def test_drain_tells_downloads_at_the_last_call(stage: Stage) -> None:
    stage.ask()
    call = stage.app.call
    call.start(200)
    assert call.receive()["type"] == "http.request"
    waiting = call.receiving()
    stage.stop(Stop.DRAIN)
    last_call = GRACE * LAST_CALL - HEAD_START
    stage.pass_time(last_call - 1)
    assert not waiting.done()
    stage.pass_time(1 + SWEEP_PERIOD)
    assert waiting.result()["type"] == "http.disconnect"


def test_deadline_cuts_requests_and_names_them(stage: Stage) -> None:
    peer = stage.ask()
    stage.stop(Stop.DRAIN)
    share = min(GRACE * LIFESPAN_SHARE, MOST_LIFESPAN_SHARE)
    stage.pass_time(GRACE - HEAD_START - share - TICK)
    assert stage.log.messages("warning") == []
    stage.pass_time(TICK)
    assert stage.app.call.cancelled
    (warning,) = stage.log.messages("warning")
    assert warning.startswith("graceful_timeout is over: cutting 1 requests:\nGET / from 127.0.0.1:")
    peer.wait_closed()
    eventually(stage.loop, lambda: stage.lifespan.shutdown_timeouts)
    assert stage.lifespan.shutdown_timeouts == [pytest.approx(share, abs=TICK)]


def stubborn(loop: ManualLoop) -> ASGIApp:
    """An application that never ends a request, whatever happens."""

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        while not loop.is_stubborn_over:  # type: ignore[attr-defined]  # set by the test
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                continue

    loop.is_stubborn_over = False  # type: ignore[attr-defined]  # for the application
    return app


@pytest.mark.parametrize("grace", [0.0, 1.0, 4.0, 30.0])
def test_drain_ends_before_the_master_kills(make_stage: MakeStage, loop: ManualLoop, grace: float) -> None:
    stage = make_stage(stubborn(loop))
    object.__setattr__(stage.runtime.config, "graceful_timeout", grace)
    stage.become_ready()
    stage.connect().send(GET)
    eventually(stage.loop, lambda: stage.runtime.streams)
    stage.stop(Stop.DRAIN)
    deadline = grace - min(grace * HEAD_START_SHARE, MOST_HEAD_START)
    assert stage.time_to_end() == pytest.approx(deadline, abs=TICK / 5)
    assert stage.end_by[0] == pytest.approx(stage.stopped_at + deadline + ABORT_AFTER)
    (timeout,) = stage.lifespan.shutdown_timeouts
    assert timeout is not None
    assert timeout >= min(grace * LIFESPAN_SHARE, MOST_LIFESPAN_SHARE) / 2 - TICK / 5
    loop.is_stubborn_over = True  # type: ignore[attr-defined]  # for the application


def test_deadline_counts_from_the_first_request_to_stop(stage: Stage) -> None:
    stage.ask()
    stage.stop(Stop.DRAIN)
    first = stage.stopped_at
    stage.pass_time(20)
    stage.stop(Stop.DRAIN)
    stage.stopped_at = first
    stage.lifespan.over.set_result(None)
    assert stage.time_to_end() <= GRACE - HEAD_START


def test_deadline_counts_from_when_the_stop_was_wanted(stage: Stage) -> None:
    stage.ask()
    stage.lifespan.over.set_result(None)
    stage.server.stop(Stop.DRAIN, stage.loop.time() - 20)
    stage.stopped_at = stage.loop.time() - 20
    assert stage.time_to_end() <= drain_time(GRACE)


# -- quick stop


def test_quick_stop_cancels_what_runs(stage: Stage) -> None:
    peer = stage.ask()
    stage.lifespan.over.set_result(None)
    stage.stop(Stop.QUICK)
    assert stage.is_over
    assert stage.app.call.cancelled
    assert stage.log.messages("warning") == []
    peer.wait_closed()


def test_quick_stop_cancels_a_request_that_has_not_begun(stage: Stage) -> None:
    stage.connect()
    eventually(stage.loop, lambda: stage.runtime.connections)
    (connection,) = stage.runtime.connections
    stage.lifespan.over.set_result(None)
    stage.server.stop(Stop.QUICK)
    cast("HTTP1Connection", connection).data_received(GET)
    assert stage.is_over
    assert not stage.app.calls


def test_quick_stop_leaves_the_queue_to_others(make_stage: MakeStage) -> None:
    stage = make_stage(worker_connections=1)
    stage.become_ready()
    stage.connect(2)
    eventually(stage.loop, lambda: stage.runtime.held == 1)
    stage.lifespan.over.set_result(None)
    stage.stop(Stop.QUICK)
    assert stage.is_over
    accepted, _ = stage.spare.accept()
    accepted.close()


def test_quick_stop_does_not_wait_for_the_stubborn(make_stage: MakeStage, loop: ManualLoop) -> None:
    stage = make_stage(stubborn(loop))
    stage.become_ready()
    stage.connect().send(GET)
    eventually(stage.loop, lambda: stage.runtime.streams)
    stage.stop(Stop.QUICK)
    assert stage.time_to_end() <= QUICK_STOP + TICK / 5
    assert stage.end_by == [stage.stopped_at + QUICK_STOP + ABORT_AFTER]
    assert stage.lifespan.shutdown_timeouts == [pytest.approx(QUICK_STOP / 2, abs=TICK / 5)]
    loop.is_stubborn_over = True  # type: ignore[attr-defined]  # for the application


def test_quick_stop_overrides_a_drain(stage: Stage) -> None:
    stage.ask()
    stage.stop(Stop.DRAIN)
    stage.pass_time(5)
    stage.lifespan.over.set_result(None)
    stage.stop(Stop.QUICK)
    assert stage.is_over
    assert stage.app.call.cancelled


def test_drain_does_not_override_a_quick_stop(stage: Stage) -> None:
    stage.ask()
    stage.lifespan.over.set_result(None)
    stage.server.stop(Stop.QUICK)
    stage.stop(Stop.DRAIN)
    assert stage.is_over
    assert stage.app.call.cancelled


def test_quick_stop_does_not_outlast_the_drain_it_overrides(stage: Stage) -> None:
    stage.ask()
    stage.stop(Stop.DRAIN)
    first = stage.stopped_at
    stage.pass_time(GRACE - MOST_LIFESPAN_SHARE - HEAD_START - TICK)
    stage.pass_time(MOST_LIFESPAN_SHARE)
    stage.stop(Stop.QUICK)
    stage.stopped_at = first
    assert stage.time_to_end() <= GRACE - HEAD_START + TICK / 5
