"""The line that `systemctl status` shows."""

from __future__ import annotations

import time

import pytest

from outrider_supervisor import events
from outrider_supervisor.machine import Machine
from outrider_supervisor.status_line import MOST_CHARACTERS, describe
from outrider_supervisor.status_report import Clocks
from outrider_testing.fakes.supervised_processes import BOOT_FAILS, FAILS_IN_ROLL, FOREVER, Release
from outrider_testing.fakes.supervised_service import FakeService

WALL = 1_795_000_000.0


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)


def line(service: FakeService, in_flight: int = 0) -> str:
    return describe(service.machine, in_flight, Clocks(service.now, WALL + service.now))


def lines_until(service: FakeService, operation: int) -> list[str]:
    """What is said during an operation, each once."""
    said: dict[str, None] = {}
    while operation not in service.outcomes:
        said[line(service)] = None
        service.step()
    return list(said)


def test_start_says_how_far_it_is() -> None:
    assert describe(Machine(), 0, Clocks(0.0, 0.0)) == "Starting: reading the configuration"
    service = FakeService(workers=4).start()
    assert line(service) == "Starting: the master is booting"
    service.wait_for(lambda: service.machine.fleet.capacity > 0 or service.machine.current is not None)
    service = FakeService(Release(boot_seconds=5.0), workers=4).start()
    service.run(3.0)
    assert line(service) == "Starting: 0 of 4 workers ready"


def test_start_that_failed_says_why() -> None:
    service = FakeService(BOOT_FAILS, workers=2).start()
    service.wait_for(lambda: service.machine.is_stopping)
    assert line(service) == "Failed to start: worker 101 exited with code 3 (failed to boot)"


def test_service_says_who_serves(service: FakeService) -> None:
    assert line(service) == "Serving with 4 of 4 workers (generation 1)"
    service.outcome(service.reload(canary=False))
    assert line(service) == "Serving with 4 of 4 workers (generation 2)"


def test_reload_says_what_it_does() -> None:
    service = FakeService(workers=4, canary_seconds=10.0).serve()
    said = lines_until(service, service.reload())
    assert said[:3] == [
        "Reloading: reading the configuration; 4 workers serving",
        "Reloading: generation 2, the master is booting; 4 workers serving",
        "Reloading: generation 2, 0 of 4 workers ready; 4 workers serving",
    ]
    assert "Reloading: generation 2, canary for 10 s; 5 workers serving" in said
    assert "Reloading: generation 2, 2 of 4 workers ready; 4 workers serving" in said


def test_rollback_is_told_of_until_a_reload_succeeds(service: FakeService) -> None:
    service.deploy(BOOT_FAILS)
    service.outcome(service.reload())
    assert line(service) == (
        "Serving with 4 of 4 workers (generation 1); "
        "reload of 2026-11-18 11:23 rolled back: worker 105 exited with code 3 (failed to boot)"
    )
    service.run(3600.0, tick=60.0)
    assert "reload of 2026-11-18 11:23 rolled back" in line(service)
    service.deploy()
    service.outcome(service.reload())
    assert line(service) == "Serving with 4 of 4 workers (generation 3)"


def test_way_back_is_told(service: FakeService) -> None:
    service.deploy(FAILS_IN_ROLL)
    said = lines_until(service, service.reload(canary=False))
    assert any(each.startswith("Reloading: generation 2, going back: worker ") for each in said)


def test_long_reason_leaves_room_for_who_serves(service: FakeService) -> None:
    service.deploy(FAILS_IN_ROLL)
    service.reload(canary=False)
    service.wait_for(lambda: service.machine.rollout is not None and service.machine.rollout.is_rolling_back)
    assert service.machine.rollout is not None
    service.machine.rollout.failure = "no " * 200
    assert line(service).startswith("Reloading: generation 2, going back: no no no")
    assert line(service).endswith("…; 4 workers serving")


def test_refusal_is_told_of(service: FakeService) -> None:
    service.deploy(Release(refusal="bind: 127.0.0.1:80\nis in use"))
    service.outcome(service.reload())
    assert line(service).endswith("; reload of 2026-11-18 11:23 refused: bind: 127.0.0.1:80 is in use")


def test_generation_that_could_not_be_undone_is_told_of(service: FakeService) -> None:
    service.kill_master(1)
    for pid in service.pids(1)[1:]:
        service.kill_worker(pid)
    service.deploy(Release(boot_fault="exit", good_workers=2))
    service.wait_for(lambda: service.current.number > 1 and service.machine.operation is None)
    assert " failed: worker " in line(service)
    assert line(service).startswith("Degraded: serving with 2 of 4 workers (generation 2)")


def test_recovery_is_no_reload_that_somebody_asked_for(service: FakeService) -> None:
    service.kill_master(1)
    service.wait_for(lambda: service.machine.rollout is not None)
    assert line(service).startswith("Recovering: generation 2, ")


def test_degraded_service_says_why(service: FakeService) -> None:
    service.masters[1].release = BOOT_FAILS
    service.kill_worker(service.pids(1)[0])
    service.wait_for(lambda: service.current.is_backing_off(service.now))
    assert line(service).startswith(
        "Degraded: serving with 3 of 4 workers (generation 1), 1 failure in a row, the next start is at "
    )


def test_missing_master_is_why_a_service_is_degraded(service: FakeService) -> None:
    service.deploy(Release(refusal="no"))
    service.kill_master(1)
    service.wait_for(lambda: service.machine.succession.failed_reload is not None)
    assert line(service).startswith(
        "Degraded: serving with 4 of 4 workers (generation 1), their master is gone; reload"
    )


def test_other_operations_are_told(service: FakeService) -> None:
    service.scale(6)
    assert line(service) == "Serving with 4 of 6 workers (generation 1); scale under way"


def test_stop_says_what_it_waits_for() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), workers=4, graceful_timeout=30.0).serve()
    service.stop()
    assert line(service, 3) == "Stopping: 3 requests in flight, 4 workers left, until 11:23:56 at the latest"
    machine = Machine()
    machine.handle(events.StopAsked(0, fast=False), 1000.0)
    assert describe(machine, 0, Clocks(0.0, 0.0)) == "Stopping: 0 requests in flight, 0 workers left"


def test_limit_of_a_stop_is_that_of_the_last_generation() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), workers=2, canary=False, graceful_timeout=30.0).serve()
    service.outcome(service.reload())
    service.run(10.0)
    service.stop()
    kills = [each.kill_at for each in service.machine.fleet.generations.values() if each.kill_at is not None]
    assert len(kills) == 2
    latest = time.strftime("%H:%M:%S", time.gmtime(WALL + max(kills)))
    assert line(service).endswith(f" 4 workers left, until {latest} at the latest")


def test_stop_that_serves_on_for_a_while_says_so() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), workers=4, stop_delay=10.0).serve()
    service.stop()
    assert line(service, 3) == "Stopping: serving on until 11:23:31, 3 requests in flight, 4 workers left"
    service.run(10.5)
    assert line(service, 3).startswith("Stopping: 3 requests in flight, 4 workers left, until 11:")


def test_line_is_one_and_short(service: FakeService) -> None:
    service.deploy(Release(refusal="no\n" * 500))
    service.outcome(service.reload())
    assert len(line(service)) <= MOST_CHARACTERS
    assert "\n" not in line(service)
    assert line(service).endswith("…")
