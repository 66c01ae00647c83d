"""The workers of one master: targets, replacements and deaths."""

from __future__ import annotations

import signal
from signal import SIGKILL, SIGTERM

import pytest

from outrider_supervisor.messages import BackingOff, WorkerExited, WorkerReady, WorkerRetiring, WorkerSpawned
from outrider_supervisor.pool import Pool, Tell
from outrider_testing.fakes.pool_master import LIMITS, PoolMaster, serving

# -- targets


def test_pool_spawns_the_target_at_once() -> None:
    master = PoolMaster(3)
    assert master.booting == [1, 2, 3]
    assert master.told == [WorkerSpawned(1, 0), WorkerSpawned(2, 0), WorkerSpawned(3, 0)]


def test_pool_tells_when_a_worker_is_ready_once() -> None:
    master = PoolMaster(1)
    master.ready(1)
    master.ready(1)
    assert master.told.count(WorkerReady(1)) == 1
    assert master.serving == [1]


def test_pool_ignores_facts_about_strangers() -> None:
    master = serving(1)
    master.ready(77)
    master.replace(77)
    master.pool.draining(77, master.now)
    master.pool.beat(77, master.now)
    assert master.pool.exited(77, 0, master.now) is None
    assert master.told == []


def test_worker_that_is_ready_too_late_is_not_told_of_and_goes() -> None:
    master = PoolMaster(1)
    master.set_target(0)
    master.ready(1)
    assert WorkerReady(1) not in master.told
    assert master.retiring == [1]
    assert master.sent == [(1, SIGTERM)]


def test_higher_target_spawns_the_difference() -> None:
    master = serving(1)
    master.set_target(4)
    assert master.booting == [2, 3, 4]


def test_lower_target_retires_the_oldest() -> None:
    master = serving(3)
    master.set_target(1)
    assert master.sent == [(1, SIGTERM), (2, SIGTERM)]
    assert master.told == [WorkerRetiring(1), WorkerRetiring(2)]
    assert master.serving == [3]


def test_lower_target_retires_the_newest_booting_first() -> None:
    master = serving(2)
    master.set_target(4)
    master.set_target(1)
    assert master.sent == [(4, SIGTERM), (3, SIGTERM), (1, SIGTERM)]


def test_target_of_zero_retires_all() -> None:
    master = serving(2)
    master.set_target(0)
    assert master.retiring == [1, 2]
    assert not master.pool.is_finished


def test_retired_worker_is_not_counted() -> None:
    master = serving(2)
    master.set_target(1)
    master.set_target(2)
    assert master.booting == [3]


def test_exit_of_a_retired_worker_is_expected_and_replaces_nothing() -> None:
    master = serving(2)
    master.set_target(1)
    master.exit(1)
    assert master.told[-1] == WorkerExited(1, "exited with code 0", expected=True, was_ready=True)
    assert master.booting == []


# -- replacing


def test_replaced_worker_serves_until_another_is_ready() -> None:
    master = serving(2)
    master.replace(2)
    assert master.told == [WorkerSpawned(3, 2)]
    assert master.serving == [1, 2]
    master.ready(3)
    assert master.sent == [(2, SIGTERM)]
    assert master.serving == [1, 3]


def test_several_replacements_overlap() -> None:
    master = serving(3)
    master.replace(1)
    master.replace(3)
    assert [message for message in master.told if isinstance(message, WorkerSpawned)] == [
        WorkerSpawned(4, 1),
        WorkerSpawned(5, 3),
    ]
    master.ready(5)
    assert master.sent == [(3, SIGTERM)]
    master.ready(4)
    assert master.sent == [(3, SIGTERM), (1, SIGTERM)]


def test_replacing_twice_is_replacing_once() -> None:
    master = serving(1)
    master.replace(1)
    master.replace(1)
    assert master.booting == [2]


def test_replaced_worker_stays_when_its_replacement_cannot_boot() -> None:
    master = serving(1)
    master.replace(1)
    master.exit(2, 3)
    assert master.serving == [1]
    assert master.booting == []
    master.wait(1.0, 1)
    assert master.told[-1] == WorkerSpawned(3, 1)
    master.ready(3)
    assert master.sent == [(1, SIGTERM)]


def test_death_of_a_replaced_worker_needs_no_other_replacement() -> None:
    master = serving(2)
    master.replace(1)
    master.exit(1, -SIGKILL)
    assert master.booting == [3]
    master.ready(3)
    assert master.serving == [2, 3]
    assert master.sent == []


def test_replaced_worker_stays_when_another_died_meanwhile() -> None:
    master = serving(2)
    master.replace(1)
    master.exit(2, -SIGSEGV)
    assert master.booting == [3, 4]
    master.ready(3)
    assert master.serving == [1, 3]
    master.ready(4)
    assert master.serving == [3, 4]


def test_replacing_a_booting_worker_retires_it_at_once() -> None:
    master = PoolMaster(1)
    master.replace(1)
    assert master.sent == [(1, SIGTERM)]
    assert master.booting == [2]


def test_replacing_a_retiring_worker_does_nothing() -> None:
    master = serving(2)
    master.set_target(1)
    master.replace(1)
    assert master.booting == []


def test_worker_that_shall_be_replaced_at_once_is_retired_and_another_one_spawned() -> None:
    master = serving(2)
    master.pool.replace(2, master.now, at_once=True)
    master.step()
    assert master.sent == [(2, SIGTERM)]
    assert master.told == [WorkerRetiring(2), WorkerSpawned(3, 0)]
    master.pool.replace(2, master.now, at_once=True)
    master.step()
    assert master.sent == [(2, SIGTERM)]


def test_worker_that_is_being_replaced_may_be_told_to_go_at_once() -> None:
    master = serving(2)
    master.replace(2)
    master.pool.replace(2, master.now, at_once=True)
    master.step()
    assert (master.serving, master.booting, master.retiring) == ([1], [3], [2])


def test_lower_target_during_a_replacement_ends_with_the_target() -> None:
    master = serving(3)
    master.replace(1)
    master.set_target(2)
    assert master.retiring == [1, 4]
    assert master.serving == [2, 3]


# -- deaths

SIGSEGV = signal.SIGSEGV


@pytest.mark.parametrize(
    "code, how",
    [
        (1, "exited with code 1"),
        (3, "exited with code 3 (failed to boot)"),
        (4, "exited with code 4 (failed to load the application)"),
        (-SIGSEGV, "was killed by SIGSEGV"),
        (-SIGKILL, "was killed by SIGKILL, perhaps out of memory"),
        (-50, "was killed by signal 50"),
    ],
)
def test_pool_says_how_a_ready_worker_died_and_spawns_another_at_once(code: int, how: str) -> None:
    master = serving(2)
    master.exit(1, code)
    assert master.told == [WorkerExited(1, how, expected=False, was_ready=True), WorkerSpawned(3, 0)]


def test_worker_that_ends_itself_is_expected_and_replaced_at_once() -> None:
    master = serving(1)
    master.exit(1, 0)
    assert master.told == [
        WorkerExited(1, "exited with code 0", expected=True, was_ready=True),
        WorkerSpawned(2, 0),
    ]


def test_worker_that_ends_itself_without_shutting_down_has_crashed() -> None:
    master = serving(1)
    master.exit(1, 0, is_abrupt=True)
    how = "exited with code 0 without shutting down"
    assert master.told[0] == WorkerExited(1, how, expected=False, was_ready=True)


def test_worker_that_begins_to_drain_is_replaced_at_once_and_not_signalled() -> None:
    master = serving(1)
    master.pool.draining(1, master.now)
    master.step()
    assert master.told == [WorkerRetiring(1), WorkerSpawned(2, 0)]
    assert master.sent == []
    master.stop()
    assert master.sent == [(2, SIGTERM)]


def test_boot_failures_back_off_and_are_never_expected() -> None:
    master = PoolMaster(1)
    master.told.clear()
    master.exit(1, 0)
    assert master.told == [
        WorkerExited(1, "exited with code 0", expected=False, was_ready=False),
        BackingOff(1, 1.0),
    ]
    assert master.pool.wake_at() == master.now + 1
    master.wait(1.0)
    master.exit(2, 3)
    assert master.told[-1] == BackingOff(2, 2.0)
    master.wait(1.9)
    assert master.booting == []
    master.wait(0.1)
    assert master.booting == [3]


def test_another_target_does_not_wait_for_the_backoff() -> None:
    master = PoolMaster(1)
    master.exit(1, 3)
    master.set_target(1)
    assert master.booting == []
    master.wait(0.5)
    master.set_target(3)
    assert len(master.booting) == 3
    master.exit(2, 3)
    assert BackingOff(1, 1.0) in master.told[-2:]


def test_forks_that_fail_one_after_the_other_are_one_failure() -> None:
    pool = Pool(8, LIMITS, random=lambda: 0.0)
    now = 1000.0
    for failures, seconds in ((1, 1.0), (2, 2.0)):
        for _ in pool.decide(now):
            now += 0.01
            pool.spawn_failed(now)
        assert pool.decide(now) == [Tell(BackingOff(failures, seconds))]
        now += 1.0


def test_fork_that_fails_backs_off_once_for_all() -> None:
    master = serving(1)
    master.cannot_fork = True
    master.set_target(4)
    assert master.told == [BackingOff(1, 1.0)]
    master.cannot_fork = False
    master.wait(1.0, 1)
    assert len(master.booting) == 3


def test_crashes_of_ready_workers_back_off_beyond_the_intensity() -> None:
    master = serving(1)
    for pid in range(1, 4):
        master.exit(pid, 1)
        master.ready(pid + 1)
    assert not [message for message in master.told if isinstance(message, BackingOff)]
    master.exit(4, 1)
    assert master.booting == []
    assert BackingOff(1, 1.0) in master.told


def test_service_forgives_boot_failures() -> None:
    master = PoolMaster(1)
    master.exit(1, 3)
    master.wait(1.0)
    master.ready(2)
    master.wait(10.0, 2)
    master.exit(2, 1)
    master.exit(3, 3)
    assert master.told[-1] == BackingOff(1, 1.0)
