"""The autoscaler in the service: when its decisions take effect, and what goes before them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from outrider_supervisor.actions import Code
from outrider_supervisor.autoscaler import Veto
from outrider_supervisor.autoscaling import look_at, refuse_scale, scaling_of
from outrider_supervisor.events import Load, Observed, Sample, Share
from outrider_supervisor.generation import Generation, GenerationState, Worker, WorkerState
from outrider_testing.fakes.supervised_load import FakeLoad
from outrider_testing.fakes.supervised_processes import BOOT_FAILS, BOOT_HANGS, CRASHES, FOREVER, Release
from outrider_testing.fakes.supervised_service import FakeService
from outrider_testing.services import make_service

LIMITS: dict[str, Any] = {
    "min_workers": 1,
    "max_workers": 4,
    "target_utilisation": 0.8,
    "scale_up_window": 3.0,
    "scale_down_window": 20.0,
    "scale_up_step": 4,
}
SECONDS = 40.0
"""Long enough for every change that is due."""


def scaled(
    workers: int = 1, demand: float = 0.0, release: Release | None = None, **fields: Any
) -> tuple[FakeService, FakeLoad]:
    service = FakeService(release, workers=workers, **{**LIMITS, **fields}).serve()
    return service, FakeLoad(service, demand)


# -- what it does


def test_pool_follows_the_load() -> None:
    service, load = scaled(1, 2.2)
    service.run(SECONDS)
    assert service.serving == service.machine.target == 3
    load.demand = 0.3
    service.run(SECONDS)
    assert service.serving == service.machine.target == 1
    assert not service.logged("degraded")


def test_decision_is_logged_with_its_reason() -> None:
    service, _ = scaled(2, 2.0)
    service.run(SECONDS / 4)
    assert service.logged("scaled 2 → 3: demand 2.00 at 80% utilisation") == 1


def test_service_without_limits_is_not_scaled() -> None:
    service, _ = scaled(1, 1.0, max_workers=0)
    service.run(SECONDS)
    assert service.machine.target == 1
    assert service.machine.autoscaling.decision is None


def test_connections_that_wait_at_the_listeners_count_by_how_long_they_will() -> None:
    service, load = scaled(1, 1.0)
    backlogs = iter(range(0, 100_000, 200))  # two seconds later each second
    load.fields = {"backlog": 0}
    measure = service.load

    def fill() -> Load | None:
        found = measure()
        if found is not None:
            load.fields = {"backlog": next(backlogs)}
        return found

    service.load = fill
    service.wait_for(lambda: service.machine.target > 1, limit=SECONDS)
    assert service.machine.target == 4


@pytest.mark.parametrize("release", [BOOT_FAILS, BOOT_HANGS])
def test_pool_whose_new_workers_do_not_boot_is_degraded_and_is_not_grown_further(release: Release) -> None:
    release = dataclasses.replace(release, good_workers=1)
    service, _ = scaled(1, 1.0, release, boot_timeout=5.0)
    service.wait_for(lambda: service.machine.state == "degraded", limit=12.0)
    service.run(SECONDS)
    assert service.machine.target == 2
    assert service.serving == 1


def test_pool_in_backoff_names_the_veto() -> None:
    service, load = scaled(2, 0.9, Release(), restart_intensity=1)
    service.run(4.0)
    load.demand = 2.0
    seen: set[Veto] = set()
    for _ in range(40):
        service.step(0.5)
        if service.serving:
            service.kill_worker(service.pids(1)[0])
        decision = service.machine.autoscaling.decision
        seen.update(decision.vetoes if decision is not None else ())
    assert Veto.BACKOFF in seen


def test_memory_that_another_worker_would_not_fit_into_is_a_veto() -> None:
    service, load = scaled(1, 1.0)
    load.fields = {"memory_room": 10 << 20, "worker_memory": 11 << 20}
    service.run(SECONDS)
    decision = service.machine.autoscaling.decision
    assert service.machine.target == 1
    assert decision is not None
    assert decision.vetoes == (Veto.MEMORY,)


# -- what goes before it


def test_scaling_waits_for_the_end_of_a_reload() -> None:
    service, load = scaled(1, 0.3)
    reload = service.reload()
    load.demand = 1.0
    service.run(3.0)
    decision = service.machine.autoscaling.decision
    assert decision is not None
    assert decision.vetoes == (Veto.RELOAD,)
    assert service.machine.target == 1
    service.outcome(reload)
    service.wait_for(lambda: service.machine.target == 2, limit=SECONDS)


def test_reload_keeps_the_number_the_autoscaler_has_found() -> None:
    service, _ = scaled(1, 2.2)
    service.run(SECONDS)
    assert service.outcome(service.reload(canary=False)).message.endswith("serving with 3 of 3 workers")


@pytest.mark.parametrize("fields,target", [({"max_workers": 2}, 2), ({"min_workers": 4}, 4), ({"max_workers": 0}, 1)])
def test_reload_brings_the_pool_into_its_new_limits(fields: dict[str, Any], target: int) -> None:
    service, _ = scaled(1, 2.2)
    service.run(SECONDS)
    service.deploy(**fields)
    outcome = service.outcome(service.reload(canary=False))
    assert f"serving with {target} of {target} worker" in outcome.message
    service.run(2.0)
    assert service.machine.target == service.serving == target


def test_load_of_a_new_generation_is_measured_anew() -> None:
    service, load = scaled(1, 2.2)
    service.run(SECONDS)
    load.demand = 0.3
    service.run(15.0)
    service.outcome(service.reload(canary=False))
    service.run(15.0)
    assert service.machine.target == 3


def test_pool_without_a_master_is_not_scaled() -> None:
    service, load = scaled(2, 1.2)
    service.deploy(Release(refusal="gunicorn.conf.py has a syntax error"))
    service.kill_master(1)
    service.run(10.0)
    load.demand = 2.0
    seen: set[Veto] = set()
    for _ in range(40):
        service.run(0.5)
        decision = service.machine.autoscaling.decision
        assert decision is not None
        seen.update(decision.vetoes)
    assert service.machine.target == 2
    assert Veto.OPERATION in seen


def test_settings_of_a_reload_count_at_once() -> None:
    service, _ = scaled(2, 1.5)
    service.run(SECONDS)
    assert service.machine.target == 2
    service.deploy(target_utilisation=0.4)
    service.outcome(service.reload(canary=False))
    service.wait_for(lambda: service.machine.target == 4, limit=SECONDS)


@pytest.mark.parametrize("workers", [0, 5, 9])
def test_scaling_by_hand_outside_the_limits_is_refused(workers: int) -> None:
    service, _ = scaled(2, 1.2)
    outcome = service.outcome(service.scale(workers))
    assert outcome.code is Code.REFUSED
    assert ("1 to 4; change min_workers or max_workers and reload" in outcome.message) == (workers > 0)
    assert service.machine.target == 2


def test_signal_for_one_more_than_allowed_is_refused_in_the_log() -> None:
    service, _ = scaled(4, 3.0)
    service.scale(1, relative=True)
    service.run(5.0)
    assert service.machine.target == 4
    assert service.logged("not scaled: 5 is outside") == 1


def test_scaling_that_a_reload_has_made_impossible_is_refused_when_its_turn_comes() -> None:
    service, _ = scaled(1, 0.3)
    service.deploy(max_workers=2)
    service.reload(canary=False)
    assert service.outcome(service.scale(4)).code is Code.REFUSED
    assert service.machine.target == 1


def test_scaling_by_hand_holds_for_the_windows_and_then_the_load_counts_again() -> None:
    service, _ = scaled(1, 0.3)
    service.run(SECONDS)
    assert service.outcome(service.scale(3)).code is Code.DONE
    service.run(15.0)
    assert service.machine.target == 3
    service.run(SECONDS)
    assert service.machine.target == 1


def test_reload_after_scaling_by_hand_keeps_what_the_load_has_asked_for_since() -> None:
    service, _ = scaled(1, 0.3)
    service.outcome(service.scale(3))
    service.run(SECONDS)
    service.outcome(service.reload(canary=False))
    assert service.machine.target == 1


def test_another_supervisor_goes_on_where_the_last_one_was() -> None:
    service, load = scaled(1, 2.2)
    service.run(SECONDS)
    load.demand = 0.3
    service.run(15.0)
    service.upgrade()
    service.run(1.0)
    assert service.upgrades == 1
    assert service.machine.target == 3
    service.run(14.0)  # and not another whole window
    assert service.machine.target == 1


def test_service_that_stops_is_not_scaled() -> None:
    service, load = scaled(1, 2.2, Release(drain_seconds=FOREVER), graceful_timeout=600.0)
    service.run(SECONDS)
    load.demand = 0.3
    service.run(10.0)
    service.stop()
    service.run(SECONDS)
    assert not service.logged("scaled 3")


def test_worker_that_crashes_while_others_boot_makes_the_service_degraded() -> None:
    service, _ = scaled(2, 2.0, Release(boot_seconds=10.0))
    service.wait_for(lambda: service.machine.target == 3, limit=SECONDS)
    service.run(1.0)
    assert service.machine.state == "serving"
    service.kill_worker(service.pids(1)[0])
    service.run(1.0)
    assert service.machine.state == "degraded"


def test_worker_that_crashes_after_a_growth_makes_the_service_degraded() -> None:
    service, _ = scaled(1, 2.2, Release(boot_seconds=3.0))
    service.run(SECONDS)
    service.kill_worker(service.pids(1)[0])
    service.run(1.0)
    assert service.machine.state == "degraded"


def test_crashes_do_not_make_it_scale() -> None:
    service, _ = scaled(2, 1.5, CRASHES)
    service.run(SECONDS)
    assert service.machine.target <= 2


# -- plain functions


def test_service_without_most_workers_has_no_scaling() -> None:
    assert scaling_of(make_service()) is None
    scaling = scaling_of(make_service(**LIMITS))
    assert scaling is not None
    assert (scaling.min_workers, scaling.max_workers, scaling.down_window) == (1, 4, 20.0)


def test_scaling_by_hand_is_free_without_the_autoscaler() -> None:
    assert refuse_scale(make_service(), 100) == ""
    assert "at least one worker" in refuse_scale(make_service(), 0)
    assert "512 workers at most" in refuse_scale(make_service(), 10**9)


def test_look_is_of_the_workers_that_serve() -> None:
    workers = {1: Worker(1, 0.0, WorkerState.READY), 2: Worker(2, 0.0, WorkerState.RETIRING)}
    current = Generation(1, make_service(**LIMITS), GenerationState.CURRENT, 1, 0.0, workers=workers)
    load = Load({1: Share(1.5, 0.9), 2: Share(0.1, 0.2)}, 10.0, 0, 8.0, 100, 30)
    look = look_at(current, 2, Observed({1: Sample(0, 0, 2.0), 2: Sample(0, 0, 0.0)}, load), load, [])
    assert (look.demand, look.cpu) == pytest.approx((1.7, 1.6))
    assert (look.ready, look.late, look.fitting, look.cores) == (1, 2.0, 3, 8.0)


def test_look_without_workers_is_late_by_nothing() -> None:
    current = Generation(1, make_service(**LIMITS), GenerationState.CURRENT, 1, 0.0)
    load = Load({}, 0.0, 5, 8.0, None, None)
    look = look_at(current, 1, Observed({}, load), load, [])
    assert (look.late, look.demand, look.fitting) == (0.0, 0.0, None)
