"""When the service manager's watchdog is fed: the states a service can be in."""

from __future__ import annotations

import pytest

from outrider_supervisor.backoff import LONGEST_BACKOFF
from outrider_supervisor.events import Observed, Started
from outrider_supervisor.fleet import OVERTIME
from outrider_supervisor.generation import WorkerState
from outrider_supervisor.liveness import is_alive
from outrider_supervisor.machine import Machine
from outrider_testing.fakes.supervised_processes import BOOT_FAILS, BOOT_HANGS, CRASHES, FOREVER, Release
from outrider_testing.fakes.supervised_service import FakeService
from outrider_testing.services import make_service

TIMEOUT = 30.0
STALE = TIMEOUT + OVERTIME + 1


def alive(service: FakeService, *, silent: float = 0.0) -> bool:
    """What the watchdog is told, while all loops have been silent for so long."""
    pids = [pid for each in service.machine.fleet.generations.values() for pid in each.workers]
    return is_alive(service.machine, dict.fromkeys(pids, service.now - silent), service.now)


def stand_still(service: FakeService, seconds: float) -> None:
    """Let time pass, and nothing happen."""
    service.now += seconds


# -- the start


def test_machine_without_a_generation_is_alive() -> None:
    assert is_alive(Machine(), {}, 1000.0)


def test_start_is_alive_within_boot_timeout() -> None:
    machine = Machine()
    machine.handle(Started(make_service(boot_timeout=60.0)), 1000.0)
    assert is_alive(machine, {}, 1060.0 + OVERTIME)
    assert not is_alive(machine, {}, 1060.0 + OVERTIME + 0.1)


def test_start_whose_master_is_up_has_the_time_again() -> None:
    service = FakeService(BOOT_HANGS, boot_timeout=60.0).start()
    service.run(5.0)
    booted = next(iter(service.machine.fleet.generations.values())).booted_at
    assert is_alive(service.machine, {}, booted + 60.0 + OVERTIME)
    assert not is_alive(service.machine, {}, booted + 60.1 + OVERTIME)


# -- a service that serves


def test_one_sound_worker_is_enough(service: FakeService) -> None:
    first, *others = service.pids(1)
    beats = dict.fromkeys(others, service.now - STALE) | {first: service.now}
    assert is_alive(service.machine, beats, service.now)


@pytest.mark.parametrize("state", [WorkerState.READY, WorkerState.STUCK])
def test_workers_that_all_hang_are_given_the_time_in_which_they_are_replaced(
    service: FakeService, state: WorkerState
) -> None:
    for worker in service.current.workers.values():
        worker.state = state
    assert alive(service, silent=TIMEOUT + OVERTIME)
    assert not alive(service, silent=STALE)


def test_nobody_is_dead_where_timeout_is_switched_off() -> None:
    service = FakeService(workers=2, timeout=0.0).serve()
    assert alive(service, silent=100 * STALE)


def test_workers_without_a_row_are_their_masters_affair(service: FakeService) -> None:
    assert is_alive(service.machine, {}, service.now)


def test_workers_that_drain_do_not_serve(service: FakeService) -> None:
    for worker in service.current.workers.values():
        worker.state = WorkerState.RETIRING
    assert not alive(service)


def test_master_that_starts_nobody_leaves_a_dead_service(service: FakeService) -> None:
    service.current.workers.clear()
    assert not alive(service)


def test_worker_that_boots_is_alive_within_boot_timeout(service: FakeService) -> None:
    for worker in service.current.workers.values():
        worker.state = WorkerState.BOOTING
        worker.since = service.now
    stand_still(service, 60.0 + OVERTIME)
    assert alive(service)
    stand_still(service, 1.0)
    assert not alive(service)


def test_pause_after_failures_is_alive(service: FakeService) -> None:
    service.current.workers.clear()
    service.current.retry_at = service.now + LONGEST_BACKOFF
    stand_still(service, LONGEST_BACKOFF - 1)
    assert alive(service)
    stand_still(service, 1.0)
    assert not alive(service)


@pytest.mark.parametrize("release", [BOOT_FAILS, BOOT_HANGS, CRASHES])
def test_workers_that_never_come_back_are_tried_again_without_the_watchdog(release: Release) -> None:
    # What is on disk is broken: another start would find the same.
    service = FakeService(workers=2).serve()
    service.masters[1].release = release
    for pid in list(service.workers):
        service.kill_worker(pid)
    for _ in range(1200):
        service.step()
        assert alive(service), service.machine.state


# -- a master that is gone


def test_service_without_a_master_recovers(service: FakeService) -> None:
    service.kill_master(1)
    service.deploy(BOOT_FAILS)
    for pid in list(service.workers):
        service.kill_worker(pid)
    for _ in range(1200):
        service.step()
        assert alive(service, silent=STALE)


# -- reloads


@pytest.mark.parametrize("release", [Release(), BOOT_FAILS, BOOT_HANGS, Release(master_seconds=FOREVER)])
def test_reload_is_never_disturbed(release: Release) -> None:
    # Workers that hang are what many a reload is for.
    service = FakeService(workers=4).serve()
    service.deploy(release)
    operation = service.reload()
    while operation not in service.outcomes:
        assert alive(service, silent=STALE)
        service.step()
    service.wait_for(lambda: len(service.masters) == 1)
    assert alive(service)


def test_canary_that_is_watched_for_long_is_no_reload_that_is_stuck() -> None:
    quiet = Release(requests_per_second=0.0)
    service = FakeService(quiet, workers=2, canary_seconds=300.0, boot_timeout=10.0).serve()
    operation = service.reload()
    while operation not in service.outcomes:
        assert alive(service, silent=STALE)
        service.step(1.0)


def test_reload_that_stands_still_ends_the_service_if_nobody_serves(service: FakeService) -> None:
    service.reload()
    service.run(5.0)
    stand_still(service, 1000.0)
    assert alive(service)
    assert not alive(service, silent=STALE)


def test_worker_of_the_new_generation_serves_as_well_as_one_of_the_old(service: FakeService) -> None:
    service.reload()
    service.wait_for(lambda: bool(service.pids(2)))
    stand_still(service, 1000.0)
    old = dict.fromkeys(service.pids(1), service.now - STALE)
    assert is_alive(service.machine, old | dict.fromkeys(service.pids(2), service.now), service.now)
    assert not is_alive(service.machine, old | dict.fromkeys(service.pids(2), service.now - STALE), service.now)


# -- the end


def test_stop_is_alive_until_the_last_worker_should_have_been_killed() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), workers=2, graceful_timeout=30.0).serve()
    service.stop()
    deadline = service.now + 30.0 + 2 * OVERTIME
    assert is_alive(service.machine, {}, deadline)
    assert not is_alive(service.machine, {}, deadline + 0.1)


def test_stop_that_is_hurried_is_to_end_sooner() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), workers=2, graceful_timeout=30.0).serve()
    service.stop()
    slow = service.machine.deadline
    service.stop(fast=True)
    fast = service.machine.deadline
    assert slow is not None
    assert fast is not None
    assert fast < slow


def test_stop_that_is_hurried_again_and_again_has_no_more_time() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), workers=2, graceful_timeout=30.0).serve()
    service.stop()
    deadline = service.machine.deadline
    stand_still(service, 1000.0)
    service.machine.handle(Observed({}, None), service.now)  # whom it kills does not die
    service.stop(fast=True)
    assert service.machine.deadline == deadline


def test_stop_lasts_as_long_as_its_last_generation() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), workers=2, canary=False, graceful_timeout=30.0).serve()
    service.outcome(service.reload())
    service.run(10.0)
    service.stop()
    assert service.machine.deadline == service.now + 30.0 + 2 * OVERTIME
