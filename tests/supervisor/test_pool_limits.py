"""The workers of one master: how long they may take for what, and the end of all."""

from __future__ import annotations

from signal import SIGABRT, SIGKILL, SIGQUIT, SIGTERM

from outrider_supervisor.messages import BackingOff, WorkerExited, WorkerReady, WorkerSpawned, WorkerStuck
from outrider_supervisor.pool import DRAIN_MARGIN, KILL_AFTER, LONGEST_ABSENCE, Limits, Pool, Send, Spawn
from outrider_testing.fakes.pool_master import LIMITS, PoolMaster, serving

# -- limits


def test_boot_timeout_aborts_then_kills() -> None:
    master = PoolMaster(1)
    master.wait(59.9)
    assert master.sent == []
    master.wait(0.1)
    assert master.sent == [(1, SIGABRT)]
    assert master.told[-1] == BackingOff(1, 1.0)
    master.wait(KILL_AFTER)
    assert master.sent == [(1, SIGABRT), (1, SIGKILL)]
    master.wait(60)
    assert master.sent.count((1, SIGKILL)) == 1
    master.exit(1, -SIGKILL)
    how = "took longer than boot_timeout (60 s)"
    assert WorkerExited(1, how, expected=False, was_ready=False) in master.told


def test_ready_comes_too_late_for_an_aborted_worker() -> None:
    master = PoolMaster(1)
    master.wait(60)
    master.ready(1)
    assert WorkerReady(1) not in master.told


def test_boot_timeout_of_zero_waits_for_ever() -> None:
    master = PoolMaster(1, Limits(boot_timeout=0, timeout=0, graceful_timeout=20, restart_intensity=3))
    master.wait(10_000)
    assert master.sent == []
    assert master.pool.wake_at() is None


def test_stuck_worker_is_aborted_and_replaced_at_once_then_killed() -> None:
    master = serving(2)
    master.wait(30, 2)
    assert master.sent == [(1, SIGABRT)]
    assert master.told == [WorkerStuck(1, 30.0), WorkerSpawned(3, 0)]
    master.wait(KILL_AFTER, 2)
    assert master.sent == [(1, SIGABRT), (1, SIGKILL)]
    master.exit(1, -SIGKILL)
    how = "was stuck: its loop was silent for 30.0 s"
    assert master.told[-1] == WorkerExited(1, how, expected=False, was_ready=True)
    assert master.booting == [3]


def test_beats_keep_a_worker_from_being_stuck() -> None:
    master = serving(1)
    master.wait(100, 1)
    assert master.sent == []
    assert master.pool.wake_at() == master.now + 30


def test_beat_of_a_worker_never_goes_back() -> None:
    master = serving(1)
    master.wait(10, 1)
    master.pool.beat(1, master.now - 5)
    assert master.pool.wake_at() == master.now + 30


def test_stuck_workers_count_as_crashes() -> None:
    master = serving(4)
    master.wait(30)
    assert sum(isinstance(message, WorkerStuck) for message in master.told) == 4
    assert BackingOff(1, 1.0) in master.told
    assert master.booting == []


def test_timeout_of_zero_finds_no_worker_stuck() -> None:
    master = serving(1, Limits(boot_timeout=60, timeout=0, graceful_timeout=20, restart_intensity=3))
    master.wait(1000)
    assert master.sent == []


def test_workers_of_a_suspended_machine_are_not_stuck() -> None:
    master = serving(1)
    master.set_target(2)
    master.now += 3600
    master.step()
    assert master.sent == []
    master.wait(29)
    assert master.sent == []
    master.wait(1)
    assert master.sent == [(1, SIGABRT)]


def test_short_absence_forgives_nothing() -> None:
    master = serving(1)
    master.wait(26)
    master.now += LONGEST_ABSENCE
    master.step()
    assert master.sent == [(1, SIGABRT)]


def test_worker_that_drains_for_too_long_is_killed() -> None:
    master = serving(1)
    master.set_target(0)
    master.wait(20 + DRAIN_MARGIN - 0.1)
    assert master.sent == [(1, SIGTERM)]
    master.wait(0.1)
    assert master.sent == [(1, SIGTERM), (1, SIGKILL)]
    master.exit(1, -SIGKILL)
    how = "did not end within graceful_timeout (20 s)"
    assert master.told[-1] == WorkerExited(1, how, expected=True, was_ready=True)


def test_worker_killed_by_others_while_it_drains_is_described_as_such() -> None:
    master = serving(1)
    master.set_target(0)
    master.exit(1, -SIGKILL)
    how = "was killed by SIGKILL, perhaps out of memory"
    assert master.told[-1] == WorkerExited(1, how, expected=True, was_ready=True)


# -- stopping


def test_graceful_stop_retires_all_and_finishes_when_they_are_gone() -> None:
    master = serving(2)
    master.set_target(3)
    master.stop()
    assert master.sent == [(1, SIGTERM), (2, SIGTERM), (3, SIGTERM)]
    for pid in (1, 2, 3):
        assert not master.pool.is_finished
        master.exit(pid, 0)
    assert master.pool.is_finished


def test_stop_without_workers_is_finished() -> None:
    master = PoolMaster(0)
    master.stop()
    assert master.pool.is_finished


def test_second_graceful_stop_signals_nobody_again() -> None:
    master = serving(1)
    master.stop()
    master.stop()
    assert master.sent == [(1, SIGTERM)]


def test_fast_stop_quits_then_kills() -> None:
    master = serving(1)
    master.stop(fast=True)
    assert master.sent == [(1, SIGQUIT)]
    master.wait(KILL_AFTER)
    assert master.sent == [(1, SIGQUIT), (1, SIGKILL)]
    master.stop(fast=True)
    assert len(master.sent) == 2
    master.exit(1, -SIGKILL)
    assert master.told[-1] == WorkerExited(1, "did not end within 2 s of a fast stop", expected=True, was_ready=True)


def test_fast_stop_overtakes_a_graceful_one() -> None:
    master = serving(1)
    master.stop()
    master.stop(fast=True)
    master.stop(fast=True)
    assert master.sent == [(1, SIGTERM), (1, SIGQUIT)]
    master.wait(KILL_AFTER)
    assert master.sent[-1] == (1, SIGKILL)


def test_fast_stop_does_not_prolong_a_drain_that_is_almost_over() -> None:
    master = serving(1)
    master.stop()
    master.wait(20.5)
    master.stop(fast=True)
    master.wait(0.5)
    assert master.sent[-1] == (1, SIGKILL)


def test_stop_leaves_an_aborted_worker_to_its_end() -> None:
    master = serving(1)
    master.wait(30)
    master.exit(2, 0)
    master.stop(fast=True)
    assert master.sent == [(1, SIGABRT)]
    master.wait(KILL_AFTER)
    assert master.sent == [(1, SIGABRT), (1, SIGKILL)]


def test_stopping_pool_obeys_no_target_and_spawns_nobody() -> None:
    master = serving(1)
    master.stop()
    master.set_target(5)
    master.exit(1, 1)
    assert master.born == 1


def test_worker_that_was_spawned_into_a_stop_is_retired() -> None:
    pool = Pool(1, LIMITS, random=lambda: 0.0)
    assert pool.decide(0.0) == [Spawn(0)]
    pool.stop(0.0, fast=False)
    pool.spawned(1, 0, 0.0)
    assert Send(1, SIGTERM) in pool.decide(0.0)
