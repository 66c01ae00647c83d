"""A server's tick: what it writes to the scoreboard, and whom its sweep looks after."""

from __future__ import annotations

from typing import Any, cast

import pytest

from outrider.http1_encoding import DefaultHeaders
from outrider.runtime import BlockedWriter, Connection, HalfClosed
from outrider.scoreboard import Field
from outrider.server import SWEEP_PERIOD
from outrider_testing.fakes import FakeLog
from outrider_testing.server_stage import TICK, Stage


def test_tick_writes_the_row(stage: Stage) -> None:
    peer = stage.ask()
    counters = stage.runtime.counters
    counters.requests, counters.errors_5xx, counters.bytes_in, counters.bytes_out = 11, 12, 13, 14
    stage.runtime.websockets = 15
    stage.runtime.http2_connections = 16
    counters.websockets = 17
    stage.loop.advance(TICK)
    row = stage.row
    assert row[Field.CONNECTIONS] == 1
    assert row[Field.IN_FLIGHT] == 1
    assert row[Field.WEBSOCKETS] == 15
    assert row[Field.HTTP2_CONNECTIONS] == 16
    assert row[Field.WEBSOCKETS_OPENED] == 17
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


class FaultError(Exception):
    """A connection has a fault."""


class FakeConnection:
    """Notes what the sweep asks of it, and raises where it has a `fault`."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.calls: list[Any] = []
        self.fault = ""

    def expire(self) -> None:
        self.deadline = float("inf")
        self._note("expire", "expire")

    def begin_drain(self) -> None:
        self.calls.append("begin_drain")

    def check_write_progress(self, now: float) -> None:
        self._note("check_write_progress", now)

    def check_client(self) -> None:
        self._note("check_client", "check_client")

    def abort(self) -> None:
        self.calls.append("abort")

    def _note(self, name: str, call: Any) -> None:
        if self.fault == name:
            raise FaultError(name)
        self.calls.append(call)


def test_sweep_expires_connections_after_their_deadline(stage: Stage) -> None:
    early, late = FakeConnection(stage.loop.time() + 1), FakeConnection(stage.loop.time() + 2)
    stage.runtime.connections |= {cast("Connection", early), cast("Connection", late)}
    stage.pass_time(1)
    assert early.calls == []
    stage.pass_time(SWEEP_PERIOD)
    assert (early.calls, late.calls) == (["expire"], [])
    stage.runtime.connections.clear()


@pytest.mark.parametrize("fault", ["expire", "check_write_progress", "check_client"])
def test_fault_of_one_connection_ends_that_one_alone(stage: Stage, fault: str) -> None:
    connections = [FakeConnection(stage.loop.time()) for _ in range(3)]
    broken = connections[1]
    broken.fault = fault
    runtime = stage.runtime
    runtime.connections = cast("set[Connection]", connections)
    runtime.blocked_writers = cast("set[BlockedWriter]", connections)
    runtime.half_closed = cast("set[HalfClosed]", connections)
    stage.pass_time(SWEEP_PERIOD)
    now = stage.loop.time()
    assert connections[0].calls == connections[2].calls == ["expire", now, "check_client"]
    assert broken.calls.count("abort") == 1
    log = cast("FakeLog", runtime.log)
    assert [type(each) for each in log.exceptions] == [FaultError]
    assert log.messages("error") == ["Exception while looking after a connection, which is aborted"]
    for held in (runtime.connections, runtime.blocked_writers, runtime.half_closed):
        held.clear()


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

        def abort(self) -> None:
            calls.append("abort")

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
