"""The end of a worker's process, whatever the application has left behind."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from outrider import process_end as module
from outrider.process_end import (
    LEAST_TASK_PATIENCE,
    LOG_PATIENCE,
    MOST_TASK_PATIENCE,
    close_loop,
    limit_wait_for_threads,
)
from outrider_testing.fakes import FakeLog
from outrider_testing.waiting import until

ENDED: list[str] = []
FLUSHED: list[float] = []
"""The seconds that the log was given to be written."""


@pytest.fixture(autouse=True)
def nothing_ended() -> None:
    ENDED.clear()
    FLUSHED.clear()


async def generate() -> AsyncGenerator[int, None]:
    try:
        yield 1
    finally:
        ENDED.append("generator")


async def wait_for_ever() -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        ENDED.append("task")


def test_what_the_application_left_is_cancelled() -> None:
    generator = generate()

    async def begin() -> asyncio.Task[None]:
        await anext(generator)
        task = asyncio.get_running_loop().create_task(wait_for_ever())
        await asyncio.sleep(0)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(begin())
    close_loop(loop, 0.0)
    assert sorted(ENDED) == ["generator", "task"]
    assert task.cancelled()
    assert loop.is_closed()


def test_loop_of_a_tidy_application_is_closed() -> None:
    loop = asyncio.new_event_loop()
    close_loop(loop, 0.0)
    assert loop.is_closed()


class ImpatientLoop(asyncio.SelectorEventLoop):
    """Time flies: every wait is over at once. `waits` has their lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def call_at(  # type: ignore[override]  # of no generic type here
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self.waits.append(when - self.time())
        return super().call_at(0, callback, *args, context=context)

    def time(self) -> float:
        return 1000.0


@pytest.mark.parametrize(
    "time_left, patience",
    [(None, MOST_TASK_PATIENCE), (3600, MOST_TASK_PATIENCE), (0.1, 0.05), (-1, LEAST_TASK_PATIENCE)],
)
def test_task_that_does_not_end_is_waited_for_as_long_as_there_is_time(
    monkeypatch: pytest.MonkeyPatch, time_left: float | None, patience: float
) -> None:
    async def stubborn() -> None:
        while not ENDED:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                continue

    loop = ImpatientLoop()
    loop.set_exception_handler(lambda *_: None)  # the task is destroyed while it is pending
    task = loop.create_task(stubborn())
    loop.call_soon(loop.stop)
    loop.run_forever()
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    close_loop(loop, 0.0 if time_left is None else 1000.0 + time_left)
    assert loop.waits[0] == pytest.approx(patience)
    assert loop.is_closed()
    ENDED.append("test")
    task.get_coro().close()


# -- threads


@contextmanager
def stuck_thread() -> Iterator[None]:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="stuck")
    thread.start()
    try:
        yield
    finally:
        release.set()
        thread.join()


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses with which the process would have ended."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(module, "LEAST_THREAD_PATIENCE", 0.0)
    return exits


class FakeTimer:
    """Keeps how long it was to wait."""

    made: list[FakeTimer]  # set by the test

    def __init__(self, seconds: float, *_: object) -> None:
        self.seconds = seconds
        self.daemon = False
        self.made.append(self)

    def start(self) -> None:
        assert self.daemon, "a thread that is not would keep the process itself"


def test_process_without_threads_ends_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTimer.made = []
    monkeypatch.setattr(threading, "Timer", FakeTimer)
    limit_wait_for_threads(FakeLog(), time.monotonic() + 10, FLUSHED.append)
    assert FakeTimer.made == []


@pytest.mark.parametrize("time_left, patience", [(10.0, 10.0), (-5.0, 0.25)])
def test_threads_have_until_the_deadline(monkeypatch: pytest.MonkeyPatch, time_left: float, patience: float) -> None:
    FakeTimer.made = []
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with stuck_thread():
        monkeypatch.setattr(threading, "Timer", FakeTimer)
        limit_wait_for_threads(FakeLog(), 1000.0 + time_left, FLUSHED.append)
    assert [timer.seconds for timer in FakeTimer.made] == [patience]


def test_thread_that_does_not_end_is_left_behind(exits: list[int]) -> None:
    log = FakeLog()
    with stuck_thread():
        limit_wait_for_threads(log, 0.0, FLUSHED.append)
        until(lambda: exits)
    assert exits == [0]
    assert FLUSHED == [LOG_PATIENCE]
    assert log.messages("warning") == ["Exiting although threads of the application still run: stuck"]


@pytest.mark.parametrize(
    "error, status",
    [(SystemExit(3), 3), (SystemExit(), 0), (SystemExit("why"), 1), (ValueError("why"), 1)],
)
def test_status_is_that_of_the_exception_on_its_way(exits: list[int], error: BaseException, status: int) -> None:
    @contextmanager
    def run() -> Iterator[None]:
        try:
            yield
        finally:
            limit_wait_for_threads(FakeLog(), 0.0, FLUSHED.append)

    with stuck_thread():
        with pytest.raises(type(error)), run():
            raise error
        until(lambda: exits)
    assert exits == [status]
