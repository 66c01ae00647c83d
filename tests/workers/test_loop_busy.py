"""How busy a loop is: the arithmetic, and what the loops themselves say."""

from __future__ import annotations

import asyncio
import sys
import time
import types
from collections.abc import Iterator

import pytest
import uvloop

from outrider import loop_busy as module
from outrider.loop_busy import CPUMeter, TimedLoop, WaitMeter, make_meter

MS = 1_000_000
PATIENCE = 20.0


class Clock:
    """Nanoseconds."""

    def __init__(self) -> None:
        self.now = 5_000 * MS
        self.waited = 700 * MS
        self.cpu = 40 * MS

    def pass_time(self, *, waiting: int = 0, computing: int = 0, blocked: int = 0) -> None:
        self.now += (waiting + computing + blocked) * MS
        self.waited += waiting * MS
        self.cpu += computing * MS


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_loop_is_busy_while_it_does_not_wait(clock: Clock) -> None:
    meter = WaitMeter(lambda: clock.waited, lambda: clock.now)
    clock.pass_time(waiting=100)
    assert meter.take(0) == 0
    clock.pass_time(waiting=70, computing=10, blocked=20)
    assert meter.take(0) == 30 * MS
    clock.pass_time(blocked=3000)
    assert meter.take(2750 * MS) == 3000 * MS
    assert meter.take(0) == 0


def test_wait_that_ends_after_the_clock_was_read_makes_nothing_negative(clock: Clock) -> None:
    meter = WaitMeter(lambda: clock.waited, lambda: clock.now)
    clock.waited += MS
    assert meter.take(0) == 0
    clock.pass_time(computing=5)
    assert meter.take(0) == 5 * MS


def test_without_waits_processor_time_and_lateness_have_to_do(clock: Clock) -> None:
    meter = CPUMeter(lambda: clock.cpu)
    clock.pass_time(waiting=70, computing=30)
    assert meter.take(0) == 30 * MS
    clock.pass_time(blocked=2000, computing=10)
    assert meter.take(1760 * MS) == 1760 * MS
    assert meter.take(0) == 0


@pytest.fixture(params=[uvloop.new_event_loop, TimedLoop])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop: asyncio.AbstractEventLoop = request.param()
    yield loop
    loop.close()


def test_loop_that_blocks_in_short_calls_is_busy_and_one_that_waits_is_not(loop: asyncio.AbstractEventLoop) -> None:
    async def measure() -> tuple[int, float]:
        meter = make_meter(loop)
        assert isinstance(meter, WaitMeter)
        await asyncio.sleep(0)
        meter.take(0)
        blocked = 0.0
        for _ in range(20):
            start = time.monotonic()
            time.sleep(0.002)  # noqa: ASYNC251  # it shall block
            blocked += time.monotonic() - start
            await asyncio.sleep(0)
        busy = meter.take(0)
        idle = 0
        while idle < 100 * MS:  # one sleep may be over before it begins: others use this processor as well
            start = time.monotonic_ns()
            await asyncio.sleep(0.05)
            idle += time.monotonic_ns() - start - meter.take(0)
        return busy, blocked

    busy, blocked = loop.run_until_complete(asyncio.wait_for(measure(), PATIENCE))
    assert busy >= blocked * 1e9


def test_loop_without_a_measure_of_its_own_gets_the_other_one() -> None:
    loop = asyncio.SelectorEventLoop()
    try:
        assert isinstance(make_meter(loop), CPUMeter)
    finally:
        loop.close()


@pytest.mark.parametrize(
    "fake",
    [
        types.SimpleNamespace(),
        types.SimpleNamespace(libuv_get_loop_t_ptr=lambda _: None, __file__="/nothing/there.so"),
        types.SimpleNamespace(libuv_get_loop_t_ptr=lambda _: None, __file__=None),  # the program itself
    ],
)
def test_uvloop_that_does_not_show_libuv_gets_the_other_one(
    fake: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = uvloop.new_event_loop()
    fake.Loop = uvloop.Loop
    try:
        monkeypatch.setitem(sys.modules, "uvloop.loop", fake)
        assert isinstance(make_meter(loop), CPUMeter)
    finally:
        loop.close()


def test_selector_does_not_count_a_look_for_a_wait() -> None:
    selector = module.TimedSelector()
    selector.select(0)
    selector.select(-1)
    assert selector.waited_ns == 0
    selector.select(0.001)
    assert selector.waited_ns > 0
    selector.close()
