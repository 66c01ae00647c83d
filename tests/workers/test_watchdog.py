"""The watchdog: what it logs, its deadline and its thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from outrider import watchdog as module
from outrider.stall_detector import WARNING_PERIOD
from outrider.watchdog import HARD_EXIT_GRACE
from outrider_testing.watchdog_fakes import PATIENCE, Bench


@pytest.fixture
def stalled() -> Bench:
    bench = Bench(stall_warning=1.0, timeout=5)
    bench.watchdog.check()
    return bench


def test_watchdog_logs_stack_of_blocked_loop_and_requests(stalled: Bench) -> None:
    def block_the_loop() -> None:
        stalled.pass_time(1)

    block_the_loop()
    ((level, text),) = stalled.log.lines
    assert level == "warning"
    assert text.startswith("Event loop blocked for 1.0 s and with it every other request\nMove blocking calls")
    assert "\nBlocked at " in text
    assert "in block_the_loop\n    stalled.pass_time(1)\n" in text
    assert text.endswith("Requests in flight:\n  GET /slow")


def test_watchdog_logs_last_words_before_kill(stalled: Bench) -> None:
    stalled.pass_time(4)
    level, text = stalled.log.lines[-1]
    assert level == "critical"
    assert text.startswith("Event loop blocked for 4.0 s; the master is about to kill this worker (timeout)\n")
    assert "test_watchdog_logs_last_words_before_kill" in text
    assert text.endswith("Requests in flight:\n  GET /slow")


def test_watchdog_logs_end_of_stall(stalled: Bench) -> None:
    stalled.pass_time(2)
    stalled.watchdog.beat()
    stalled.pass_time(0.25)
    assert stalled.log.lines[1:] == [("warning", "Event loop runs again after 2.0 s")]


def test_watchdog_logs_nothing_while_loop_beats(stalled: Bench) -> None:
    for _ in range(20):
        stalled.watchdog.beat()
        stalled.pass_time(0.25)
    assert stalled.log.lines == []


def run_loop(bench: Bench, seconds: float) -> None:
    for _ in range(round(seconds * 4)):
        bench.watchdog.beat()
        bench.pass_time(0.25)


def test_watchdog_logs_suppressed_stalls_in_one_line_later(stalled: Bench) -> None:
    def block() -> None:
        for _ in range(4):
            stalled.now += 0.25
            stalled.watchdog.check()

    def block_elsewhere() -> None:
        for _ in range(6):
            stalled.now += 0.25
            stalled.watchdog.check()

    for each in (block, block, block_elsewhere, block_elsewhere):
        each()
        run_loop(stalled, 0.25)
    assert stalled.watchdog.stalls == 4
    stalled.log.lines.clear()
    stalled.log.stalls.clear()
    run_loop(stalled, WARNING_PERIOD)
    ((level, text),) = stalled.log.lines
    assert level == "warning"
    summary, one, two = text.splitlines()
    assert summary == "Event loop blocked 3 more times since the last warning"
    assert one.startswith("  1, 1.2 s: ")
    assert two.startswith("  2, 3.5 s: ")
    assert [(each["count"], each["seconds"], each["longest"]) for each in stalled.log.stalls] == [
        (1, 1.25, 1.25),
        (2, 3.5, 1.75),
    ]
    assert "block_elsewhere" in stalled.log.stalls[1]["frame"]


def test_watchdog_logs_one_suppressed_stall(stalled: Bench) -> None:
    for _ in range(2):
        stalled.pass_time(1)
        run_loop(stalled, 0.25)
    run_loop(stalled, WARNING_PERIOD)
    assert stalled.log.lines[-1][1].startswith("Event loop blocked once more since the last warning\n  1, 1.2 s: ")


def test_watchdog_tells_of_a_stall_in_numbers_that_add_up(stalled: Bench) -> None:
    def block_the_loop() -> None:
        for _ in range(18):
            stalled.now += 0.25
            stalled.watchdog.check()

    block_the_loop()  # a warning, and the last words at 4 s
    stalled.watchdog.beat()
    stalled.pass_time(0.25)
    told = stalled.log.stalls
    assert [each["count"] for each in told] == [1, 0, 0]
    assert [each["seconds"] for each in told] == [1.0, 3.0, 0.5]
    assert [each["longest"] for each in told] == [1.0, 4.0, 4.5]
    assert len({each["frame"] for each in told}) == 1
    assert "block_the_loop" in told[0]["frame"]
    assert "stalled.watchdog.check()" in told[1]["stack"]
    assert told[2]["stack"] == ""
    assert stalled.watchdog.stalls == 1


def test_watchdog_counts_stall_that_only_the_kill_would_end() -> None:
    bench = Bench(timeout=5)
    bench.pass_time(4)
    assert [each["count"] for each in bench.log.stalls] == [1]
    assert bench.watchdog.stalls == 1


def test_watchdog_tells_all_of_a_stall_that_outlasts_the_silence(stalled: Bench) -> None:
    stalled.pass_time(1)
    run_loop(stalled, 0.25)
    stalled.log.stalls.clear()
    stalled.pass_time(4)  # muted, until the last words
    run_loop(stalled, 0.25)
    assert [(each["count"], each["seconds"]) for each in stalled.log.stalls] == [(1, 4.0), (0, 0.25)]
    run_loop(stalled, WARNING_PERIOD)
    assert len(stalled.log.stalls) == 2
    assert stalled.watchdog.stalls == 2


def test_watchdog_logs_that_no_other_thread_could_run(stalled: Bench) -> None:
    stalled.now += 2
    stalled.cpu += 2
    stalled.watchdog.check()
    assert "one call held the interpreter lock\n" in stalled.log.lines[0][1]


@pytest.mark.parametrize(
    "description, listed",
    [("GET /a", "\n  GET /a"), (["GET /a", "GET /b"], "\n  GET /a\n  GET /b"), ("", ""), ([], "")],
)
def test_watchdog_lists_requests(description: str | list[str], listed: str) -> None:
    bench = Bench(stall_warning=1.0, describe=lambda: description)
    bench.pass_time(1)
    assert bench.log.lines[0][1].endswith(f"Requests in flight:{listed}")


def test_watchdog_reports_stall_when_requests_cannot_be_listed() -> None:
    def fail() -> str:
        raise RuntimeError("dictionary changed size during iteration")

    bench = Bench(stall_warning=1.0, describe=fail)
    bench.pass_time(1)
    assert bench.log.lines[0][1].endswith(
        "Requests in flight: unknown (RuntimeError('dictionary changed size during iteration'))"
    )


def test_watchdog_reports_stall_of_thread_that_ended() -> None:
    bench = Bench(stall_warning=1.0)
    thread = threading.Thread(target=bench.watchdog.start)
    thread.start()
    thread.join()
    bench.watchdog.stop()
    bench.pass_time(1)
    assert "Stack of the event loop's thread:\n  (gone)\n" in bench.log.lines[0][1]


# The deadline


def test_watchdog_acts_once_at_deadline() -> None:
    bench = Bench()
    calls: list[float] = []
    bench.watchdog.expire_at(101.0, lambda: calls.append(bench.now))
    bench.pass_time(3)
    assert calls == [101.0]


def test_watchdog_keeps_earlier_deadline() -> None:
    bench = Bench()
    calls: list[str] = []
    bench.watchdog.expire_at(102.0, lambda: calls.append("drain"))
    bench.watchdog.expire_at(101.0, lambda: calls.append("quick stop"))
    bench.watchdog.expire_at(103.0, lambda: calls.append("later"))
    bench.pass_time(5)
    assert calls == ["quick stop"]


def test_watchdog_takes_new_deadline_from_action() -> None:
    bench = Bench()
    calls: list[float] = []
    bench.watchdog.expire_at(101.0, lambda: bench.watchdog.expire_at(102.0, lambda: calls.append(bench.now)))
    bench.pass_time(3)
    assert calls == [102.0]


# When to arm the dead man's switch


def test_watchdog_without_limits_arms_nothing() -> None:
    bench = Bench()
    bench.pass_time(5)
    assert bench.switch.armed == []


def test_watchdog_arms_switch_again_each_second() -> None:
    bench = Bench(timeout=30)
    bench.pass_time(2.25)
    assert bench.switch.armed == [(29.0, False)] * 3


def test_watchdog_arms_switch_more_often_where_timeout_is_short() -> None:
    bench = Bench(timeout=1)
    bench.pass_time(1)
    assert bench.switch.armed == [(0.8, False)] * 4


def test_watchdog_arms_hard_exit_behind_deadline() -> None:
    bench = Bench()
    bench.watchdog.expire_at(103.0, lambda: None)
    bench.pass_time(5)
    assert bench.switch.armed == [(3.0 + HARD_EXIT_GRACE - 0.25, True)]


def test_watchdog_arms_whichever_of_dump_and_hard_exit_is_nearer() -> None:
    bench = Bench(timeout=5)
    bench.watchdog.expire_at(105.25, lambda: None)
    bench.pass_time(5)
    assert bench.switch.armed == [(4.0, False), (4.0, False), (4.0, True)]


def test_watchdog_tells_guard_how_long_loop_has_been_silent() -> None:
    silences: list[float] = []
    called = threading.Event()

    def guard(silence: float) -> None:
        silences.append(silence)
        called.set()

    bench = Bench()
    bench.watchdog.start(guard)
    try:
        assert called.wait(PATIENCE)
    finally:
        bench.watchdog.stop()
    del silences[:]
    bench.pass_time(0.5)
    bench.watchdog.beat()
    bench.pass_time(0.25)
    assert silences == [0.25, 0.5, 0.25]


# The thread


@pytest.fixture
def threaded() -> Iterator[Callable[..., Bench]]:
    started: list[Bench] = []

    def start(*args: Any, **kwargs: Any) -> Bench:
        bench = Bench(*args, **kwargs)
        started.append(bench)
        bench.watchdog.start()
        return bench

    yield start
    for bench in started:
        bench.watchdog.stop()


def test_thread_notices_stall(threaded: Callable[..., Bench]) -> None:
    busy = itertools.count(0, 1000)  # or the jump of the clock would pass for a suspended machine
    bench = threaded(stall_warning=0.04, cpu_clock=lambda: next(busy))
    bench.now += 1

    def block() -> bool:
        return bench.log.written.wait(PATIENCE)

    assert block()
    assert "in block\n" in bench.log.lines[0][1]
    # What was on the stack at the start led into the loop, and is no news.
    assert "in test_thread_notices_stall\n" not in bench.log.lines[0][1]


def test_thread_wakes_for_guard_alone() -> None:
    calls = threading.Semaphore(0)
    bench = Bench()
    bench.watchdog.start(lambda _: calls.release())
    try:
        assert all(calls.acquire(timeout=PATIENCE) for _ in range(2))
    finally:
        bench.watchdog.stop()


@pytest.mark.parametrize("stall_warning", [0, 1.0])
def test_thread_wakes_for_deadline(threaded: Callable[..., Bench], stall_warning: float) -> None:
    bench = threaded(stall_warning=stall_warning)
    acted_in: list[str] = []
    acted = threading.Event()

    def act() -> None:
        acted_in.append(threading.current_thread().name)
        acted.set()

    bench.watchdog.expire_at(bench.now, act)
    assert acted.wait(PATIENCE)
    assert acted_in == ["outrider-watchdog"]


@pytest.mark.parametrize(
    "stall_warning, deadline, pause",
    [
        (0, None, None),
        (1.0, None, 0.25),
        (0, 103.0, 3.0),
        (1.0, 103.0, 0.25),
        (1.0, 100.125, 0.125),
        (0, 99.0, 0),
    ],
)
def test_thread_pauses_until_something_is_due(
    stall_warning: float, deadline: float | None, pause: float | None
) -> None:
    bench = Bench(stall_warning=stall_warning)
    if deadline is not None:
        bench.watchdog.expire_at(deadline, lambda: None)
    assert bench.watchdog._pause() == pause


def test_thread_survives_action_that_fails(threaded: Callable[..., Bench]) -> None:
    bench = threaded()
    acted = threading.Event()
    bench.watchdog.expire_at(bench.now, lambda: 1 / 0)
    assert bench.log.written.wait(PATIENCE)
    bench.watchdog.expire_at(bench.now, acted.set)
    assert acted.wait(PATIENCE)
    assert bench.log.lines == [
        (
            "exception",
            "Watchdog failed in one of its checks and goes on: ZeroDivisionError('division by zero')",
        )
    ]


def test_stop_ends_thread_and_disarms_switch(threaded: Callable[..., Bench]) -> None:
    bench = threaded(timeout=30)
    thread = bench.watchdog._thread
    assert thread is not None
    assert thread.daemon
    bench.watchdog.stop()
    assert not thread.is_alive()
    assert bench.switch.disarmed == 1
    assert bench.watchdog._finder._outside == []


def test_stop_before_start_disarms_switch() -> None:
    bench = Bench()
    bench.watchdog.stop()
    assert bench.switch.disarmed == 1


def test_stop_does_not_wait_for_thread_that_hangs(
    threaded: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOP_PATIENCE", 0.01)
    bench = threaded()
    hanging, released = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        released.wait(PATIENCE)

    bench.watchdog.expire_at(bench.now, hang)
    assert hanging.wait(PATIENCE)
    bench.watchdog.stop()
    thread = bench.watchdog._thread
    assert thread is not None
    assert thread.is_alive()
    released.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_watchdog_whose_thread_cannot_be_started_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends the worker then is the reason, and not another failure behind it."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    bench = Bench()
    with pytest.raises(RuntimeError, match="new thread"):
        bench.watchdog.start()
    bench.watchdog.stop()
