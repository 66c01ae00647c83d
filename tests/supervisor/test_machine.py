"""The supervisor's decisions, scenario by scenario, with real pools as masters and made-up workers."""

from __future__ import annotations

import pytest

from outrider_supervisor import actions, events
from outrider_supervisor.actions import Code, Readiness
from outrider_supervisor.exits import Exit
from outrider_supervisor.fleet import BOOT_STOP, OVERTIME
from outrider_supervisor.generation import GenerationState
from outrider_supervisor.machine import Machine
from outrider_testing.fakes.supervised_processes import (
    BOOT_FAILS,
    BOOT_HANGS,
    FOREVER,
    GOOD,
    Release,
)
from outrider_testing.fakes.supervised_service import TICK, FakeService

# -- the start


def test_service_is_ready_once_all_workers_are() -> None:
    service = FakeService(workers=4).start()
    assert service.machine.state == "starting"
    service.wait_for(lambda: bool(service.readiness))
    assert service.serving == 4
    assert service.readiness == [Readiness.READY]
    assert service.machine.state == "serving"


@pytest.mark.parametrize("release", [BOOT_FAILS, BOOT_HANGS, Release(master_fault="no such option")])
def test_first_generation_that_does_not_boot_ends_the_service(release: Release) -> None:
    service = FakeService(release, workers=4).start()
    service.wait_for(lambda: service.exit_status is not None)
    assert service.exit_status == Exit.BOOT_FAILED
    assert not service.workers
    assert not service.masters


def test_first_master_that_hangs_is_killed_after_boot_timeout() -> None:
    service = FakeService(Release(master_seconds=FOREVER), boot_timeout=60.0).start()
    service.wait_for(lambda: service.exit_status is not None, limit=60 + OVERTIME + BOOT_STOP + 2 * TICK)
    assert service.exit_status == Exit.BOOT_FAILED


def test_first_master_that_dies_early_ends_the_service() -> None:
    service = FakeService(workers=4).start()
    service.run(0.75)
    service.kill_master(1)
    service.wait_for(lambda: service.exit_status is not None)
    assert service.exit_status == Exit.BOOT_FAILED


def test_first_generation_serves_with_the_workers_that_boot() -> None:
    service = FakeService(Release(boot_fault="hang", good_workers=3), workers=4, boot_timeout=5.0).start()
    service.wait_for(lambda: service.machine.state == "degraded")
    assert service.serving == 3
    assert service.readiness == [Readiness.READY]


def test_event_of_no_kind_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="not an event"):
        Machine().handle("reload", 0.0)  # type: ignore[arg-type]  # the mistake


def test_message_of_no_kind_is_a_mistake(service: FakeService) -> None:
    with pytest.raises(TypeError, match="not a master's message"):
        service.send(events.FromGeneration(1, "ready"))  # type: ignore[arg-type]  # the mistake


def test_events_of_unknown_generations_mean_nothing(service: FakeService) -> None:
    before = len(service.actions)
    service.send(events.FromGeneration(9, events.Started))  # type: ignore[arg-type]  # never looked at
    service.send(events.MasterExited(9, "exited"))
    service.send(events.WorkerGone(9))
    assert len(service.actions) == before


# -- scaling


@pytest.mark.parametrize("workers, what", [(1, "1 worker"), (2, "2 workers"), (8, "8 workers")])
def test_service_scales(service: FakeService, workers: int, what: str) -> None:
    outcome = service.outcome(service.scale(workers))
    assert (outcome.code, outcome.message) == (Code.DONE, f"serving with {what}")
    assert service.serving == workers
    assert service.least_serving >= min(4, workers)
    assert not service.logged("degraded")


def test_scaling_below_one_worker_is_refused(service: FakeService) -> None:
    assert service.outcomes[service.scale(0)].code is Code.REFUSED
    assert service.machine.target == 4


def test_scale_survives_reload_and_upgrade(service: FakeService) -> None:
    service.outcome(service.scale(6))
    service.upgrade()
    service.run(2.0)
    assert service.upgrades == 1
    service.outcome(service.reload())
    assert service.serving >= 6
    assert service.machine.target == 6


def test_scaling_waits_for_a_reload(service: FakeService) -> None:
    reload, scale = service.reload(), service.scale(2)
    assert service.outcome(scale).code is Code.DONE
    assert list(service.outcomes) == [reload, scale]
    assert len(service.pids(2)) == 2
    waits = [each.text for each in service.actions if isinstance(each, actions.Progress) and each.operation == scale]
    assert waits == ["waits until the operation under way is over"]


def test_newest_of_waiting_scalings_wins(service: FakeService) -> None:
    service.reload()
    first, second = service.scale(2), service.scale(3)
    assert service.outcomes[first].code is Code.SUPERSEDED
    service.outcome(second)
    assert service.machine.target == 3


def test_steps_add_up_while_they_wait(service: FakeService) -> None:
    service.reload()
    steps = [service.scale(step, relative=True) for step in (1, 1, 1, -1)]
    service.outcome(steps[-1])
    assert service.machine.target == 6


def test_steps_down_end_at_one_worker() -> None:
    service = FakeService(workers=1).serve()
    assert service.outcome(service.scale(-1, relative=True)).code is Code.DONE
    assert service.machine.target == 1


def test_step_before_the_start_is_refused() -> None:
    service = FakeService(workers=4)
    assert service.outcomes[service.scale(1, relative=True)].code is Code.REFUSED
    service.serve()
    service.run(5.0)
    assert service.serving == 4


def test_scaling_up_fails_with_the_first_worker_that_does_not_boot(service: FakeService) -> None:
    service.masters[1].release = BOOT_FAILS
    service.masters[1].spawned = 0
    outcome = service.outcome(service.scale(6))
    assert outcome.code is Code.FAILED
    assert "exited with code 3 (failed to boot); it is tried further" in outcome.message
    assert service.serving == 4
    service.masters[1].release = GOOD
    service.wait_for(lambda: service.serving == 6)


def test_scaling_down_is_not_over_while_a_worker_boots_that_is_one_too_many(service: FakeService) -> None:
    service.kill_worker(service.pids(1)[0])
    service.wait_for(lambda: service.current.kept == 4 and service.current.ready == 3)
    service.message_delay = 1.0
    operation = service.scale(3)
    service.step()
    assert operation not in service.outcomes
    assert service.outcome(operation).code is Code.DONE
    assert service.current.kept == service.serving == 3


def test_scaling_ends_where_the_master_does_nothing() -> None:
    service = FakeService(workers=4, boot_timeout=30.0).serve()
    service.masters[1].is_hung = True
    outcome = service.outcome(service.scale(6))
    assert (outcome.code, outcome.message) == (Code.FAILED, "serving with 4 of 6 workers; it is tried further")


# -- another supervisor


def test_service_lives_through_an_upgrade(service: FakeService) -> None:
    before = service.pids(1)
    service.upgrade()
    service.run(2.0)
    assert service.upgrades == 1
    assert service.pids(1) == before
    assert service.outcome(service.reload()).code is Code.DONE


def test_failed_upgrade_changes_nothing(service: FakeService) -> None:
    service.upgrade_problem = "no such file"
    outcome = service.outcome(service.upgrade())
    assert outcome.code is Code.FAILED
    assert "the old one goes on: no such file" in outcome.message
    assert service.machine.state == "serving"
    assert service.outcome(service.reload()).code is Code.DONE


def test_failure_of_an_upgrade_comes_with_its_details(service: FakeService) -> None:
    operation = service.upgrade()
    service.send(events.UpgradeFailed("MemoryError", "Traceback: line 7"))
    assert service.outcome(operation).details == "Traceback: line 7"


def test_upgrade_failure_that_comes_too_late_is_not_told(service: FakeService) -> None:
    operation = service.upgrade()
    service.stop()
    service.send(events.UpgradeFailed("late"))
    assert service.outcomes[operation].code is Code.STOPPING


def test_orphans_live_through_an_upgrade(service: FakeService) -> None:
    service.deploy(Release(refusal="no"))
    service.upgrade()
    service.kill_master(1)
    service.run(5.0)
    service.deploy(GOOD)
    service.wait_for(lambda: service.machine.state == "serving")
    assert service.least_serving == 4
    assert service.current.state is GenerationState.CURRENT


def test_hup_during_an_upgrade_is_done_by_the_new_supervisor(service: FakeService) -> None:
    service.upgrade()
    service.send(events.ReloadAsked(0, canary=False))
    service.wait_for(lambda: service.current.number == 2)
    assert service.upgrades == 1
    assert service.least_serving == 4


def test_master_that_hung_in_an_upgrade_is_replaced_by_the_new_supervisor(service: FakeService) -> None:
    service.upgrade()
    service.masters[1].is_hung = True
    service.wait_for(lambda: service.current.number == 2)
    assert service.upgrades == 1
    assert service.least_serving == 4
