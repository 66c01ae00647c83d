"""Masters and workers that die or hang, scenario by scenario."""

from __future__ import annotations

import pytest

from outrider_supervisor.actions import Code, ReadConfiguration
from outrider_supervisor.backoff import LONGEST_BACKOFF
from outrider_supervisor.fleet import MASTER_SILENCE, OVERTIME, SILENCE_WHERE_MISSED
from outrider_supervisor.messages import ALIVE_PERIOD
from outrider_supervisor.succession import EMPTY_BACKOFF
from outrider_testing.fakes.supervised_processes import (
    BOOT_FAILS,
    FAILS_IN_ROLL,
    FOREVER,
    GOOD,
    Release,
)
from outrider_testing.fakes.supervised_service import TICK, FakeService

# -- masters that die


def test_workers_serve_on_without_a_master_until_there_is_another(service: FakeService) -> None:
    service.kill_master(1)
    service.wait_for(lambda: service.current.number == 2)
    service.wait_for(lambda: not service.pids(1) and service.machine.state == "serving")
    assert service.least_serving == 4
    assert service.most_alive <= 5
    assert service.logged("the master of generation 1 was killed by SIGKILL; serving on with its 4 workers") == 1
    assert service.logged("degraded") == service.logged("recovered") == 1


def test_replacements_are_given_up_with_the_master(service: FakeService) -> None:
    service.machine.replacements.pids.add(service.pids(1)[0])
    service.kill_master(1)
    service.step()
    assert not service.machine.replacements.pids


def test_recovery_replaces_a_master_whose_workers_died_with_it(service: FakeService) -> None:
    service.kill_master(1)
    for pid in list(service.workers):
        service.kill_worker(pid)
    service.wait_for(lambda: service.current.number == 2)
    assert len(service.pids(2)) == 4


def test_recovery_that_fails_is_tried_again_with_growing_pauses(service: FakeService) -> None:
    service.deploy(BOOT_FAILS)
    service.kill_master(1)
    service.run(1200.0, tick=1.0)
    starts = [line for line in service.log if line.endswith(": starting")]
    assert 15 < len(starts) < 30
    assert service.serving == service.least_serving == 4
    service.deploy(GOOD)
    service.wait_for(lambda: service.machine.state == "serving", limit=LONGEST_BACKOFF + 10)


def test_operation_that_needs_a_master_does_not_wait_for_one_that_cannot_be_started(service: FakeService) -> None:
    service.deploy(BOOT_FAILS)
    service.kill_master(1)
    service.wait_for(lambda: not service.current.has_master)
    operations = [service.scale(3), service.recycle(), service.upgrade()]
    service.run(2 * LONGEST_BACKOFF, tick=1.0)
    for each in operations:
        assert "the master of generation 1 is gone, and another cannot be started" in service.outcome(each).message


def test_recovery_is_tried_soon_while_nothing_serves(service: FakeService) -> None:
    service.deploy(BOOT_FAILS)
    service.kill_master(1)
    service.run(300.0, tick=1.0)
    service.wait_for(lambda: service.machine.succession.rollout is not None, limit=LONGEST_BACKOFF + 10)
    service.wait_for(lambda: service.machine.succession.rollout is None)  # the pause is a minute now
    service.deploy(GOOD)
    for pid in list(service.workers):
        service.kill_worker(pid)
    service.wait_for(lambda: service.machine.state == "serving", limit=EMPTY_BACKOFF + 10)


def test_recovery_that_is_refused_is_tried_again_with_growing_pauses(service: FakeService) -> None:
    service.deploy(Release(refusal="no such file"))
    service.kill_master(1)
    service.run(600.0, tick=1.0)
    readings = sum(isinstance(action, ReadConfiguration) for action in service.actions)
    assert 10 < readings < 20


@pytest.mark.parametrize("refusal", ["", "no such file"])
def test_recovery_may_fail_for_days(service: FakeService, refusal: str) -> None:
    service.deploy(Release(refusal=refusal, master_fault="gone", master_seconds=0.0))
    service.kill_master(1)
    service.run(1100 * (LONGEST_BACKOFF + 15.0), tick=20.0)
    assert service.serving == 4


def test_reload_that_somebody_asks_for_does_not_wait_for_the_next_recovery(service: FakeService) -> None:
    service.deploy(Release(refusal="no"))
    service.kill_master(1)
    service.run(100.0)
    service.deploy(GOOD)
    assert service.outcome(service.reload(canary=False)).code is Code.DONE


def test_nothing_is_scaled_or_recycled_without_a_master(service: FakeService) -> None:
    service.kill_master(1)
    service.step()
    scale, recycle, upgrade = service.scale(6), service.recycle(), service.upgrade()
    service.outcome(recycle)
    assert service.outcomes[scale].code is Code.DONE
    assert service.current.number == 2
    service.wait_for(lambda: service.upgrades == 1)
    assert upgrade not in service.outcomes


@pytest.mark.parametrize("wish", ["scale", "recycle"])
def test_master_that_dies_ends_the_operation(service: FakeService, wish: str) -> None:
    operation = service.scale(6) if wish == "scale" else service.recycle()
    service.step()
    service.kill_master(1)
    outcome = service.outcome(operation)
    assert (outcome.code, outcome.message) == (Code.FAILED, "the master of generation 1 was killed by SIGKILL")


@pytest.mark.parametrize("seconds", [0.25, 0.5, 1.0, 2.5, 5.0, 8.0, 9.0, 10.0, 11.0, 12.0])
@pytest.mark.parametrize("release", [GOOD, FAILS_IN_ROLL])
@pytest.mark.parametrize("which", ["old", "new", "both"])
def test_reload_ends_though_masters_die(which: str, release: Release, seconds: float) -> None:
    service = FakeService(workers=4).serve()
    service.deploy(release)
    operation = service.reload()
    service.run(seconds)
    for number in {"old": [1], "new": [2], "both": [1, 2]}[which]:
        if number in service.masters:
            service.kill_master(number)
    service.outcome(operation)
    assert service.least_serving >= 1
    service.deploy(GOOD)
    service.wait_for(lambda: service.machine.state == "serving" and len(service.masters) == 1)
    assert service.serving == 4


def test_recovery_keeps_the_workers_that_boot_where_nothing_else_serves(service: FakeService) -> None:
    service.deploy(Release(boot_fault="exit", boot_seconds=1.0, good_workers=3), max_surge=4)
    service.kill_master(1)
    for pid in list(service.workers):
        service.kill_worker(pid)
    service.wait_for(lambda: service.serving > 0)
    service.measure()
    service.run(120.0)
    assert service.least_serving >= 3
    assert service.machine.state == "degraded"


def test_reload_that_fails_without_an_old_generation_to_go_back_to_is_told_as_failed(service: FakeService) -> None:
    service.deploy(Release(boot_fault="exit", boot_seconds=1.0, good_workers=3), max_surge=4)
    operation = service.reload(canary=False)
    service.kill_master(1)
    for pid in list(service.workers):
        service.kill_worker(pid)
    outcome = service.outcome(operation)
    assert (outcome.code, outcome.generation) == (Code.FAILED, 2)
    assert outcome.message.startswith(f"worker {outcome.blamed} exited with code 3 (failed to boot)")
    assert outcome.message.endswith("it could not be undone, and generation 2 is current, serving with 3 of 4 workers")
    assert service.current.number == 2


def test_orphans_are_known_to_be_gone_by_the_kernel_alone(service: FakeService) -> None:
    service.deploy(Release(refusal="no"))
    service.kill_master(1)
    service.step()
    service.kill_worker(service.pids(1)[0])
    assert service.machine.fleet.capacity == 3


def test_worker_gone_is_missed_before_its_master_says_so(service: FakeService) -> None:
    service.message_delay = 1.0
    service.kill_worker(service.pids(1)[0])
    assert service.machine.fleet.capacity == 3
    assert service.machine.state == "degraded"
    service.run(1.0)
    assert service.machine.fleet.capacity == 3
    service.wait_for(lambda: service.machine.fleet.capacity == 4)


def test_worker_whose_end_the_master_did_not_tell_is_forgotten_with_the_master(service: FakeService) -> None:
    service.deploy(Release(refusal="no"))
    service.kill_worker(service.pids(1)[0])
    service.kill_master(1)
    service.step()
    assert service.machine.fleet.capacity == 3


def test_orphans_that_do_not_end_are_killed() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), workers=2, graceful_timeout=10.0).serve()
    service.deploy(GOOD)
    service.kill_master(1)
    service.wait_for(lambda: service.current.number == 2)
    service.run(10.0 + OVERTIME + 1)
    assert {worker.generation for worker in service.workers.values()} == {2}


# -- masters that hang


def test_master_that_does_not_notice_the_end_of_a_worker_is_replaced_soon(service: FakeService) -> None:
    service.masters[1].is_hung = True
    service.kill_worker(service.pids(1)[0])
    began = service.now
    service.wait_for(lambda: service.logged("killing it") == 1)
    assert service.now - began <= SILENCE_WHERE_MISSED + TICK
    service.wait_for(lambda: service.serving == 4 and service.current.number == 2)


def test_master_that_hangs_is_replaced(service: FakeService) -> None:
    service.masters[1].is_hung = True
    began = service.now
    service.wait_for(lambda: service.logged("killing it") == 1)
    assert service.now - began == pytest.approx(MASTER_SILENCE, abs=ALIVE_PERIOD + TICK)
    assert service.logged("the master of generation 1 has been silent for 60 s: killing it") == 1
    service.wait_for(lambda: service.current.number == 2 and service.machine.state == "serving")
    assert service.least_serving == service.serving == 4


def test_masters_that_only_say_that_they_are_alive_are_left_alone(service: FakeService) -> None:
    service.run(5 * MASTER_SILENCE)
    assert list(service.masters) == [1]
    assert not service.logged("silent")


def test_master_that_hangs_in_a_reload_does_not_keep_it_from_its_end(service: FakeService) -> None:
    service.reload(canary=False)
    service.masters[1].is_hung = True
    service.wait_for(lambda: service.current.number == 2 and list(service.masters) == [2])
    assert service.least_serving == 4
    assert service.serving == 4


@pytest.mark.parametrize("canary", [False, True])
def test_reload_gets_by_a_master_that_is_stopped(canary: bool) -> None:
    service = FakeService(workers=4, boot_timeout=20.0).serve()
    service.masters[1].is_hung = True
    assert service.outcome(service.reload(canary=canary)).code is Code.DONE
    assert service.logged("the master of generation 1 has been silent for 1") == 1
    service.wait_for(lambda: list(service.masters) == [2])
    assert service.least_serving == service.serving == 4


def test_reload_blames_the_master_that_did_not_follow() -> None:
    service = FakeService(workers=4, boot_timeout=2.0).serve()
    service.masters[1].is_hung = True
    outcome = service.outcome(service.reload(canary=False))
    assert outcome.message.startswith(
        "rolled back: the master of generation 1 did not retire its workers within boot_timeout (2 s); "
    )


def test_supervisor_that_stood_still_does_not_blame_the_masters(service: FakeService) -> None:
    service.message_delay = 1.0  # what they said meanwhile is read after the first look
    service.run(3.0)
    service.step(10 * MASTER_SILENCE)
    service.run(10.0)
    assert list(service.masters) == [1]
    assert not service.logged("silent")


# -- workers that die


def test_crashed_worker_is_replaced_by_its_master(service: FakeService) -> None:
    service.kill_worker(service.pids(1)[0])
    service.run(5.0)
    assert service.serving == 4
    assert service.logged("was killed by SIGKILL, perhaps out of memory") == 1
    assert service.logged("degraded: serving with 3 of 4 workers") == service.logged("recovered") == 1


def test_many_crashes_make_the_service_degraded_for_a_minute() -> None:
    service = FakeService(workers=4, restart_intensity=2).serve()
    for _ in range(3):
        service.kill_worker(service.pids(1)[0])
    service.wait_for(lambda: service.serving == 4)
    assert service.machine.state == "degraded"
    assert service.logged("2 failures in a row") == service.logged("failure in a row: the next worker") - 1 == 0
    service.run(61.0)
    assert service.machine.state == "serving"
    assert service.logged("degraded") == service.logged("recovered") == 1


def test_stuck_worker_is_replaced(service: FakeService) -> None:
    stuck = service.pids(1)[0]
    service.workers[stuck].is_stuck = True
    service.run(40.0)
    assert service.logged(f"worker {stuck}: its loop has been silent for 30 s; it is replaced") == 1
    assert stuck not in service.workers
    assert service.serving == 4


def test_crash_of_an_old_worker_is_no_fault_of_the_new_generation(service: FakeService) -> None:
    operation = service.reload()
    service.run(4.0)
    service.kill_worker(service.pids(1)[0])
    assert service.outcome(operation).code is Code.DONE
