"""A server's ways to stop, drain and quick stop: whom it waits for, and for how long."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from outrider.http1 import HTTP1Connection
from outrider.runtime import ASGIApp
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
    Stop,
    drain_time,
)
from outrider_testing.fakes import ManualLoop, make_context
from outrider_testing.http2_client import HTTP2Client
from outrider_testing.server_fakes import GET, Peer, eventually
from outrider_testing.server_stage import GRACE, HEAD_START, TICK, MakeStage, Stage

INTERNAL_ERROR = 2  # RFC 9113 §7

# -- drain


def test_drain_without_connections_ends_at_once(stage: Stage) -> None:
    stage.lifespan.over.set_result(None)
    stage.stop(Stop.DRAIN)
    assert stage.is_over
    assert stage.state() is WorkerState.DRAINING
    assert stage.runtime.drain_event.is_set()
    assert stage.lifespan.calls == ["startup", "shutdown"]


def test_end_writes_what_was_counted_since_the_last_tick(stage: Stage) -> None:
    stage.lifespan.over.set_result(None)
    stage.runtime.counters.bytes_out = 14
    stage.stop(Stop.DRAIN)
    assert stage.is_over
    assert stage.row[Field.BYTES_OUT] == 14


def test_drain_takes_nothing_new(stage: Stage) -> None:
    address = stage.sock.getsockname()
    stage.ask()
    stage.stop(Stop.DRAIN)
    stage.spare.close()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(address)


@pytest.mark.parametrize("how", [Stop.DRAIN, Stop.QUICK])
def test_row_says_that_the_worker_drains_once_it_accepts_no_more(
    stage: Stage, how: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, states = stage.sock.close, []

    def note_state_and_close() -> None:
        states.append(stage.state())
        close()

    monkeypatch.setattr(stage.sock, "close", note_state_and_close)
    stage.stop(how)
    assert states[0] is WorkerState.READY
    assert stage.state() is WorkerState.DRAINING


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
    assert stage.lifespan.calls == ["startup"]
    peer.close()
    assert stage.time_to_end() <= 10 + TICK
    assert stage.lifespan.calls == ["startup", "shutdown"]


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


def test_deadline_lets_all_http2_connections_say_what_was_cut(stage: Stage) -> None:
    clients = [HTTP2Client(stage.loop, make_context(stage.runtime)) for _ in range(3)]
    for client in clients:
        client.request()
        stage.app.calls[-1].start(200)
        client.request()
    stage.stop(Stop.DRAIN)
    stage.pass_time(GRACE)
    for client in clients:
        client.exchange()
        assert client.response(1).reset == INTERNAL_ERROR
        assert client.response(3).status == 503


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
