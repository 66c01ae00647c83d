"""What the service manager is told as time goes on."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest

from outrider_supervisor.events import StopAsked
from outrider_supervisor.fleet import OVERTIME
from outrider_supervisor.liveness import GRACE
from outrider_supervisor.machine import Machine
from outrider_supervisor.manager_reports import (
    EXTENSION,
    EXTENSION_PERIOD,
    FEEDS_PER_PERIOD,
    LONGEST_ABSENCE,
    STATUS_PERIOD,
    ManagerReports,
)
from outrider_supervisor.status_report import Clocks
from outrider_testing.fake_masters import FakeNotifier
from outrider_testing.fakes.supervised_processes import BOOT_HANGS, FOREVER, Release
from outrider_testing.fakes.supervised_service import FakeService

EXTEND = f"extend {EXTENSION:g}"


class Row:
    """A worker's row, as far as it is read here."""

    def __init__(self, heartbeat: float = 0.0, in_flight: int = 0) -> None:
        self.heartbeat = heartbeat * 1e9
        self.in_flight = in_flight


class Stage:
    """One service, and what its manager hears of it."""

    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.notifier = FakeNotifier()
        self.rows: dict[int, Row] = {}
        self.reports = ManagerReports(cast("Any", self.notifier), lambda: cast("Any", self.rows))

    def tell(self) -> list[str]:
        """What is told now."""
        self.notifier.told.clear()
        self.reports.tell(self.service.machine, Clocks(self.service.now, 0.0))
        return list(self.notifier.told)

    def extend(self) -> list[str]:
        """The same of the time that is asked for."""
        self.notifier.told.clear()
        self.reports.extend(self.service.machine, self.service.now)
        return list(self.notifier.told)

    def is_fed(self, *, silent: float = 0.0) -> bool:
        """Whether the watchdog is fed now, while all loops have been silent for so long."""
        self.rows = {pid: Row(self.service.now - silent) for pid in self.service.current.workers}
        self.notifier.told.clear()
        self.reports.feed(self.service.machine, self.service.now)
        return self.notifier.told == ["alive"]


@pytest.fixture
def stage(service: FakeService) -> Stage:
    return Stage(service)


# -- the line


def test_same_line_is_told_once(stage: Stage) -> None:
    assert stage.tell() == ["Serving with 4 of 4 workers (generation 1)"]
    stage.service.run(10 * STATUS_PERIOD)
    assert stage.tell() == []


def test_line_of_one_state_changes_once_a_second_at_most(stage: Stage) -> None:
    stage.service.scale(8)
    assert stage.tell() == ["Serving with 4 of 8 workers (generation 1); scale under way"]
    told_at = stage.service.now
    stage.service.current.workers.popitem()
    stage.service.now = told_at + STATUS_PERIOD - 0.01
    assert stage.tell() == []
    stage.service.now = told_at + STATUS_PERIOD
    assert stage.tell() == ["Serving with 3 of 8 workers (generation 1); scale under way"]


def test_another_state_is_told_at_once(stage: Stage) -> None:
    stage.tell()
    stage.service.reload()
    assert stage.tell() == ["Reloading: reading the configuration; 4 workers serving"]
    stage.service.stop()
    assert stage.tell()[0].startswith("Stopping: ")


def test_state_that_changes_by_itself_is_told_at_once(stage: Stage) -> None:
    stage.tell()
    stage.service.masters[1].release = BOOT_HANGS
    stage.service.kill_worker(stage.service.pids(1)[0])
    stage.service.step()
    assert stage.service.machine.state == "degraded"
    assert stage.tell() == ["Degraded: serving with 3 of 4 workers (generation 1)"]


def test_stop_is_told_where_nothing_has_been_opened_yet() -> None:
    def rows() -> Any:
        raise AssertionError("there is no scoreboard")

    notifier = FakeNotifier()
    machine = Machine()
    machine.handle(StopAsked(0, fast=False), 1000.0)
    ManagerReports(cast("Any", notifier), rows).tell(machine, Clocks(1000.0, 0.0))
    assert notifier.told == ["Stopping: 0 requests in flight, 0 workers left"]


def test_line_that_did_not_arrive_is_told_again(stage: Stage) -> None:
    stage.notifier.is_deaf = True
    assert stage.tell() == []
    stage.notifier.is_deaf = False
    assert stage.tell() == ["Serving with 4 of 4 workers (generation 1)"]


def test_requests_in_flight_are_those_of_living_workers(stage: Stage) -> None:
    stage.service.stop()
    first, second, *_ = stage.service.workers
    stage.rows = {first: Row(in_flight=2), second: Row(in_flight=3), 99: Row(in_flight=100)}
    assert stage.tell()[0].startswith("Stopping: 5 requests in flight, 4 workers left")


# -- more time


def test_time_is_asked_for_again_and_again_until_the_deadline() -> None:
    service = FakeService(BOOT_HANGS, workers=2, boot_timeout=60.0).start()
    stage = Stage(service)
    deadline = service.machine.deadline
    assert deadline == service.now + 60.0 + OVERTIME
    asked = []
    while service.now < deadline + 60.0:
        asked += [service.now for _ in stage.extend()]
        service.now += 0.25
    gaps = {later - earlier for earlier, later in itertools.pairwise(asked)}
    assert gaps == {EXTENSION_PERIOD}
    assert EXTENSION_PERIOD < EXTENSION
    assert deadline - EXTENSION_PERIOD < asked[-1] <= deadline


def test_no_time_is_asked_for_while_nothing_goes_on(stage: Stage) -> None:
    assert stage.extend() == []
    stage.service.scale(5)
    assert stage.extend() == []


def test_reload_that_waits_for_another_operation_asks_for_time(stage: Stage) -> None:
    stage.service.scale(5)
    stage.extend()
    stage.service.reload()
    assert stage.extend() == [EXTEND]


def test_next_thing_asks_for_time_at_once(stage: Stage) -> None:
    stage.service.reload()
    assert stage.extend() == [EXTEND]
    assert stage.extend() == []
    stage.service.stop()
    assert stage.extend() == [EXTEND]


def test_drain_asks_for_time_until_everybody_should_have_been_killed() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), workers=2, graceful_timeout=120.0).serve()
    stage = Stage(service)
    service.stop()
    end = service.now + 120.0 + 2 * OVERTIME
    asked = []
    while service.now < end + 60.0:
        asked += [service.now for _ in stage.extend()]
        service.now += 0.25
    assert end - EXTENSION_PERIOD < asked[-1] <= end


def test_absence_is_announced(stage: Stage) -> None:
    stage.reports.ask_for_time(12.0)
    assert stage.notifier.told == ["extend 12"]
    stage.notifier.watchdog = 3.0
    stage.reports.ask_for_time(12.0)
    assert stage.notifier.told == ["extend 12", "alive", "extend 12"]


# -- the watchdog


def test_nobody_is_fed_without_a_watchdog(stage: Stage) -> None:
    assert stage.reports.longest_pause is None
    assert not stage.is_fed()


def test_watchdog_is_fed_several_times_in_its_period(stage: Stage) -> None:
    stage.notifier.watchdog = 1.5
    assert stage.reports.longest_pause == 1.5 / FEEDS_PER_PERIOD


def test_service_that_died_is_fed_for_a_moment_more(stage: Stage) -> None:
    stage.notifier.watchdog = 3.0
    assert stage.is_fed()
    died_at = stage.service.now
    stage.service.current.workers.clear()
    while stage.service.now < died_at + GRACE:
        assert stage.is_fed()
        stage.service.now += 1.0
    stage.service.now += 1.0
    assert not stage.is_fed()


def test_service_that_comes_back_is_fed_again(stage: Stage) -> None:
    stage.notifier.watchdog = 3.0
    assert stage.is_fed()
    fed = []
    for _ in range(int(GRACE) + 2):
        stage.service.now += 1.0
        fed.append(stage.is_fed(silent=100.0))
    assert not fed[-1]
    assert stage.is_fed()


def test_machine_that_stood_still_is_given_time_to_go_on(stage: Stage) -> None:
    stage.notifier.watchdog = 3.0
    assert stage.is_fed()
    stage.service.now += 100.0 + LONGEST_ABSENCE
    assert stage.is_fed(silent=100.0)
