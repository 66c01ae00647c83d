from __future__ import annotations

import io
import itertools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from outrider import watchdog as module
from outrider.watchdog import (
    HARD_EXIT_GRACE,
    WARNING_PERIOD,
    DeadManSwitch,
    KillImminent,
    StallDetector,
    StallEnded,
    StallEvent,
    StallStarted,
    Watchdog,
    kill_margin,
    log_descriptor,
)

PATIENCE = 10.0


class Loop:
    """An event loop seen by a detector four times a second, in exact binary fractions of a second."""

    def __init__(self, detector: StallDetector) -> None:
        self.detector = detector
        self.now = self.beat = self.cpu = 0.0
        self.events: list[StallEvent] = detector.observe(0.0, 0.0, 0.0)

    def observe_after(self, seconds: float, *, cpu: float = 0.0) -> list[StallEvent]:
        self.now += seconds
        self.cpu += cpu
        events = self.detector.observe(self.now, self.beat, self.cpu)
        self.events += events
        return events

    def stall(self, seconds: float) -> list[StallEvent]:
        return [event for _ in range(int(seconds * 4)) for event in self.observe_after(0.25)]

    def run(self, seconds: float = 0.25) -> list[StallEvent]:
        events = []
        for _ in range(int(seconds * 4)):
            self.beat = self.now + 0.25
            events += self.observe_after(0.25)
        return events


# The detector


@pytest.mark.parametrize(
    "stall_warning, timeout, interval",
    [
        (0, 0, None),
        (1.0, 0, 0.25),
        (60.0, 0, 0.25),
        (0.4, 0, 0.1),
        (0.001, 0, 0.01),
        (0, 30, 0.25),
        (1.0, 1, 0.2),
    ],
)
def test_detector_chooses_interval(stall_warning: float, timeout: float, interval: float | None) -> None:
    assert StallDetector(stall_warning, timeout).interval == interval


@pytest.mark.parametrize("timeout, margin", [(0.5, 0.2), (1, 0.2), (2, 0.4), (5, 1.0), (30, 1.0)])
def test_last_words_come_shortly_before_kill(timeout: float, margin: float) -> None:
    assert kill_margin(timeout) == margin


def test_detector_that_is_off_reports_nothing() -> None:
    loop = Loop(StallDetector(0, 0))
    loop.stall(100)
    loop.run()
    assert loop.events == []


def test_detector_reports_nothing_while_loop_beats() -> None:
    loop = Loop(StallDetector(1.0, 30))
    loop.run(60)
    loop.stall(0.75)
    loop.run()
    assert loop.events == []


def test_detector_reports_stall_once_and_its_end() -> None:
    loop = Loop(StallDetector(1.0, 0))
    assert loop.stall(0.75) == []
    assert loop.stall(60) == [StallStarted(1.0, suppressed=0, starved=False)]
    assert loop.run() == [StallEnded(61.0)]
    assert loop.run() == []


def test_detector_suppresses_and_counts_stalls_within_period() -> None:
    loop = Loop(StallDetector(1.0, 0))
    loop.stall(1)
    loop.run()
    for _ in range(2):
        assert loop.stall(1.5) == []
        assert loop.run() == []
    loop.run(WARNING_PERIOD)
    assert loop.stall(1) == [StallStarted(1.0, suppressed=2, starved=False)]
    loop.run(WARNING_PERIOD)
    assert loop.stall(1) == [StallStarted(1.0, suppressed=0, starved=False)]


def test_detector_reports_suppressed_stall_that_outlasts_period() -> None:
    loop = Loop(StallDetector(1.0, 0))
    loop.stall(1)
    loop.run()
    (started,) = loop.stall(30)
    assert started == StallStarted(WARNING_PERIOD - 0.25, suppressed=0, starved=False)
    assert loop.run() == [StallEnded(30.25)]
    loop.run(WARNING_PERIOD)
    assert loop.stall(1) == [StallStarted(1.0, suppressed=0, starved=False)]


def test_detector_foresees_kill_once() -> None:
    loop = Loop(StallDetector(1.0, 5))
    assert loop.stall(10) == [StallStarted(1.0, suppressed=0, starved=False), KillImminent(4.0)]
    assert loop.run() == [StallEnded(10.25)]
    assert loop.stall(10) == [StallStarted(1.0, suppressed=0, starved=False), KillImminent(4.0)]


def test_detector_foresees_kill_while_warning_is_off() -> None:
    loop = Loop(StallDetector(0, 5))
    assert loop.stall(4) == [KillImminent(4.0)]
    assert loop.run() == [StallEnded(4.25)]


def test_detector_reports_kill_in_place_of_later_warning() -> None:
    loop = Loop(StallDetector(4.0, 5))
    assert loop.stall(10) == [KillImminent(4.0)]


def test_detector_forgives_loop_of_stopped_process() -> None:
    loop = Loop(StallDetector(1.0, 30))
    assert loop.observe_after(3600) == []
    assert loop.stall(0.75) == []
    assert loop.stall(0.25) == [StallStarted(1.0, suppressed=0, starved=False)]
    assert loop.observe_after(3600) == []
    assert loop.stall(1) == []
    assert loop.run() == [StallEnded(2.25)]


def test_detector_forgives_loop_that_beat_just_before_process_stopped() -> None:
    loop = Loop(StallDetector(1.0, 30))
    loop.beat = 0.125
    assert loop.observe_after(3600) == []
    assert loop.stall(0.75) == []
    assert loop.stall(0.25) == [StallStarted(1.0, suppressed=0, starved=False)]


def test_detector_does_not_count_stop_in_stall_that_ended_with_it() -> None:
    loop = Loop(StallDetector(1.0, 30))
    loop.stall(1)
    loop.beat = loop.now + 3599.75
    assert loop.observe_after(3600) == [StallEnded(1.0)]


def test_detector_blames_loop_when_process_was_busy_and_observer_kept_waiting() -> None:
    loop = Loop(StallDetector(1.0, 30))
    assert loop.observe_after(3.0, cpu=2.5) == [StallStarted(3.0, suppressed=0, starved=True)]


def test_detector_takes_observer_late_by_one_interval_for_punctual() -> None:
    loop = Loop(StallDetector(1.0, 30))
    assert loop.observe_after(0.5) == []
    assert loop.observe_after(0.5) == [StallStarted(1.0, suppressed=0, starved=False)]


# The watchdog, without its thread


class MemoryLog:
    """Keeps what is logged, formatted as logging does."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.written = threading.Event()

    def warning(self, msg: str, *args: object) -> None:
        self._keep("warning", msg % args)

    def critical(self, msg: str, *args: object) -> None:
        self._keep("critical", msg % args)

    def exception(self, msg: str, *args: object) -> None:
        self._keep("exception", f"{msg % args}: {sys.exc_info()[1]!r}")

    def _keep(self, level: str, line: str) -> None:
        self.lines.append((level, line))
        self.written.set()


class RecordingSwitch(DeadManSwitch):
    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.armed: list[tuple[float, bool]] = []
        self.disarmed = 0

    def arm(self, seconds: float, *, exit: bool) -> None:  # noqa: A002  # faulthandler's name for it
        self.armed.append((seconds, exit))

    def disarm(self) -> None:
        self.disarmed += 1


class Bench:
    """A watchdog on a fake clock."""

    def __init__(
        self,
        stall_warning: float = 0,
        timeout: float = 0,
        describe: Callable[[], str | list[str]] = lambda: ["GET /slow"],
        cpu_clock: Callable[[], float] | None = None,
    ) -> None:
        self.now = 100.0
        self.cpu = 0.0
        self.log = MemoryLog()
        self.switch = RecordingSwitch()
        self.watchdog = Watchdog(
            self.log,
            describe,
            stall_warning,
            timeout,
            clock=lambda: self.now,
            cpu_clock=cpu_clock or (lambda: self.cpu),
            dead_man=self.switch,
        )

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.now += 0.25
            self.watchdog.check()


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


def test_watchdog_logs_number_of_suppressed_stalls(stalled: Bench) -> None:
    for _ in range(3):
        stalled.pass_time(1)
        stalled.watchdog.beat()
        stalled.pass_time(0.25)
    stalled.now += WARNING_PERIOD
    stalled.watchdog.beat()
    stalled.watchdog.check()
    stalled.log.lines.clear()
    stalled.pass_time(1)
    assert "Not reported since the last warning: 2 more of these\n" in stalled.log.lines[0][1]


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


# The switch


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_switch_dumps_stacks_where_log_was_when_armed(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = os.dup(writer)
    switch = DeadManSwitch(lambda: log)
    switch.arm(-1.0, exit=False)
    os.close(log)  # as a log that is reopened
    first = os.read(reader, 65536)
    switch.disarm()
    assert first.startswith(b"Timeout")


def test_switch_armed_again_dumps_once(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    switch = DeadManSwitch(lambda: writer)
    descriptors = open_descriptors()
    switch.arm(PATIENCE, exit=False)
    switch.arm(PATIENCE, exit=False)
    assert open_descriptors() == descriptors + 1
    switch.disarm()
    assert open_descriptors() == descriptors
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)


def test_switch_without_descriptor_does_nothing() -> None:
    switch = DeadManSwitch(lambda: None)
    descriptors = open_descriptors()
    switch.arm(0.0, exit=True)
    switch.disarm()
    assert open_descriptors() == descriptors


PRELUDE = """
import ctypes, logging, os, time
from outrider import watchdog
watchdog.HARD_EXIT_GRACE = 0.0
def block_with_interpreter_lock():
    while dog._dead_man._descriptor is None:
        os.sched_yield()
    print("blocked", flush=True)
    ctypes.PyDLL(None).pause()
"""
SELF_EXIT = """
dog = watchdog.Watchdog(logging.getLogger(), list, 0, 0)
dog.start()
dog.expire_at(time.monotonic() + 0.2, print)
block_with_interpreter_lock()
"""
LAST_WORDS = """
dog = watchdog.Watchdog(logging.getLogger(), list, 0, 0.5)
dog.start()
block_with_interpreter_lock()
"""


def spawn(script: str) -> subprocess.Popen[bytes]:
    source_root = Path(module.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(source_root)},
    )


def test_process_that_holds_interpreter_lock_dumps_stacks_before_timeout() -> None:
    with spawn(LAST_WORDS) as process:
        assert process.stderr is not None
        try:
            dumped = next((line for line in process.stderr if b"in block_with_interpreter_lock" in line), None)
        finally:
            process.kill()
    assert dumped is not None


def test_process_that_holds_interpreter_lock_ends_after_deadline() -> None:
    with spawn(SELF_EXIT) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, out) == (1, b"blocked\n")
    assert b"in block_with_interpreter_lock" in err


# Where the log goes, and what every thread does


class GunicornLog:
    def __init__(self, handler: logging.Handler) -> None:
        self.error_log = logging.getLogger("test_watchdog")
        self.error_log.handlers = [handler]


def test_log_descriptor_is_that_of_log_file(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "error.log")
    descriptor = cast("io.TextIOWrapper", handler.stream).fileno()
    try:
        assert log_descriptor(GunicornLog(handler)) == descriptor
        assert log_descriptor(GunicornLog(handler).error_log) == descriptor
    finally:
        handler.close()


@pytest.mark.parametrize("handler", [logging.NullHandler(), logging.StreamHandler(io.StringIO())])
def test_log_descriptor_falls_back_to_standard_error(handler: logging.Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert log_descriptor(GunicornLog(handler)) == stderr.fileno()
        assert log_descriptor(MemoryLog()) == stderr.fileno()


def test_log_descriptor_is_none_without_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert log_descriptor(MemoryLog()) is None
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert log_descriptor(MemoryLog()) is None


def test_watchdog_writes_dumps_to_its_log_by_default(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "error.log")
    descriptor = cast("io.TextIOWrapper", handler.stream).fileno()
    try:
        log = GunicornLog(handler).error_log
        assert Watchdog(log, list, 0, 0)._dead_man._find_descriptor() == descriptor
    finally:
        handler.close()
