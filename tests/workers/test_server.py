"""A server's boot, and how many connections it takes: on real sockets and a clock that the test sets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from outrider.lifespan import Lifespan, LifespanError
from outrider.probe import ProbeError
from outrider.scoreboard import Field, WorkerState
from outrider.server import QUICK_STOP, Stop
from outrider_testing.fakes import constant
from outrider_testing.server_fakes import GET, eventually
from outrider_testing.server_stage import TICK, MakeStage

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


def test_worker_is_told_once_that_the_application_has_booted(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.connect()
    assert stage.booted == []
    stage.become_ready()
    assert stage.booted == [stage.loop.time()]


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
    stage.lifespan.over.set_result(None)
    assert stage.is_over
    with pytest.raises(ProbeError, match="503"):
        stage.serving.result()
    assert stage.lifespan.calls == ["startup", "shutdown"]


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
