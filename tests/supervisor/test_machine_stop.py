"""The end of a service: graceful, fast, delayed, and in the middle of something else."""

from __future__ import annotations

import pytest

from outrider_supervisor import actions, events
from outrider_supervisor.actions import Code, Readiness
from outrider_supervisor.fleet import BOOT_STOP, OVERTIME
from outrider_testing.fakes.supervised_processes import (
    FAILS_IN_ROLL,
    FOREVER,
    GOOD,
    Release,
)
from outrider_testing.fakes.supervised_service import TICK, FakeService


def closed_all(service: FakeService) -> int:
    """How many times the last listeners were closed."""
    return service.actions.count(actions.KeepListeners(None))


def test_graceful_stop_lets_workers_drain(service: FakeService) -> None:
    operation = service.stop()
    assert service.machine.state == "stopping"
    assert service.readiness[-1] is Readiness.STOPPING
    kept = next(each for each in service.actions if isinstance(each, actions.KeepListeners))
    assert kept == actions.KeepListeners(None)
    assert service.outcome(operation).code is Code.DONE
    assert service.exit_status == 0
    assert not service.logged("killing")


def test_fast_stop_cuts_workers_that_drain() -> None:
    service = FakeService(Release(drain_seconds=FOREVER), graceful_timeout=600.0).serve()
    first = service.stop()
    service.run(10.0)
    second = service.stop(fast=True)
    began = service.now
    service.outcome(second)
    assert service.now - began < 5
    assert first in service.outcomes
    assert service.logged("stopping at once: requests in flight are cut") == 1


def test_stop_with_a_delay_serves_on_until_proxies_have_noticed() -> None:
    service = FakeService(workers=4, stop_delay=5.0).serve()
    operation = service.stop()
    assert service.machine.state == "stopping"
    assert service.readiness[-1] is Readiness.STOPPING
    service.run(5.0 - TICK)
    assert service.serving == 4
    assert closed_all(service) == 0
    service.run(2 * TICK)
    assert service.serving == 0
    assert closed_all(service) == 1
    assert service.outcome(operation).code is Code.DONE
    assert service.logged("stopping: no longer ready, serving on for 5 s; then workers finish what they hold") == 1


def test_fast_stop_has_no_delay() -> None:
    service = FakeService(stop_delay=600.0).serve()
    service.outcome(service.stop(fast=True))


def test_fast_stop_cuts_the_delay_of_a_stop_short() -> None:
    service = FakeService(stop_delay=600.0).serve()
    first = service.stop()
    service.run(1.0)
    service.outcome(service.stop(fast=True))
    assert first in service.outcomes
    assert closed_all(service) == 1


@pytest.mark.parametrize("seconds", [TICK, 1.0, 2.5])
def test_stop_with_a_delay_gives_up_at_once_what_a_reload_has_opened(seconds: float) -> None:
    service = FakeService(workers=4, stop_delay=5.0).serve()
    service.deploy(addresses=(("127.0.0.1", 1),))
    service.reload()
    service.run(seconds)
    service.stop()
    assert service.actions[-1] == actions.KeepListeners(service.current.service)


def test_delay_of_a_stop_is_not_taken_for_a_stop_that_is_stuck() -> None:
    service = FakeService(stop_delay=600.0).serve()
    service.stop()
    assert service.machine.deadline == service.now + 600.0 + OVERTIME


def test_service_that_has_not_begun_to_serve_stops_without_delay() -> None:
    service = FakeService(stop_delay=600.0).start()
    service.outcome(service.stop())


def test_repeated_graceful_stop_changes_nothing(service: FakeService) -> None:
    first = service.stop()
    before = len(service.actions)
    second = service.stop()
    assert len(service.actions) == before
    assert service.outcome(first).code is service.outcome(second).code is Code.DONE


def test_time_goes_on_after_the_end(service: FakeService) -> None:
    service.outcome(service.stop(fast=True))
    service.send(events.Observed({}))
    assert service.exit_status == 0


def test_stop_before_the_start_ends_the_service() -> None:
    service = FakeService()
    service.stop()
    assert service.exit_status == 0
    service.start()
    assert not service.masters


def test_nothing_is_begun_in_a_stop(service: FakeService) -> None:
    service.stop()
    for operation in (service.reload(), service.scale(5), service.recycle(), service.upgrade()):
        assert service.outcomes[operation].code is Code.STOPPING


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("seconds", [0.0, 0.25, 0.5, 1.0, 2.5, 4.0, 8.0, 9.0, 10.0, 12.0, 14.0])
@pytest.mark.parametrize("release", [GOOD, FAILS_IN_ROLL])
@pytest.mark.parametrize("stop_delay", [0.0, 3.0])
def test_stop_ends_a_reload_wherever_it_is(stop_delay: float, release: Release, seconds: float, fast: bool) -> None:
    service = FakeService(workers=4, stop_delay=stop_delay).serve()
    service.deploy(release)
    reload = service.reload()
    service.run(seconds)
    stop = service.stop(fast=fast)
    assert reload in service.outcomes
    assert service.outcome(stop).code is Code.DONE
    assert service.exit_status == 0
    assert not service.workers
    assert not service.masters


@pytest.mark.parametrize("seconds", [0.0, 0.25, 0.75, 1.25])
def test_stop_ends_a_start_wherever_it_is(seconds: float) -> None:
    service = FakeService(workers=4).start()
    service.run(seconds)
    service.outcome(service.stop())
    assert service.exit_status == 0
    assert not service.workers


@pytest.mark.parametrize("fast", [False, True])
def test_stop_of_a_master_that_is_not_up_yet_does_not_wait_for_it(fast: bool) -> None:
    service = FakeService(Release(master_seconds=FOREVER), graceful_timeout=600.0).start()
    began = service.now
    service.outcome(service.stop(fast=fast))
    assert service.now - began <= BOOT_STOP + TICK
    assert service.exit_status == 0


def test_configuration_that_was_read_too_late_is_not_started(service: FakeService) -> None:
    service.reload()
    service.stop()
    service.send(events.ConfigurationRead(service.service))
    assert list(service.masters) == [1]


def test_refusal_is_one_sentence_and_its_details_are_for_who_asked(service: FakeService) -> None:
    operation = service.reload()
    service.send(events.ConfigurationRefused("KeyError: 'shop'", "Traceback: line 7"))
    outcome = service.outcome(operation)
    assert (outcome.message, outcome.details) == ("nothing was changed: KeyError: 'shop'", "Traceback: line 7")
    assert service.log[-1] == "reload refused: KeyError: 'shop'"


def test_refusal_that_comes_too_late_is_not_told(service: FakeService) -> None:
    service.deploy(Release(refusal="no"))
    operation = service.reload()
    service.stop()
    service.send(events.ConfigurationRefused("no"))
    assert service.outcomes[operation].code is Code.STOPPING


def test_what_does_not_end_is_killed() -> None:
    service = FakeService(workers=2, graceful_timeout=10.0).serve()
    service.masters[1].is_hung = True
    service.stop()
    service.run(10.0 + OVERTIME - 1)
    assert len(service.workers) == 2
    service.run(2.0)
    assert service.exit_status == 0
    assert service.logged("generation 1: killing what did not end in time") == 1
