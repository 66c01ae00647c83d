"""The workers of one master as a pure state machine: facts go in, actions come out.

The rules:

- A worker counts while it boots or serves and has not been told to be replaced. As many are spawned as the target
  lacks, and as many are retired as it has too many: first the newest that still boots, then the oldest.
- A worker that shall be replaced stays until more workers are ready than the target says. So it stays when its
  replacement cannot boot, and when another worker dies meanwhile.
- Nobody is told twice: a worker gets at most one SIGTERM, one SIGQUIT, one SIGABRT and one SIGKILL, in this order.
- Failures of the boot, and crashes beyond `restart_intensity`, make the next spawn wait. Whatever the failure was,
  the workers that serve go on serving.

Facts are method calls, each with the time on the master's clock (seconds, monotonic). `decide` gives what is to be
done now; each `Spawn` in it must be answered with `spawned` or `spawn_failed` before the next call. `wake_at` says
when to ask at the latest without a new fact.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from enum import Enum, auto

from outrider_supervisor.backoff import Backoff
from outrider_supervisor.exits import describe_worker_exit
from outrider_supervisor.messages import (
    BackingOff,
    FromMaster,
    WorkerExited,
    WorkerReady,
    WorkerRetiring,
    WorkerSpawned,
    WorkerStuck,
)

KILL_AFTER = 2.0
"""Seconds from SIGABRT (the worker writes its dump) or a fast SIGQUIT to SIGKILL."""
DRAIN_MARGIN = 1.0
"""Seconds beyond `graceful_timeout` until SIGKILL: a worker of ours has cut and dumped by itself before."""
LONGEST_ABSENCE = 5.0
"""Seconds between two calls after which the whole service is taken to have been suspended, not its workers stuck."""


class Stage(Enum):
    """Where a living worker is."""

    BOOTING = auto()
    READY = auto()
    RETIRING = auto()
    """Told to end, or ending by itself."""
    ABORTED = auto()
    """Stuck, or too long in its boot: it has got SIGABRT."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a worker; `replaces` is the worker that will be retired for it, or 0."""

    replaces: int


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """Send a signal to a worker."""

    pid: int
    signal: signal.Signals


@dataclasses.dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to the supervisor."""

    message: FromMaster


Action = Spawn | Send | Tell


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Settings of the pool: seconds, and a number of crashes in 60 s. 0 switches a limit off, `graceful` excepted."""

    boot_timeout: float
    timeout: float
    graceful_timeout: float
    restart_intensity: int


@dataclasses.dataclass(slots=True)
class Worker:
    """A living worker."""

    pid: int
    replaces: int
    spawned_at: float
    beat_at: float
    """The last sign of its loop; before it is ready, the start of its boot."""
    stage: Stage = Stage.BOOTING
    ready_at: float | None = None
    is_doomed: bool = False
    """It shall be replaced."""
    kill_at: float | None = None
    was_quit: bool = False
    was_killed: bool = False
    fate: str = ""
    """Why it was aborted or killed by us, for `WorkerExited.how`."""


class Pool:
    """See the module."""

    def __init__(self, target: int, limits: Limits, random: Callable[[], float]) -> None:
        """Start without workers.

        Args:
            target: how many workers there shall be.
            limits: the settings.
            random: a number from 0 to 1, excluded; for the jitter of the backoff.
        """
        self.workers: dict[int, Worker] = {}
        self.target = target
        self.is_stopping = False
        self._limits = limits
        self._backoff = Backoff(limits.restart_intensity, random)
        self._actions: list[Action] = []
        self._asked_at: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it was stopped and every worker is gone."""
        return self.is_stopping and not self.workers

    @property
    def is_booting(self) -> bool:
        """Whether a worker is on its way to READY: the driver then looks at its row often."""
        return any(worker.stage is Stage.BOOTING for worker in self.workers.values())

    # -- what the supervisor wants

    def set_target(self, target: int) -> None:
        """Run exactly so many workers, 0 or more; with another number failures are forgotten. Ignored in a stop."""
        if not self.is_stopping and target != self.target:
            self.target = target
            self._backoff.reset()

    def replace(self, pid: int, now: float, *, at_once: bool = False) -> None:
        """Spawn a worker, and retire `pid` once there is one ready too many, or `at_once`.

        A worker that still boots serves nobody: it is retired at once in any case. A pid that is unknown or ends
        already is ignored.
        """
        worker = self.workers.get(pid)
        if worker is None or worker.stage not in (Stage.BOOTING, Stage.READY):
            return
        if at_once or worker.stage is Stage.BOOTING:
            self._retire(worker, now)
        else:
            worker.is_doomed = True

    def stop(self, now: float, *, fast: bool) -> None:
        """End all workers: drained, or at once. A fast stop after a graceful one overtakes it."""
        self.is_stopping = True
        self.target = 0
        for worker in self.workers.values():
            if fast:
                self._quit(worker, now)
            elif worker.stage in (Stage.BOOTING, Stage.READY):
                self._retire(worker, now)

    # -- what happened to the workers

    def spawned(self, pid: int, replaces: int, now: float) -> None:
        """`Spawn(replaces)` was carried out."""
        worker = self.workers[pid] = Worker(pid, replaces, spawned_at=now, beat_at=now)
        self._tell(WorkerSpawned(pid, replaces))
        if self.is_stopping:
            self._retire(worker, now)

    def spawn_failed(self, now: float) -> None:
        """`Spawn` could not be carried out. Those that were decided on together fail together."""
        self._note_failure(now, now if self._asked_at is None else self._asked_at)

    def ready(self, pid: int, now: float) -> None:
        """The worker serves."""
        worker = self.workers.get(pid)
        if worker is None or worker.ready_at is not None or worker.stage is Stage.ABORTED:
            return
        worker.ready_at = worker.beat_at = now
        if worker.stage is Stage.BOOTING:
            worker.stage = Stage.READY
            self._tell(WorkerReady(pid))

    def draining(self, pid: int, now: float) -> None:
        """The worker began to drain, whoever told it to."""
        worker = self.workers.get(pid)
        if worker is not None and worker.stage in (Stage.BOOTING, Stage.READY):
            self._begin_retirement(worker, now)

    def beat(self, pid: int, at: float) -> None:
        """The worker's loop ran at `at`."""
        worker = self.workers.get(pid)
        if worker is not None and worker.stage is Stage.READY:
            worker.beat_at = max(worker.beat_at, at)

    def exited(self, pid: int, code: int, now: float, *, is_abrupt: bool = False) -> WorkerExited | None:
        """The worker is gone.

        Args:
            pid: of the worker.
            code: its exit code, or the number of a signal as a negative one.
            now: the time.
            is_abrupt: it is known not to have shut down, as after os._exit().

        Returns:
            what the supervisor is told of it, for the log; None for a pid that is no worker.
        """
        if pid not in self.workers:
            return None
        worker = self.workers.pop(pid)
        was_ready = worker.ready_at is not None
        # A reloader, or a limit on requests that the worker keeps itself, ends it with 0.
        ended_itself = worker.stage is Stage.READY and code == 0 and not is_abrupt
        is_expected = self.is_stopping or worker.stage is Stage.RETIRING or ended_itself
        how = _describe_exit(worker, code)
        if code == 0 and not is_expected and was_ready:
            how += " without shutting down"
        message = WorkerExited(pid, how, is_expected, was_ready)
        self._tell(message)
        if not is_expected and worker.stage is Stage.READY:
            self._note_crash(now, worker.spawned_at)
        elif worker.stage is Stage.BOOTING:
            self._note_failure(now, worker.spawned_at)
        return message

    # -- what to do

    def decide(self, now: float) -> list[Action]:
        """Return what is to be done now, in order."""
        self._forgive_absence(now)
        self._settle(now)
        for worker in self.workers.values():
            self._watch(worker, now)
        if not self.is_stopping:
            self._retire_surplus(now)
            self._spawn_missing(now)
        actions, self._actions = self._actions, []
        return actions

    def wake_at(self) -> float | None:
        """Return when `decide` has something to do without a new fact; None for never."""
        moments = [moment for worker in self.workers.values() if (moment := self._moment_of(worker)) is not None]
        if not self.is_stopping and self._missing() > 0:
            moments.append(self._backoff.spawn_at)
        return min(moments, default=None)

    # -- targets

    def _missing(self) -> int:
        return self.target - len(self._kept())

    def _kept(self) -> list[Worker]:
        return [each for each in self._serving_or_booting() if not each.is_doomed]

    def _serving_or_booting(self) -> list[Worker]:
        return [each for each in self.workers.values() if each.stage in (Stage.BOOTING, Stage.READY)]

    def _retire_surplus(self, now: float) -> None:
        for worker in self._replaced()[: max(0, self._count_ready() - self.target)]:
            self._retire(worker, now)
        kept = self._kept()
        booting = [worker for worker in kept if worker.stage is Stage.BOOTING]
        ready = [worker for worker in kept if worker.stage is Stage.READY]
        # A worker that boots serves nobody. Workers are kept in order of age.
        for worker in [*reversed(booting), *ready][: max(0, len(kept) - self.target)]:
            self._retire(worker, now)

    def _replaced(self) -> list[Worker]:
        """The workers that shall be replaced, those whose own replacement is ready first, then by age."""
        replaced = {worker.replaces for worker in self.workers.values() if worker.stage is Stage.READY}
        doomed = [worker for worker in self.workers.values() if worker.is_doomed and worker.stage is Stage.READY]
        return sorted(doomed, key=lambda worker: worker.pid not in replaced)

    def _count_ready(self) -> int:
        return sum(worker.stage is Stage.READY for worker in self.workers.values())

    def _spawn_missing(self, now: float) -> None:
        if now < self._backoff.spawn_at:
            return
        claimed = {worker.replaces for worker in self._serving_or_booting()}
        unclaimed = [worker.pid for worker in self._replaced() if worker.pid not in claimed]
        for index in range(self._missing()):
            self._actions.append(Spawn(unclaimed[index] if index < len(unclaimed) else 0))

    # -- one worker

    def _retire(self, worker: Worker, now: float) -> None:
        self._send(worker, signal.SIGTERM)
        self._begin_retirement(worker, now)

    def _begin_retirement(self, worker: Worker, now: float) -> None:
        worker.stage = Stage.RETIRING
        worker.kill_at = now + self._limits.graceful_timeout + DRAIN_MARGIN
        worker.fate = f"did not end within graceful_timeout ({self._limits.graceful_timeout:g} s)"
        self._tell(WorkerRetiring(worker.pid))

    def _quit(self, worker: Worker, now: float) -> None:
        if worker.was_quit or worker.was_killed or worker.stage is Stage.ABORTED:
            return
        worker.was_quit = True
        self._send(worker, signal.SIGQUIT)
        if worker.stage is not Stage.RETIRING:
            self._begin_retirement(worker, now)
        soon = now + KILL_AFTER
        worker.kill_at = soon if worker.kill_at is None else min(soon, worker.kill_at)
        worker.fate = f"did not end within {KILL_AFTER:g} s of a fast stop"

    def _abort(self, worker: Worker, now: float, fate: str) -> None:
        self._send(worker, signal.SIGABRT)
        worker.stage = Stage.ABORTED
        worker.kill_at = now + KILL_AFTER
        worker.fate = fate

    def _watch(self, worker: Worker, now: float) -> None:
        moment = self._moment_of(worker)
        if moment is None or now < moment:
            return
        if worker.stage is Stage.BOOTING:
            self._abort(worker, now, f"took longer than boot_timeout ({self._limits.boot_timeout:g} s)")
            self._note_failure(now, worker.spawned_at)
        elif worker.stage is Stage.READY:
            silent = now - worker.beat_at
            self._abort(worker, now, f"was stuck: its loop was silent for {silent:.1f} s")
            self._tell(WorkerStuck(worker.pid, silent))
            self._note_crash(now, worker.spawned_at)
        else:
            worker.kill_at = None
            worker.was_killed = True
            self._send(worker, signal.SIGKILL)

    def _moment_of(self, worker: Worker) -> float | None:
        """When something is due for this worker if nothing happens."""
        match worker.stage:
            case Stage.BOOTING:
                return worker.beat_at + self._limits.boot_timeout if self._limits.boot_timeout else None
            case Stage.READY:
                return worker.beat_at + self._limits.timeout if self._limits.timeout else None
            case _:
                return worker.kill_at

    # -- failures

    def _note_failure(self, now: float, spawned_at: float) -> None:
        self._tell_backoff(self._backoff.note_failure(now, spawned_at))

    def _note_crash(self, now: float, spawned_at: float) -> None:
        self._tell_backoff(self._backoff.note_crash(now, spawned_at))

    def _tell_backoff(self, seconds: float | None) -> None:
        if seconds is not None:
            self._tell(BackingOff(self._backoff.failures, round(seconds, 3)))

    def _settle(self, now: float) -> None:
        for worker in self.workers.values():
            if worker.ready_at is not None:
                self._backoff.note_service(now, worker.spawned_at, worker.ready_at)

    def _forgive_absence(self, now: float) -> None:
        """Nobody asked for long: the machine or its container stood still, and no worker could beat either."""
        absence = 0.0 if self._asked_at is None else now - self._asked_at
        self._asked_at = now
        if absence <= LONGEST_ABSENCE:
            return
        for worker in self.workers.values():
            if worker.stage is Stage.BOOTING:
                worker.beat_at += absence
            elif worker.stage is Stage.READY:
                worker.beat_at = max(worker.beat_at, now)

    def _send(self, worker: Worker, number: signal.Signals) -> None:
        self._actions.append(Send(worker.pid, number))

    def _tell(self, message: FromMaster) -> None:
        self._actions.append(Tell(message))


def _describe_exit(worker: Worker, code: int) -> str:
    if worker.stage is Stage.ABORTED or (worker.was_killed and code == -signal.SIGKILL):
        return worker.fate
    return describe_worker_exit(code)
