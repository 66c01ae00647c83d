"""The end of an operation: nobody is told of it while a worker that goes would still answer the next connection."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_supervisor import events
from outrider_supervisor.actions import Code, Readiness
from outrider_supervisor.handover import PATIENCE
from outrider_supervisor.status_line import describe
from outrider_supervisor.status_report import Clocks
from outrider_testing.fakes.supervised_processes import BOOT_FAILS, FOREVER, Release
from outrider_testing.fakes.supervised_service import TICK, FakeService
from outrider_testing.services import make_service

SLOW = Release(close_seconds=1.0, drain_seconds=FOREVER)
"""A release whose workers accept for a while after they were told to go."""
BLOCKED = Release(close_seconds=FOREVER, drain_seconds=FOREVER)


def accepting(service: FakeService, number: int) -> list[int]:
    return [each.pid for each in service.workers.values() if each.generation == number and each.accepts]


def commit(release: Release = BLOCKED, **fields: Any) -> tuple[FakeService, int]:
    """Serve a release that is slow to go, and reload up to the commit."""
    service = FakeService(release, **{"workers": 2, "graceful_timeout": 300.0, **fields}).serve()
    service.deploy()
    operation = service.reload(canary=False)
    service.wait_for(lambda: service.current.number == 2)
    return service, operation


def retire(command: str, release: Release) -> tuple[FakeService, int, int]:
    """Have a worker go without a reload; the service, the operation and the worker."""
    service = FakeService(release, workers=2, graceful_timeout=300.0).serve()
    before = service.pids(1)
    operation = service.recycle(before[0]) if command == "recycle" else service.scale(1)
    service.wait_for(lambda: len(set(before) & set(service.pids(1))) == 1)
    (retired,) = set(before) - set(service.pids(1))
    return service, operation, retired


# -- when it ends


def test_reload_ends_when_no_old_worker_accepts() -> None:
    service, operation = commit(SLOW)
    began = service.now
    assert accepting(service, 1)
    assert operation not in service.outcomes
    assert service.outcome(operation).code is Code.DONE
    assert service.now - began < PATIENCE
    assert not accepting(service, 1)
    assert service.machine.fleet.generations.keys() == {1, 2}, "the old workers still drain"


def test_worker_that_does_not_close_holds_the_answer_up_for_so_long_and_no_longer() -> None:
    service, operation = commit()
    began = service.now
    assert service.outcome(operation).code is Code.DONE
    assert service.now - began == pytest.approx(PATIENCE, abs=TICK / 2)


def test_worker_that_was_retired_before_the_commit_is_waited_for() -> None:
    service, operation = commit(workers=4)
    first, *others = accepting(service, 1)
    for pid in others:
        service.kill_worker(pid)
    service.step()
    assert operation not in service.outcomes
    service.kill_worker(first)
    assert operation in service.outcomes


@pytest.mark.parametrize("has_master", [True, False])
def test_reload_ends_with_the_last_old_worker(has_master: bool) -> None:
    service, operation = commit()
    if not has_master:
        service.kill_master(1)
        service.step()
    for pid in accepting(service, 1):
        assert operation not in service.outcomes
        service.kill_worker(pid)
    assert operation in service.outcomes, "nobody waits for the next look"


def test_workers_without_rows_are_not_waited_for() -> None:
    service, operation = commit(reports_state=False)
    assert operation in service.outcomes


def test_row_that_is_gone_is_not_waited_for() -> None:
    service, operation = commit()
    service.send(events.Observed({}))
    assert operation in service.outcomes


def test_rollback_ends_when_no_failed_worker_accepts() -> None:
    service = FakeService(workers=2).serve()
    service.deploy(Release(error_share=0.5, close_seconds=1.0, drain_seconds=FOREVER))
    operation = service.reload()
    service.wait_for(lambda: service.logged("was rolled back") == 1)
    assert accepting(service, 2)
    assert operation not in service.outcomes
    outcome = service.outcome(operation)
    assert (outcome.code, outcome.generation) == (Code.FAILED, 2)
    assert outcome.message.startswith("rolled back: ")
    assert outcome.blamed
    assert not accepting(service, 2)


def test_reload_that_could_not_be_undone_ends_when_no_old_worker_accepts() -> None:
    service = FakeService(SLOW, workers=4, graceful_timeout=600.0).serve()
    service.deploy(Release(boot_fault="exit", good_workers=3))
    operation = service.reload(canary=False)
    service.masters[1].release = BOOT_FAILS
    service.masters[1].spawned = 0
    service.wait_for(lambda: service.current.number == 2)
    assert operation not in service.outcomes
    outcome = service.outcome(operation)
    assert (outcome.code, outcome.generation) == (Code.FAILED, 2)
    assert "could not be undone" in outcome.message
    assert outcome.blamed
    assert not accepting(service, 1)


@pytest.mark.parametrize("command", ["recycle", "scale"])
def test_recycling_and_scaling_end_when_no_retired_worker_accepts(command: str) -> None:
    service, operation, retired = retire(command, SLOW)
    began = service.now
    assert retired in accepting(service, 1)
    assert operation not in service.outcomes
    assert service.outcome(operation).code is Code.DONE
    assert service.now - began < PATIENCE
    assert retired not in accepting(service, 1)
    assert retired in service.workers, "it still drains"


@pytest.mark.parametrize("command", ["recycle", "scale"])
def test_retired_worker_that_does_not_close_holds_them_up_for_so_long_and_no_longer(command: str) -> None:
    service, operation, _ = retire(command, BLOCKED)
    began = service.now
    assert service.outcome(operation).code is Code.DONE
    assert service.now - began == pytest.approx(PATIENCE, abs=TICK / 2)


@pytest.mark.parametrize("command", ["recycle", "scale"])
def test_retired_worker_that_is_gone_holds_nothing_up(command: str) -> None:
    service, operation, retired = retire(command, BLOCKED)
    service.kill_worker(retired)
    assert operation in service.outcomes


# -- what is told meanwhile


def test_manager_hears_that_the_reload_is_over_when_the_caller_does() -> None:
    service, operation = commit()
    assert service.readiness == [Readiness.READY, Readiness.RELOADING]
    service.outcome(operation)
    assert service.readiness == [Readiness.READY, Readiness.RELOADING, Readiness.READY]


def test_recovery_is_over_when_no_old_worker_accepts() -> None:
    service = FakeService(SLOW, workers=2, graceful_timeout=600.0).serve()
    service.kill_master(1)
    service.wait_for(lambda: service.current.number == 2)
    assert service.readiness == [Readiness.READY, Readiness.RELOADING]
    service.wait_for(lambda: service.machine.operation is None)
    assert service.readiness == [Readiness.READY, Readiness.RELOADING, Readiness.READY]
    assert not accepting(service, 1)


def test_service_serves_meanwhile() -> None:
    service, operation = commit()
    service.step()
    assert service.machine.state == "serving"
    assert service.machine.rollout is None
    assert not service.machine.is_reading
    line = describe(service.machine, 0, Clocks(service.now, service.now))
    assert line == "Serving with 2 of 2 workers (generation 2)"
    service.outcome(operation)
    assert describe(service.machine, 0, Clocks(service.now, service.now)) == line


def test_deadline_is_that_of_the_answer() -> None:
    service, operation = commit()
    assert service.machine.deadline == service.now + PATIENCE
    service.outcome(operation)
    assert service.machine.deadline is None


# -- what comes in between


@pytest.mark.parametrize("fast", [True, False])
def test_stop_leaves_the_reload_its_success(fast: bool) -> None:
    service, operation = commit()
    stop = service.stop(fast=fast)
    assert service.outcomes[operation].code is Code.DONE
    assert service.readiness[-2:] == [Readiness.READY, Readiness.STOPPING]
    assert service.outcome(stop).code is Code.DONE


def test_next_operation_begins_behind_it() -> None:
    service, first = commit()
    second = service.reload(canary=False)
    service.step()
    assert service.readiness[-1] is Readiness.RELOADING
    assert service.machine.waiting
    assert service.outcome(first).generation == 2
    assert service.readiness[-3:] == [Readiness.RELOADING, Readiness.READY, Readiness.RELOADING]
    assert service.outcome(second).generation == 3


def test_upgrade_begins_behind_it() -> None:
    service, operation = commit()
    service.upgrade()
    service.run(PATIENCE / 2)
    assert not service.upgrades
    service.wait_for(lambda: service.upgrades == 1)
    assert service.outcomes[operation].code is Code.DONE
    assert service.machine.operation is None


def test_master_that_dies_has_another_one_behind_it() -> None:
    service, operation = commit()
    service.kill_master(2)
    service.step()
    assert service.machine.state == "degraded"
    assert service.outcome(operation).code is Code.DONE
    service.wait_for(lambda: service.current.number == 3)


@pytest.mark.parametrize("event", [events.ConfigurationRead(make_service()), events.ConfigurationRefused("no")])
def test_configuration_is_of_no_use_any_more(event: events.Event) -> None:
    service, operation = commit()
    service.send(event)
    assert operation not in service.outcomes
    assert service.machine.rollout is None
