"""A client that does not read: who writes waits for it, and it is given up when it has taken too little."""

from __future__ import annotations

import asyncio

import pytest

from outrider.backpressure import BackpressureProtocol
from outrider_testing.fakes import FakeTransport, ManualLoop, constant, make_runtime

HIGH = 1000
WINDOW = 10.0
RATE = 10


class Writer(BackpressureProtocol):
    """Belongs to a client without an address."""

    client = None


class Scene:
    """A protocol whose client reads only what it is told to."""

    def __init__(self, loop: ManualLoop, window: float = WINDOW) -> None:
        self.runtime = make_runtime(loop, constant(), write_timeout=window, min_body_rate=RATE)
        self.transport = FakeTransport(loop, asyncio.Protocol())
        self.protocol = Writer(self.runtime, self.transport)
        self.transport.set_protocol(self.protocol)
        self.transport.set_write_buffer_limits(high=HIGH)
        self.transport.congested = True
        self.transport.write(bytes(10 * HIGH))

    def pass_time(self, seconds: float) -> None:
        self.runtime.now += seconds
        for writer in self.runtime.blocked_writers:
            writer.check_write_progress(self.runtime.now)


def test_writer_waits_until_the_client_has_read(loop: ManualLoop) -> None:
    scene = Scene(loop)
    writable = scene.protocol.writable
    assert writable is not None
    assert not writable.done()
    assert scene.runtime.blocked_writers == {scene.protocol}
    scene.transport.take(10 * HIGH)
    assert writable.done()
    assert scene.protocol.writable is None
    assert scene.runtime.blocked_writers == set()


@pytest.mark.parametrize("taken, aborted", [(RATE * WINDOW - 1, True), (RATE * WINDOW, False)])
def test_client_that_takes_too_little_is_aborted(loop: ManualLoop, taken: float, *, aborted: bool) -> None:
    scene = Scene(loop)
    scene.pass_time(WINDOW - 1)
    scene.transport.take(int(taken))
    scene.pass_time(1)
    assert scene.transport.was_aborted() is aborted


def test_client_has_to_take_enough_in_each_window(loop: ManualLoop) -> None:
    scene = Scene(loop)
    scene.transport.take(5 * HIGH)
    scene.pass_time(WINDOW)
    assert not scene.transport.was_aborted()
    scene.pass_time(WINDOW)
    assert scene.transport.was_aborted()


def test_client_may_take_its_time_without_a_timeout(loop: ManualLoop) -> None:
    scene = Scene(loop, window=0)
    scene.pass_time(1e6)
    assert not scene.transport.was_aborted()


def test_protocol_without_a_transport_is_not_aborted(loop: ManualLoop) -> None:
    Writer(make_runtime(loop, constant())).abort()
