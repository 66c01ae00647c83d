"""Whatever happens, and in whatever order: what must hold of the workers of one master."""

from __future__ import annotations

import signal
from collections import defaultdict
from signal import SIGABRT, SIGKILL, SIGQUIT, SIGTERM
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outrider_supervisor.backoff import LONGEST_BACKOFF
from outrider_supervisor.messages import BackingOff, WorkerExited, WorkerSpawned
from outrider_supervisor.pool import Limits, Pool, Send, Spawn, Stage, Tell

LIMITS = Limits(boot_timeout=10, timeout=5, graceful_timeout=3, restart_intensity=2)
MOST_ROUNDS = 4
ORDER = [SIGTERM, SIGQUIT, SIGABRT, SIGKILL]
ENDS = st.sampled_from([0, 0, 1, 3, 4, -int(SIGKILL), -int(SIGTERM)])


class Service(RuleBasedStateMachine):
    """A pool, and a world in which anything may happen to its workers."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.born = 0
        self.can_fork = True
        self.signals: dict[int, list[signal.Signals]] = defaultdict(list)
        self.spawned: list[int] = []
        self.buried: list[int] = []
        self.pool = Pool(2, LIMITS, random=lambda: 0.5)
        self.settle()

    def settle(self) -> None:
        """Do what the pool says until it says nothing."""
        for _ in range(MOST_ROUNDS):
            before = self.count(Stage.READY)
            actions = self.pool.decide(self.now)
            if not actions:
                return
            terminated = [each.pid for each in actions if isinstance(each, Send) and each.signal is SIGTERM]
            if terminated and not self.pool.is_stopping:
                assert self.count(Stage.READY) >= min(before, self.pool.target), "retired before the replacement"
            for action in actions:
                self.perform(action)
        raise AssertionError("the pool never comes to rest")

    def perform(self, action: object) -> None:
        match action:
            case Spawn(replaces):
                assert not self.pool.is_stopping
                if self.can_fork:
                    self.born += 1
                    self.pool.spawned(self.born, replaces, self.now)
                else:
                    self.pool.spawn_failed(self.now)
            case Send(pid, number):
                assert pid in self.pool.workers, "a signal for nobody"
                self.signals[pid].append(number)
            case Tell(WorkerSpawned(pid)):
                self.spawned.append(pid)
            case Tell(WorkerExited(pid)):
                self.buried.append(pid)
            case Tell(BackingOff(failures, seconds)):
                assert failures > 0
                assert 0 < seconds <= LONGEST_BACKOFF

    def count(self, stage: Stage) -> int:
        return sum(worker.stage is stage for worker in self.pool.workers.values())

    def choose(self, data: Any) -> int:
        return int(data.draw(st.sampled_from(sorted(self.pool.workers))))

    # -- what may happen

    @rule(workers=st.integers(0, 4))
    def set_target(self, workers: int) -> None:
        self.pool.set_target(workers)
        self.settle()

    @precondition(lambda self: self.pool.workers)
    @rule(data=st.data())
    def replace(self, data: Any) -> None:
        self.pool.replace(self.choose(data), self.now)
        self.settle()

    @precondition(lambda self: self.pool.workers)
    @rule(data=st.data())
    def become_ready(self, data: Any) -> None:
        self.pool.ready(self.choose(data), self.now)
        self.settle()

    @rule()
    def become_ready_all(self) -> None:
        for pid in list(self.pool.workers):
            self.pool.ready(pid, self.now)
        self.settle()

    @precondition(lambda self: self.pool.workers)
    @rule(data=st.data())
    def drain(self, data: Any) -> None:
        self.pool.draining(self.choose(data), self.now)
        self.settle()

    @precondition(lambda self: self.pool.workers)
    @rule(data=st.data(), code=ENDS, is_abrupt=st.booleans())
    def exit(self, data: Any, code: int, is_abrupt: bool) -> None:
        pid = self.choose(data)
        self.pool.exited(pid, code, self.now, is_abrupt=is_abrupt)
        self.settle()

    @rule()
    def obey_signals(self) -> None:
        for pid in [pid for pid, worker in self.pool.workers.items() if worker.stage is Stage.RETIRING]:
            self.pool.exited(pid, 0, self.now)
        self.settle()

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 4.0, 100.0]), alive=st.booleans())
    def wait(self, seconds: float, alive: bool) -> None:
        self.now += seconds
        for pid in list(self.pool.workers):
            if alive:
                self.pool.beat(pid, self.now)
        self.settle()

    @rule()
    def wait_until_asked(self) -> None:
        wake_at = self.pool.wake_at()
        if wake_at is not None:
            self.now = max(self.now, wake_at)
            self.settle()

    @rule(can_fork=st.booleans())
    def run_out_of_memory(self, can_fork: bool) -> None:
        self.can_fork = can_fork

    @rule(fast=st.booleans())
    @precondition(lambda self: self.born > 5)
    def stop(self, fast: bool) -> None:
        self.pool.stop(self.now, fast=fast)
        self.settle()

    # -- what must hold

    @invariant()
    def no_worker_is_signalled_twice(self) -> None:
        for numbers in self.signals.values():
            ranks = [ORDER.index(number) for number in numbers]
            assert ranks == sorted(set(ranks)), numbers

    @invariant()
    def workers_are_as_many_as_the_target(self) -> None:
        kept = [
            worker
            for worker in self.pool.workers.values()
            if worker.stage in (Stage.BOOTING, Stage.READY) and not worker.is_doomed
        ]
        wake_at = self.pool.wake_at()
        assert len(kept) <= self.pool.target
        if len(kept) < self.pool.target:
            assert wake_at is not None
            assert self.now < wake_at <= self.now + LONGEST_BACKOFF, "nobody is missing but in a backoff"

    @invariant()
    def every_stage_has_an_end(self) -> None:
        wake_at = self.pool.wake_at()
        for worker in self.pool.workers.values():
            if worker.stage in (Stage.RETIRING, Stage.ABORTED):
                assert worker.was_killed or worker.kill_at is not None
            if not worker.was_killed:
                assert wake_at is not None
                assert wake_at > self.now

    @invariant()
    def supervisor_is_told_of_every_worker(self) -> None:
        assert self.spawned == list(range(1, self.born + 1))
        assert sorted({*self.buried, *self.pool.workers}) == self.spawned
        assert len(self.buried) == len(set(self.buried))

    def teardown(self) -> None:
        """A stop ends, even where no worker does what it is told."""
        self.pool.stop(self.now, fast=False)
        self.settle()
        for _ in range(200):
            if self.pool.is_finished:
                break
            wake_at = self.pool.wake_at()
            self.now = self.now if wake_at is None else max(self.now, wake_at)
            self.settle()
            for pid in list(self.pool.workers):
                if SIGKILL in self.signals[pid]:
                    self.pool.exited(pid, -SIGKILL, self.now)
        assert self.pool.is_finished


TestService = Service.TestCase
TestService.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, database=None)
