"""What the supervisor counts of its own doings, in the service of the fake clock."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from outrider_supervisor.actions import Action
from outrider_supervisor.events import Event, ReloadAsked
from outrider_supervisor.tally import CAUSES, OUTCOMES, Tally
from outrider_testing.fakes.supervised_processes import BOOT_FAILS, CRASHES, FOREVER, MIB, Release
from outrider_testing.fakes.supervised_service import FakeService

WALL = 1_790_000_000.0


def count(service: FakeService, tally: Tally) -> Tally:
    """Have a tally look at the machine before and after each event, as the supervisor does."""
    handle = service.machine.handle

    def look(event: Event, now: float) -> list[Action]:
        tally.look_before(event, service.machine)
        actions = handle(event, now)
        tally.look_after(event, service.machine, now, WALL + now)
        return actions

    vars(service.machine)["handle"] = look
    return tally


def serve(release: Release | None = None, **fields: Any) -> tuple[FakeService, Tally]:
    service = FakeService(release, **{"workers": 4, **fields})
    tally = count(service, Tally())
    return service.serve(), tally


def counted(numbers: dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in numbers.items() if number}


# -- restarts


def test_start_and_stop_are_no_restarts() -> None:
    service, tally = serve()
    service.outcome(service.stop())
    assert counted(tally.restarts) == {}
    assert tally.restarts.keys() == set(CAUSES)


def test_crash_is_counted() -> None:
    service, tally = serve()
    service.kill_worker(service.pids(1)[0])
    service.wait_for(lambda: service.serving == 4)
    assert counted(tally.restarts) == {"crash": 1}


def test_stuck_worker_is_counted_as_such() -> None:
    service, tally = serve()
    service.workers[service.pids(1)[0]].is_stuck = True
    service.wait_for(lambda: service.logged("has been silent") == 1)
    service.wait_for(lambda: service.serving == 4)
    assert counted(tally.restarts) == {"stuck": 1}


def test_boot_that_fails_is_counted_each_time() -> None:
    service, tally = serve()
    service.masters[1].release = BOOT_FAILS
    service.masters[1].spawned = 0
    service.kill_worker(service.pids(1)[0])
    service.run(10.0)
    assert tally.restarts["crash"] == 1
    assert tally.restarts["boot_failure"] >= 2


def test_recycling_is_counted() -> None:
    service, tally = serve()
    service.outcome(service.recycle(service.pids(1)[0]))
    service.outcome(service.recycle())
    service.run(5.0)
    assert counted(tally.restarts) == {"recycle": 5}
    assert service.machine.replacements.causes == {}


@pytest.mark.parametrize(
    "setting, value, release",
    [
        ("max_requests", 200, None),
        ("max_worker_age", 60.0, None),
        ("max_worker_memory", 50 * MIB, None),
        ("max_worker_memory", 60 * MIB, Release(memory=100 * MIB)),
    ],
)
def test_limit_that_is_passed_is_counted_by_its_name(setting: str, value: float, release: Release | None) -> None:
    service, tally = serve(release, workers=2, **{setting: value})
    service.wait_for(lambda: tally.restarts[setting] == 1)
    assert counted(tally.restarts) == {setting: 1}


def test_reload_restarts_all_workers() -> None:
    service, tally = serve()
    service.outcome(service.reload())
    service.run(10.0)
    assert counted(tally.restarts) == {"reload": 4}


def test_fewer_workers_are_no_restarts() -> None:
    service, tally = serve()
    service.outcome(service.scale(2))
    service.run(10.0)
    assert counted(tally.restarts) == {}


# -- reloads


def test_committed_reload_is_counted_with_its_duration() -> None:
    service, tally = serve()
    before = service.now
    service.outcome(service.reload())
    assert counted(tally.reloads) == {"committed": 1}
    seconds = service.now - before
    assert tally.reload_seconds["committed"] == pytest.approx(seconds)
    assert tally.last_reload == {"outcome": "committed", "at": WALL + service.now, "seconds": round(seconds, 3)}


@pytest.mark.parametrize("operation", ["signal", "command"])
def test_reload_that_is_rolled_back_is_counted_whoever_asked(operation: str) -> None:
    service, tally = serve()
    service.deploy(CRASHES)
    if operation == "command":
        service.reload()
    else:
        service.send(ReloadAsked(0, canary=True))
    service.wait_for(lambda: tally.last_reload is not None)
    assert counted(tally.reloads) == {"rolled_back": 1}
    assert tally.restarts["crash"] == 1


def test_reload_with_a_bad_configuration_is_refused() -> None:
    service, tally = serve()
    service.deploy(Release(refusal="no"))
    service.outcome(service.reload())
    assert counted(tally.reloads) == {"refused": 1}
    assert counted(tally.restarts) == {}


def test_reload_that_a_stop_ends_is_counted_as_stopped() -> None:
    service, tally = serve()
    service.reload()
    service.run(2.0)
    service.outcome(service.stop())
    assert counted(tally.reloads) == {"stopped": 1}


@pytest.mark.parametrize("error_share, outcome", [(0.0, "committed"), (0.5, "rolled_back")], ids=["good", "broken"])
@pytest.mark.parametrize("is_stopped", [False, True])
def test_reload_is_counted_as_what_it_was_when_its_old_workers_have_closed(
    error_share: float, outcome: str, is_stopped: bool
) -> None:
    blocked = Release(close_seconds=FOREVER, drain_seconds=FOREVER)
    service, tally = serve(blocked, graceful_timeout=600.0)
    service.deploy(dataclasses.replace(blocked, error_share=error_share))
    operation = service.reload()
    service.wait_for(lambda: service.machine.succession.handover is not None)
    assert counted(tally.reloads) == {}
    if is_stopped:
        service.stop()
    service.outcome(operation)
    assert counted(tally.reloads) == {outcome: 1}


@pytest.mark.parametrize("close_seconds", [0.0, 1.0])
@pytest.mark.parametrize("is_orphaned", [False, True])
def test_reload_that_cannot_be_undone_is_counted_as_failed(is_orphaned: bool, close_seconds: float) -> None:
    service, tally = serve(Release(close_seconds=close_seconds, drain_seconds=2.0))
    service.deploy(Release(boot_fault="exit", good_workers=3), max_surge=4 if is_orphaned else 1)
    operation = service.reload(canary=False)
    if is_orphaned:
        service.kill_master(1)
        for pid in list(service.workers):
            service.kill_worker(pid)
    else:
        service.masters[1].release = BOOT_FAILS
        service.masters[1].spawned = 0
    assert "could not be undone" in service.outcome(operation).message
    assert counted(tally.reloads) == {"failed": 1}
    assert tally.reloads.keys() == set(OUTCOMES)


# -- the target


def test_changes_of_the_target_are_counted_by_direction() -> None:
    service, tally = serve()
    for workers in (6, 8, 2):
        service.outcome(service.scale(workers))
    service.deploy(workers=3)
    service.outcome(service.reload())
    assert tally.target_changes == {"up": 2, "down": 1}


# -- over an upgrade


def test_successor_counts_on() -> None:
    service, tally = serve()
    service.outcome(service.reload())
    service.run(10.0)
    successor = Tally()
    successor.take_state(json.loads(json.dumps(tally.to_state())))
    assert successor.to_state() == tally.to_state()
    service.upgrade()
    service.wait_for(lambda: service.upgrades == 1)
    count(service, successor)
    service.outcome(service.reload())
    service.run(10.0)
    assert counted(successor.restarts) == {"reload": 8}
    assert counted(successor.reloads) == {"committed": 2}


def test_successor_knows_a_cause_that_this_version_does_not() -> None:
    successor = Tally()
    successor.take_state({**Tally().to_state(), "restarts": {"crash": 2, "eclipse": 1}})
    assert successor.restarts["crash"] == 2
    assert successor.restarts["recycle"] == 0
