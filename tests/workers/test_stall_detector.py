"""The stall detector: what it reports of a loop that beats, stops or starves."""

from __future__ import annotations

import pytest

from outrider.stall_detector import (
    WARNING_PERIOD,
    KillImminent,
    StallDetector,
    StallEnded,
    StallEvent,
    StallMuted,
    StallsSuppressed,
    StallStarted,
    kill_margin,
)


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
    assert loop.stall(60) == [StallStarted(1.0, starved=False)]
    assert loop.run() == [StallEnded(61.0)]
    assert loop.run() == []


def test_detector_suppresses_and_counts_stalls_within_period() -> None:
    loop = Loop(StallDetector(1.0, 0))
    loop.stall(1)
    loop.run()
    for _ in range(2):
        assert loop.stall(1.5) == [StallMuted(1.0)]
        assert loop.run() == [StallEnded(1.75, is_muted=True)]
    assert loop.run(WARNING_PERIOD) == [StallsSuppressed(2)]
    assert loop.stall(1) == [StallStarted(1.0, starved=False)]
    assert loop.run(WARNING_PERIOD) == [StallEnded(1.25)]


def test_detector_reports_suppressed_stall_that_outlasts_period() -> None:
    loop = Loop(StallDetector(1.0, 0))
    loop.stall(1)
    loop.run()
    muted, started = loop.stall(30)
    assert muted == StallMuted(1.0)
    assert started == StallStarted(WARNING_PERIOD - 0.25, starved=False)
    assert loop.run() == [StallEnded(30.25)]
    assert loop.run(WARNING_PERIOD) == []
    assert loop.stall(1) == [StallStarted(1.0, starved=False)]


def test_detector_foresees_kill_once() -> None:
    loop = Loop(StallDetector(1.0, 5))
    assert loop.stall(10) == [StallStarted(1.0, starved=False), KillImminent(4.0)]
    assert loop.run() == [StallEnded(10.25)]
    assert loop.stall(10) == [StallStarted(1.0, starved=False), KillImminent(4.0)]


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
    assert loop.stall(0.25) == [StallStarted(1.0, starved=False)]
    assert loop.observe_after(3600) == []
    assert loop.stall(1) == []
    assert loop.run() == [StallEnded(2.25)]


def test_detector_forgives_loop_that_beat_just_before_process_stopped() -> None:
    loop = Loop(StallDetector(1.0, 30))
    loop.beat = 0.125
    assert loop.observe_after(3600) == []
    assert loop.stall(0.75) == []
    assert loop.stall(0.25) == [StallStarted(1.0, starved=False)]


def test_detector_does_not_count_stop_in_stall_that_ended_with_it() -> None:
    loop = Loop(StallDetector(1.0, 30))
    loop.stall(1)
    loop.beat = loop.now + 3599.75
    assert loop.observe_after(3600) == [StallEnded(1.0)]


def test_detector_blames_loop_when_process_was_busy_and_observer_kept_waiting() -> None:
    loop = Loop(StallDetector(1.0, 30))
    assert loop.observe_after(3.0, cpu=2.5) == [StallStarted(3.0, starved=True)]


def test_detector_takes_observer_late_by_one_interval_for_punctual() -> None:
    loop = Loop(StallDetector(1.0, 30))
    assert loop.observe_after(0.5) == []
    assert loop.observe_after(0.5) == [StallStarted(1.0, starved=False)]
