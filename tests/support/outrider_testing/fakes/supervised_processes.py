"""The processes of a supervised service on a fake clock: real pools as its masters, and made-up workers.

Times are in seconds. What a worker does is up to its `Release`.
"""

from __future__ import annotations

import dataclasses
import signal
from collections import deque

from outrider_supervisor import actions, pool
from outrider_supervisor.events import Sample
from outrider_supervisor.messages import Replace, ReplaceAtOnce, SetTarget, Stop, ToMaster

FOREVER = float("inf")
MIB = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """What a deployed version does."""

    boot_seconds: float = 1.0
    boot_fault: str = ""
    """Workers "exit" at the end of their boot, or it "hangs"."""
    good_workers: int = 0
    """So many workers of a generation are without a fault, be it of the boot or a crash, before the others show it."""
    crashes_after: float = FOREVER
    """From when the worker is ready."""
    drain_seconds: float = 0.5
    close_seconds: float = 0.0
    """For how long of its drain a worker still accepts."""
    requests_per_second: float = 20.0
    error_share: float = 0.0
    lag: float = 0.001
    memory: int = 100 * MIB
    master_seconds: float = 0.5
    master_fault: str = ""
    """What MasterFailed says."""
    refusal: str = ""
    """Why the configuration cannot be read."""

    @property
    def is_healthy(self) -> bool:
        """Whether its workers boot and stay."""
        return not (self.boot_fault or self.master_fault) and self.crashes_after == FOREVER


@dataclasses.dataclass(slots=True, eq=False)
class FakeWorker:
    """A worker's process."""

    pid: int
    generation: int
    release: Release
    born_at: float
    is_faulty: bool
    ready_at: float = FOREVER
    drains_from: float = FOREVER
    ends_at: float = FOREVER
    exit_code: int = 0
    requests: float = 0.0
    memory: int = 0
    is_stuck: bool = False
    clock: float = 0.0
    closes_at: float = FOREVER
    """When it accepts no more."""

    @property
    def is_serving(self) -> bool:
        """Whether it takes requests."""
        return self.ready_at < FOREVER and self.drains_from == FOREVER

    @property
    def accepts(self) -> bool:
        """Whether it takes new connections."""
        return self.ready_at < FOREVER and self.clock < self.closes_at

    def end(self, at: float, code: int) -> None:
        """Exit at that time, unless it does so earlier."""
        if at < self.ends_at:
            self.ends_at, self.exit_code = at, code

    def live(self, now: float, seconds: float) -> None:
        """Go on until `now`."""
        self.clock = now
        fault = self.release.boot_fault if self.is_faulty else ""
        if self.ready_at == FOREVER and self.drains_from == FOREVER and now >= self.born_at + self.release.boot_seconds:
            if fault == "exit":
                self.end(now, 3)
            elif not fault:
                self.ready_at = now
                self.memory = self.release.memory
        if self.is_serving:
            self.requests += self.release.requests_per_second * seconds
            if self.is_faulty and now >= self.ready_at + self.release.crashes_after:
                self.end(now, -signal.SIGSEGV)

    def receive(self, number: signal.Signals, now: float) -> None:
        """Get a signal."""
        self.closes_at = min(self.closes_at, now + self.release.close_seconds)
        if number == signal.SIGTERM:
            drain = self.release.drain_seconds if self.ready_at < FOREVER else 0.0
            self.drains_from = min(self.drains_from, now)
            self.end(now + drain, 0)
        else:
            self.drains_from = min(self.drains_from, now)
            self.end(now, -number)

    def sample(self, *, reports_state: bool) -> Sample:
        """Its row of the scoreboard."""
        requests = int(self.requests)
        errors = int(requests * self.release.error_share)
        return Sample(requests, errors, self.release.lag, self.memory, reports_state and self.accepts)


class FakeMaster:
    """A master's process: the pool is the real one."""

    def __init__(self, order: actions.StartMaster, release: Release, now: float) -> None:
        service = order.service
        self.number = order.number
        self.release = release
        self.boots_at = now + release.master_seconds
        self.is_booted = False
        self.is_hung = False
        self.alive_at = now
        """When it says the next time that its loop runs."""
        self.inbox: deque[ToMaster] = deque()
        self.workers: dict[int, FakeWorker] = {}
        self.spawned = 0
        limits = pool.Limits(service.boot_timeout, 30.0, service.graceful_timeout, service.restart_intensity)
        self.pool = pool.Pool(order.workers, limits, random=lambda: 0.0)

    def obey(self, now: float) -> None:
        """Take the messages that came."""
        while self.inbox:
            match self.inbox.popleft():
                case SetTarget(workers):
                    self.pool.set_target(workers)
                case Replace(pid):
                    self.pool.replace(pid, now)
                case ReplaceAtOnce(pid):
                    self.pool.replace(pid, now, at_once=True)
                case Stop(fast):
                    self.pool.stop(now, fast=fast)

    def observe(self, now: float) -> None:
        """Look at the workers."""
        for pid, worker in list(self.workers.items()):
            if worker.ends_at <= now:
                del self.workers[pid]
                self.pool.exited(pid, worker.exit_code, now)
            elif worker.drains_from < FOREVER:
                self.pool.draining(pid, now)
            elif worker.ready_at < FOREVER:
                self.pool.ready(pid, now)
                if not worker.is_stuck:
                    self.pool.beat(pid, now)


GOOD = Release()
CRASHES = Release(crashes_after=2.0)
BOOT_FAILS = Release(boot_fault="exit")
BOOT_HANGS = Release(boot_fault="hang")
FAILS_IN_ROLL = Release(boot_fault="exit", good_workers=2)
