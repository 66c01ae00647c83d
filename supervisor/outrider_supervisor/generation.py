"""One generation as the supervisor sees it: a master and its workers, all of one code and configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from outrider_supervisor.service import Service


class GenerationState(Enum):
    """DESIGN §4. A generation that is GONE is forgotten."""

    STARTING = "starting"
    CANARY = "canary"
    ROLLING = "rolling"
    CURRENT = "current"
    ROLLING_BACK = "rolling back"
    RETIRING = "retiring"


class WorkerState(Enum):
    """A worker as its master reports it; one that has EXITED is forgotten."""

    BOOTING = "booting"
    READY = "ready"
    RETIRING = "draining"
    STUCK = "stuck"


@dataclass(slots=True)
class Worker:
    """One worker. Times are of the monotonic clock, in seconds."""

    pid: int
    since: float
    state: WorkerState = WorkerState.BOOTING
    retired_at: float = 0.0
    is_gone: bool = False
    """The kernel says so and the master has not yet."""
    accepts: bool = False
    """Whether it took new connections when it was last looked at."""

    @property
    def may_answer(self) -> bool:
        """Whether the next connection may be its."""
        return self.accepts and not self.is_gone


@dataclass(slots=True)
class Generation:
    """`has_master` is false once the master has died under its workers, which the supervisor then looks after."""

    number: int
    service: Service
    state: GenerationState
    target: int
    since: float
    has_master: bool = True
    is_booted: bool = False
    booted_at: float = 0.0
    kill_at: float | None = None
    heard_at: float = math.inf
    """When its master last said something; before it is up, nothing is expected."""
    failures: int = 0
    """How many workers in a row could not boot, or crashed beyond `restart_intensity`."""
    retry_at: float = 0.0
    """When the master starts the next worker after such a failure; 0 when none waits."""
    workers: dict[int, Worker] = field(default_factory=dict)

    @property
    def ready(self) -> int:
        """How many workers serve."""
        return self._count(WorkerState.READY)

    @property
    def kept(self) -> int:
        """How many workers serve or shall."""
        return self._count(WorkerState.READY, WorkerState.BOOTING)

    def _count(self, *states: WorkerState) -> int:
        return sum(worker.state in states and not worker.is_gone for worker in self.workers.values())

    def is_backing_off(self, now: float) -> bool:
        """Whether the next worker waits because those before it have failed."""
        return self.has_master and self.state is not GenerationState.RETIRING and now < self.retry_at

    def retired_since(self, then: float) -> int:
        """How many workers that are still there were retired after that moment."""
        return sum(
            worker.state is WorkerState.RETIRING and worker.retired_at > then for worker in self.workers.values()
        )

    def occupied(self, now: float, patience: float) -> int:
        """How many workers count against the surge: those kept or wanted, and those retired only just now."""
        return max(self.kept, self.target) + self.retired_since(now - patience)
