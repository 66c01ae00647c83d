"""A master as its pool needs one: it does what the pool says, on a clock of its own."""

from __future__ import annotations

import signal

from outrider_supervisor.messages import FromMaster
from outrider_supervisor.pool import Limits, Pool, Send, Spawn, Stage, Tell

LIMITS = Limits(boot_timeout=60, timeout=30, graceful_timeout=20, restart_intensity=3)
TICK = 1.0


class PoolMaster:
    """Pids are 1, 2, 3 in order of birth. `sent` and `told` are what the pool had it do."""

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
        raise AssertionError("the pool never comes to rest")

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


def serving(target: int, limits: Limits = LIMITS) -> PoolMaster:
    """A master whose workers are all ready."""
    master = PoolMaster(target, limits)
    master.ready(*range(1, target + 1))
    master.told.clear()
    return master
