"""Reloads, scenario by scenario, with real pools as masters and made-up workers."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_supervisor import actions, events
from outrider_supervisor.actions import Code, Readiness
from outrider_supervisor.fleet import BOOT_STOP
from outrider_supervisor.messages import Stop
from outrider_testing.fakes.supervised_processes import (
    BOOT_FAILS,
    BOOT_HANGS,
    CRASHES,
    FAILS_IN_ROLL,
    FOREVER,
    GOOD,
    Release,
)
from outrider_testing.fakes.supervised_service import TICK, FakeService


def kept_listeners(service: FakeService) -> list[int]:
    """Where in the list of actions listeners were closed."""
    return [index for index, each in enumerate(service.actions) if isinstance(each, actions.KeepListeners)]


# -- reloads that work


@pytest.mark.parametrize("surge", [1, 2, 4, 9], ids=["rolling", "in pairs", "blue-green", "more than there are"])
@pytest.mark.parametrize("canary", [True, False])
def test_reload_keeps_capacity_and_surge(surge: int, canary: bool) -> None:
    service = FakeService(workers=4, max_surge=surge).serve()
    outcome = service.outcome(service.reload(canary=canary))
    assert (outcome.code, outcome.generation) == (Code.DONE, 2)
    assert service.least_serving == 4
    assert service.most_alive <= 4 + surge
    service.wait_for(lambda: list(service.masters) == [2])
    assert service.serving == len(service.workers) == 4


def test_reload_tells_the_service_manager(service: FakeService) -> None:
    service.outcome(service.reload())
    assert service.readiness == [Readiness.READY, Readiness.RELOADING, Readiness.READY]


def test_workers_that_drain_for_long_do_not_hold_the_reload_up() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), workers=4, graceful_timeout=600.0).serve()
    service.deploy()
    assert service.outcome(service.reload(canary=False)).code is Code.DONE
    assert service.most_alive == 5
    assert len(service.workers) == 8


@pytest.mark.parametrize("fields", [{"canary_seconds": 0.0}, {"canary": False}])
def test_configuration_can_do_without_a_canary(fields: dict[str, Any]) -> None:
    service = FakeService(workers=2, **fields).serve()
    service.deploy(Release(error_share=0.5))
    assert service.outcome(service.reload()).code is Code.DONE
    assert not service.logged("canary")


def test_canary_passes_when_seconds_and_requests_are_reached(service: FakeService) -> None:
    service.reload()
    service.wait_for(lambda: service.logged("it is the canary for 5 s and 20 requests") == 1)
    began = service.now
    service.wait_for(lambda: service.logged("canary passed") == 1)
    assert service.now - began == pytest.approx(5.0, abs=TICK)


def test_canary_with_little_traffic_passes_after_three_times_its_seconds(service: FakeService) -> None:
    service.deploy(Release(requests_per_second=0.5))
    service.reload()
    service.wait_for(lambda: service.logged("it is the canary for 5 s and 20 requests, at most 15 s") == 1)
    began = service.now
    service.wait_for(lambda: service.logged("canary not judged by traffic") == 1)
    assert service.now - began == pytest.approx(15.0, abs=TICK)


def test_number_of_workers_may_change_with_a_reload() -> None:
    service = FakeService(workers=4).serve()
    for workers in (6, 2, 1, 4):
        before = service.machine.target
        service.deploy(workers=workers)
        service.measure()
        assert service.outcome(service.reload()).code is Code.DONE
        assert service.least_serving >= min(before, workers)
        assert service.most_alive <= max(before, workers) + 1
        service.wait_for(lambda: len(service.masters) == 1)
        assert service.serving == workers


def test_listeners_that_are_gone_are_closed_before_the_old_workers_stop(service: FakeService) -> None:
    service.deploy(addresses=(("127.0.0.1", 8001),))
    service.outcome(service.reload())
    (kept,) = kept_listeners(service)
    assert service.actions[kept] == actions.KeepListeners(service.service)
    stopped = [
        index
        for index, each in enumerate(service.actions)
        if isinstance(each, actions.Tell) and isinstance(each.message, Stop)
    ]
    assert kept < stopped[0]


def test_replacements_of_the_old_generation_are_given_up(service: FakeService) -> None:
    service.machine.replacements.pids.add(service.pids(1)[-1])
    service.outcome(service.reload(canary=False))
    assert not service.machine.replacements.pids


def test_reload_during_a_reload_takes_the_newest(service: FakeService) -> None:
    first, second, third = service.reload(), service.reload(), service.reload()
    assert service.outcomes[second].code is Code.SUPERSEDED
    assert service.outcome(first).generation == 2
    assert service.outcome(third).generation == 3


def test_reload_while_starting_waits() -> None:
    service = FakeService(workers=4).start()
    outcome = service.outcome(service.reload())
    assert (outcome.code, outcome.generation) == (Code.DONE, 2)
    assert service.current.number == 2


def test_reload_of_a_signal_needs_no_asker(service: FakeService) -> None:
    service.send(events.ReloadAsked(0, canary=False))
    service.wait_for(lambda: service.current.number == 2)
    assert not service.outcomes


# -- reloads that fail


@pytest.mark.parametrize(
    "release, reason",
    [
        (BOOT_FAILS, "exited with code 3"),
        (BOOT_HANGS, "took longer than boot_timeout"),
        (Release(master_seconds=FOREVER), "no master was up within boot_timeout"),
        (Release(master_fault="ImportError: shop"), "ImportError: shop"),
        (CRASHES, "was killed by SIGSEGV"),
        (Release(crashes_after=0.0, good_workers=2), "was killed by SIGSEGV"),
        (FAILS_IN_ROLL, "exited with code 3"),
        (Release(boot_fault="hang", good_workers=3), "took longer than boot_timeout"),
        (Release(error_share=0.5), "of its"),
        (Release(lag=3.0), "its event loop was blocked for 3.0 s"),
    ],
)
@pytest.mark.parametrize("surge", [1, 4])
def test_broken_release_is_rolled_back(release: Release, reason: str, surge: int) -> None:
    service = FakeService(workers=4, max_surge=surge, boot_timeout=10.0).serve()
    service.deploy(release)
    outcome = service.outcome(service.reload())
    assert (outcome.code, outcome.generation) == (Code.FAILED, 2)
    assert reason in outcome.message
    assert "generation 1 serves with 4 of 4 workers" in outcome.message
    service.wait_for(lambda: list(service.masters) == [1])
    assert service.pids(1) == list(service.workers)
    assert len(service.workers) == 4
    assert service.machine.state == "serving"
    assert service.readiness[-1] is Readiness.READY
    assert service.most_alive <= 4 + surge
    # A crash takes a worker away, and nothing but a crash.
    assert service.least_serving >= (4 if release.crashes_after == FOREVER else 3)


def test_worker_that_fails_a_reload_is_blamed(service: FakeService) -> None:
    service.deploy(BOOT_FAILS)
    outcome = service.outcome(service.reload())
    assert outcome.blamed > 104
    assert f"worker {outcome.blamed} exited" in outcome.message


def test_refused_configuration_changes_nothing(service: FakeService) -> None:
    service.deploy(Release(refusal="workers=-1"))
    outcome = service.outcome(service.reload())
    assert (outcome.code, outcome.message) == (Code.REFUSED, "nothing was changed: workers=-1")
    assert service.readiness[-1] is Readiness.READY
    assert list(service.masters) == [1]


def test_listeners_of_a_broken_release_are_closed(service: FakeService) -> None:
    before = service.service
    service.deploy(BOOT_FAILS, addresses=(("127.0.0.1", 8001),), workers=2)
    service.outcome(service.reload())
    (kept,) = kept_listeners(service)
    assert service.actions[kept] == actions.KeepListeners(before)
    assert service.machine.target == 4


def test_rollback_takes_its_time_while_old_workers_come_back() -> None:
    service = FakeService(Release(boot_seconds=6.0), workers=6, boot_timeout=8.0).serve()
    service.deploy(Release(boot_fault="exit", good_workers=5))
    outcome = service.outcome(service.reload(canary=False))
    assert "generation 1 serves with 6 of 6 workers" in outcome.message
    assert service.least_serving == 6


def test_rollback_ends_when_an_old_worker_does_not_boot_any_more(service: FakeService) -> None:
    """The code on disk is the new one's."""
    service.deploy(FAILS_IN_ROLL)
    operation = service.reload(canary=False)
    service.masters[1].release = BOOT_FAILS
    service.masters[1].spawned = 0
    service.wait_for(lambda: service.logged("; going back") == 1)
    began = service.now
    outcome = service.outcome(operation)
    assert outcome.code is Code.FAILED
    assert "rolled back: " in outcome.message
    assert service.now - began < 5
    assert service.current.number == 1
    assert service.serving >= 2
    assert service.machine.state == "degraded"
    service.masters[1].release = GOOD
    service.wait_for(lambda: service.machine.state == "serving")


def test_new_generation_takes_over_where_more_of_it_serves_than_could_come_back(service: FakeService) -> None:
    service.deploy(Release(boot_fault="exit", good_workers=3))
    operation = service.reload(canary=False)
    service.masters[1].release = BOOT_FAILS
    service.masters[1].spawned = 0
    outcome = service.outcome(operation)
    assert (outcome.code, outcome.generation) == (Code.FAILED, 2)
    assert outcome.blamed > 104
    assert f"worker {outcome.blamed} exited with code 3 (failed to boot); it could not be undone" in outcome.message
    assert "generation 2 is current, serving with 3 of 4 workers" in outcome.message
    assert service.current.number == 2
    assert service.readiness[-1] is Readiness.READY
    assert service.machine.state == "degraded"
    assert kept_listeners(service)
    service.wait_for(lambda: list(service.masters) == [2])
    service.masters[2].release = GOOD
    service.wait_for(lambda: service.machine.state == "serving")
    assert service.least_serving >= 3


def test_crash_of_an_old_worker_that_served_does_not_end_the_rollback(service: FakeService) -> None:
    """Its master can start another one."""
    service.deploy(FAILS_IN_ROLL)
    operation = service.reload(canary=False)
    service.wait_for(lambda: service.logged("; going back") == 1)
    service.kill_worker(service.pids(1)[0])
    assert "generation 1 serves with 4 of 4 workers" in service.outcome(operation).message


def test_reload_that_failed_before_its_master_was_up_ends_it_soon(service: FakeService) -> None:
    service.deploy(Release(master_seconds=FOREVER), boot_timeout=10.0, graceful_timeout=600.0)
    service.outcome(service.reload())
    service.run(BOOT_STOP + TICK)
    assert list(service.masters) == [1]


def test_canary_that_fails_is_told_on_the_way_back(service: FakeService) -> None:
    service.deploy(Release(error_share=0.5))
    service.outcome(service.reload())
    (text,) = [line for line in service.log if line.endswith("; going back")]
    assert text.startswith("generation 2: canary: ")


def test_stop_kills_a_master_that_is_not_up_before_others_are_told(service: FakeService) -> None:
    service.deploy(Release(master_seconds=FOREVER))
    service.reload()
    service.wait_for(lambda: 2 in service.masters)
    service.actions.clear()
    service.stop()
    done = [action for action in service.actions if isinstance(action, actions.Kill | actions.Tell)]
    assert done[:2] == [actions.Kill(2, ()), actions.Tell(1, Stop(fast=False))]


def test_stop_lets_the_only_master_say_why_it_fails() -> None:
    service = FakeService(Release(master_seconds=FOREVER)).start()
    service.stop()
    assert not [action for action in service.actions if isinstance(action, actions.Kill)]
