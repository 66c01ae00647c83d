"""The supervisor's decisions, scenario by scenario, with real pools as masters and made-up workers."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_supervisor import actions, events
from outrider_supervisor.actions import Code, Readiness
from outrider_supervisor.fleet import KILL_AFTER
from outrider_supervisor.generation import GenerationState
from outrider_supervisor.machine import BOOT_FAILED, LONGEST_BACKOFF, Machine
from outrider_supervisor.messages import Stop
from outrider_testing.fakes.supervised_service import FOREVER, TICK, FakeService, Release

GOOD = Release()
CRASHES = Release(crashes_after=2.0)
BOOT_FAILS = Release(boot_fault="exit")
BOOT_HANGS = Release(boot_fault="hang")
FAILS_IN_ROLL = Release(boot_fault="exit", good_workers=2)


@pytest.fixture
def service() -> FakeService:
    """Four workers serve."""
    return FakeService(workers=4).serve()


def kept_listeners(service: FakeService) -> list[int]:
    """Where in the list of actions listeners were closed."""
    return [index for index, each in enumerate(service.actions) if isinstance(each, actions.KeepListeners)]


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
    assert service.exit_status == BOOT_FAILED
    assert not service.workers
    assert not service.masters


def test_first_master_that_hangs_is_killed_after_boot_timeout() -> None:
    service = FakeService(Release(master_seconds=FOREVER), boot_timeout=60.0).start()
    service.wait_for(lambda: service.exit_status is not None, limit=75)
    assert service.exit_status == BOOT_FAILED


def test_first_master_that_dies_early_ends_the_service() -> None:
    service = FakeService(workers=4).start()
    service.run(0.75)
    service.kill_master(1)
    service.wait_for(lambda: service.exit_status is not None)
    assert service.exit_status == BOOT_FAILED


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
    service.wait_for(lambda: service.logged("it is the canary") == 1)
    began = service.now
    service.wait_for(lambda: service.logged("canary passed") == 1)
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


def test_rollback_ends_though_old_workers_do_not_boot_any_more(service: FakeService) -> None:
    """The code on disk is the new one's."""
    service.deploy(FAILS_IN_ROLL)
    operation = service.reload(canary=False)
    service.masters[1].release = BOOT_FAILS
    service.masters[1].spawned = 0
    assert service.outcome(operation).code is Code.FAILED
    assert service.serving >= 1
    assert service.machine.state == "degraded"
    service.masters[1].release = GOOD
    service.wait_for(lambda: service.machine.state == "serving")


# -- scaling


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_service_scales(service: FakeService, workers: int) -> None:
    outcome = service.outcome(service.scale(workers))
    assert (outcome.code, outcome.message) == (Code.DONE, f"{workers} workers serve")
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


def test_scaling_ends_where_the_master_does_nothing(service: FakeService) -> None:
    service.masters[1].is_hung = True
    outcome = service.outcome(service.scale(6))
    assert (outcome.code, outcome.message) == (Code.FAILED, "4 of 6 workers serve; it is tried further")


# -- recycling


@pytest.mark.parametrize("surge", [1, 3])
def test_all_workers_are_recycled(surge: int) -> None:
    service = FakeService(workers=4, max_surge=surge).serve()
    before = service.pids(1)
    outcome = service.outcome(service.recycle())
    assert (outcome.code, outcome.message) == (Code.DONE, "4 of 4 workers replaced")
    assert not set(before) & set(service.pids(1))
    assert service.least_serving == 4
    assert service.most_alive <= 4 + surge


def test_one_worker_is_recycled(service: FakeService) -> None:
    before = service.pids(1)
    assert service.outcome(service.recycle(before[2])).code is Code.DONE
    assert set(before) - set(service.pids(1)) == {before[2]}


def test_recycling_of_a_stranger_is_refused(service: FakeService) -> None:
    outcome = service.outcomes[service.recycle(1)]
    assert (outcome.code, outcome.message) == (
        Code.REFUSED,
        "1 is no worker that serves; `outrider status` lists them",
    )


def test_recycling_requests_wait_for_each_other(service: FakeService) -> None:
    first, second = [service.recycle(pid) for pid in service.pids(1)[:2]]
    assert service.outcome(first).code is service.outcome(second).code is Code.DONE


def test_recycling_fails_if_replacements_do_not_boot(service: FakeService) -> None:
    service.masters[1].release = BOOT_FAILS
    service.masters[1].spawned = 0
    outcome = service.outcome(service.recycle())
    assert outcome.code is Code.FAILED
    assert service.serving == service.least_serving == 4


def test_recycling_ends_where_the_master_does_nothing(service: FakeService) -> None:
    service.masters[1].is_hung = True
    assert service.outcome(service.recycle()).code is Code.FAILED


def test_recycling_goes_on_if_a_worker_dies_that_was_to_be_replaced(service: FakeService) -> None:
    operation = service.recycle()
    service.kill_worker(service.pids(1)[-1])
    assert service.outcome(operation).code is Code.DONE


def test_workers_over_max_requests_are_replaced_one_at_a_time() -> None:
    service = FakeService(workers=4, max_requests=100).serve()
    service.run(30.0)
    assert service.logged("(max_requests): it is replaced") >= 8
    assert service.least_serving == 4
    assert service.most_alive == 5


def test_old_workers_are_replaced() -> None:
    service = FakeService(workers=2, max_worker_age=20.0).serve()
    before = service.pids(1)
    service.run(30.0)
    assert service.logged("s old (max_worker_age)") >= 2
    assert not set(before) & set(service.pids(1))
    assert service.least_serving == 2


def test_worker_with_much_memory_is_replaced_before_it_goes() -> None:
    service = FakeService(workers=2, max_worker_memory=200 << 20).serve()
    grown = service.pids(1)[0]
    service.workers[grown].memory = 250 << 20
    service.run(5.0)
    assert service.logged(f"worker {grown} uses 250 MiB (max_worker_memory): it is replaced") == 1
    assert service.least_serving == 2
    assert grown not in service.workers


def test_worker_with_far_too_much_memory_goes_at_once() -> None:
    service = FakeService(workers=2, max_worker_memory=200 << 20).serve()
    service.run(1.0)
    grown = service.pids(1)[0]
    service.workers[grown].memory = 900 << 20
    service.step()
    assert not service.workers[grown].is_serving
    service.run(5.0)
    assert service.serving == 2


def test_workers_with_far_too_much_memory_do_not_go_all_at_once() -> None:
    service = FakeService(workers=4, max_worker_memory=200 << 20).serve()
    service.run(1.0)
    for pid in service.pids(1):
        service.workers[pid].memory = 900 << 20
    service.run(30.0)
    assert service.least_serving == 3
    assert service.serving == 4


def test_workers_above_the_hard_limit_from_the_beginning_serve_on() -> None:
    service = FakeService(Release(memory=900 << 20), workers=1, max_worker_memory=200 << 20).serve()
    service.run(60.0)
    assert service.least_serving == 1


# -- the end


def test_graceful_stop_lets_workers_drain(service: FakeService) -> None:
    operation = service.stop()
    assert service.machine.state == "stopping"
    assert service.readiness[-1] is Readiness.STOPPING
    assert service.actions[kept_listeners(service)[0]] == actions.KeepListeners(None)
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
def test_stop_ends_a_reload_wherever_it_is(release: Release, seconds: float, fast: bool) -> None:
    service = FakeService(workers=4).serve()
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


def test_configuration_that_was_read_too_late_is_not_started(service: FakeService) -> None:
    service.reload()
    service.stop()
    service.send(events.ConfigurationRead(service.service))
    assert list(service.masters) == [1]


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
    service.run(10.0 + KILL_AFTER - 1)
    assert len(service.workers) == 2
    service.run(2.0)
    assert service.exit_status == 0
    assert service.logged("generation 1: killing what did not end in time") == 1


# -- masters that die


def test_workers_serve_on_without_a_master_until_there_is_another(service: FakeService) -> None:
    service.kill_master(1)
    service.wait_for(lambda: service.current.number == 2)
    service.wait_for(lambda: not service.pids(1) and service.machine.state == "serving")
    assert service.least_serving == 4
    assert service.most_alive <= 5
    assert service.logged("the master of generation 1 was killed by SIGKILL; its 4 workers serve on") == 1
    assert service.logged("degraded") == service.logged("recovered") == 1


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


def test_orphans_are_known_to_be_gone_by_the_kernel_alone(service: FakeService) -> None:
    service.deploy(Release(refusal="no"))
    service.kill_master(1)
    service.step()
    service.kill_worker(service.pids(1)[0])
    assert service.machine.fleet.capacity == 3


def test_worker_gone_is_no_loss_before_its_master_says_so(service: FakeService) -> None:
    service.message_delay = 1.0
    service.kill_worker(service.pids(1)[0])
    service.step()
    assert service.machine.fleet.capacity == 4
    service.run(1.0)
    assert service.machine.fleet.capacity == 3


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
    service.run(10.0 + KILL_AFTER + 1)
    assert {worker.generation for worker in service.workers.values()} == {2}


# -- workers that die


def test_crashed_worker_is_replaced_by_its_master(service: FakeService) -> None:
    service.kill_worker(service.pids(1)[0])
    service.run(5.0)
    assert service.serving == 4
    assert service.logged("was killed by SIGKILL, perhaps out of memory") == 1
    assert service.logged("degraded: 3 of 4 workers serve") == service.logged("recovered") == 1


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
