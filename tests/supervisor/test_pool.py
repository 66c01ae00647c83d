from __future__ import annotations

import signal
from signal import SIGABRT, SIGKILL, SIGQUIT, SIGTERM

import pytest

from outrider_supervisor.messages import (
    BackingOff,
    FromMaster,
    WorkerExited,
    WorkerReady,
    WorkerRetiring,
    WorkerSpawned,
    WorkerStuck,
)
from outrider_supervisor.pool import (
    DRAIN_MARGIN,
    KILL_AFTER,
    LONGEST_ABSENCE,
    Limits,
    Pool,
    Send,
    Spawn,
    Stage,
    Tell,
)

LIMITS = Limits(boot_timeout=60, timeout=30, graceful_timeout=20, restart_intensity=3)
TICK = 1.0


class Master:
    """Does what the pool says, on a clock of its own: pids are 1, 2, 3 in order of birth."""

    def __init__(self, target: int, limits: Limits = LIMITS) -> None:
        self.pool = Pool(target, limits, random=lambda: 0.0)
        self.now = 1000.0
        self.sent: list[tuple[int, signal.Signals]] = []
        self.told: list[FromMaster] = []
        self.born = 0
        self.cannot_fork = False
        self.step()

    def step(self) -> None:
        for _ in range(5):
            actions = self.pool.decide(self.now)
            if not actions:
                return
            for action in actions:
                self.perform(action)
        pytest.fail("the pool never comes to rest")

    def perform(self, action: object) -> None:
        match action:
            case Spawn(replaces):
                if self.cannot_fork:
                    self.pool.spawn_failed(self.now)
                else:
                    self.born += 1
                    self.pool.spawned(self.born, replaces, self.now)
            case Send(pid, number):
                self.sent.append((pid, number))
            case Tell(message):
                self.told.append(message)

    def wait(self, seconds: float, *beating: int) -> None:
        """Let time pass in ticks; the loops of these workers run."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + TICK)
            for pid in beating:
                self.pool.beat(pid, self.now)
            self.step()

    def ready(self, *pids: int) -> None:
        for pid in pids:
            self.pool.ready(pid, self.now)
        self.step()

    def exit(self, pid: int, code: int = 0, *, is_abrupt: bool = False) -> None:
        self.pool.exited(pid, code, self.now, is_abrupt=is_abrupt)
        self.step()

    def replace(self, *pids: int) -> None:
        for pid in pids:
            self.pool.replace(pid, self.now)
        self.step()

    def set_target(self, target: int) -> None:
        self.pool.set_target(target)
        self.step()

    def stop(self, *, fast: bool = False) -> None:
        self.pool.stop(self.now, fast=fast)
        self.step()

    def in_stage(self, stage: Stage) -> list[int]:
        return [pid for pid, worker in self.pool.workers.items() if worker.stage is stage]

    @property
    def booting(self) -> list[int]:
        return self.in_stage(Stage.BOOTING)

    @property
    def serving(self) -> list[int]:
        return self.in_stage(Stage.READY)

    @property
    def retiring(self) -> list[int]:
        return self.in_stage(Stage.RETIRING)


def serving(target: int, limits: Limits = LIMITS) -> Master:
    """A master whose workers are all ready."""
    master = Master(target, limits)
    master.ready(*range(1, target + 1))
    master.told.clear()
    return master


# -- targets


def test_pool_spawns_the_target_at_once() -> None:
    master = Master(3)
    assert master.booting == [1, 2, 3]
    assert master.told == [WorkerSpawned(1, 0), WorkerSpawned(2, 0), WorkerSpawned(3, 0)]


def test_pool_tells_when_a_worker_is_ready_once() -> None:
    master = Master(1)
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
    master = Master(1)
    master.replace(1)
    assert master.sent == [(1, SIGTERM)]
    assert master.booting == [2]


def test_replacing_a_retiring_worker_does_nothing() -> None:
    master = serving(2)
    master.set_target(1)
    master.replace(1)
    assert master.booting == []


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
    master = Master(1)
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
    master = Master(1)
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
    master = Master(1)
    master.exit(1, 3)
    master.wait(1.0)
    master.ready(2)
    master.wait(10.0, 2)
    master.exit(2, 1)
    master.exit(3, 3)
    assert master.told[-1] == BackingOff(1, 1.0)


# -- limits


def test_boot_timeout_aborts_then_kills() -> None:
    master = Master(1)
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
    master = Master(1)
    master.wait(60)
    master.ready(1)
    assert WorkerReady(1) not in master.told


def test_boot_timeout_of_zero_waits_for_ever() -> None:
    master = Master(1, Limits(boot_timeout=0, timeout=0, graceful_timeout=20, restart_intensity=3))
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
    master = Master(0)
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
