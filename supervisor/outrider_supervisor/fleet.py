"""The generations there are, and the actions that concern one of them."""

from __future__ import annotations

from outrider_supervisor import actions
from outrider_supervisor.actions import Action, Code, Finish, Level, Progress, Tell
from outrider_supervisor.generation import Generation, GenerationState, WorkerState
from outrider_supervisor.messages import ALIVE_PERIOD, ReplaceAtOnce, SetTarget, Stop
from outrider_supervisor.service import Service

OVERTIME = 5.0
"""Seconds beyond `graceful_timeout` and `boot_timeout`, which the master enforces, after which we act ourselves."""
FAST_STOP = 4.0
"""Seconds for a fast stop, likewise."""
BOOT_STOP = 1.0
"""Seconds for a master that is not up yet: it has no workers, and reads no messages while it imports."""
MASTER_SILENCE = 60.0
"""Seconds without a word after which a master is taken to hang."""
SILENCE_WHERE_MISSED = 2 * ALIVE_PERIOD + 2.0
"""The same for a master that a reload waits for, or that should have noticed the end of a worker."""


class Outbox:
    """Actions in the order in which they are to be done."""

    def __init__(self) -> None:
        self._actions: list[Action] = []

    def act(self, action: Action) -> None:
        """Have this done."""
        self._actions.append(action)

    def log(self, level: Level, text: str, operation: int = 0) -> None:
        """Log a decision, and tell it to who waits for the operation."""
        self.act(actions.Log(level, text))
        if operation:
            self.act(Progress(operation, text))

    def finish(
        self, operation: int, code: Code, message: str, generation: int = 0, blamed: int = 0, details: str = ""
    ) -> None:
        """Tell who waits for the operation that it is over."""
        if operation:
            self.act(Finish(operation, code, message, generation, blamed, details))

    def take(self) -> list[Action]:
        """What is to be done; from now on nothing."""
        taken, self._actions = self._actions, []
        return taken


class Fleet:
    """All generations by number, oldest first."""

    def __init__(self, outbox: Outbox) -> None:
        self.generations: dict[int, Generation] = {}
        self.last_number = 0
        self._outbox = outbox
        self._told: dict[int, int] = {}
        self._looked_at = 0.0

    @property
    def capacity(self) -> int:
        """How many workers serve."""
        return sum(generation.ready for generation in self.generations.values())

    def make(self, service: Service, now: float) -> Generation:
        """A new generation, of which nothing has been started yet."""
        self.last_number += 1
        generation = Generation(self.last_number, service, GenerationState.STARTING, 0, now)
        self.generations[generation.number] = generation
        return generation

    def adopt(self, generation: Generation) -> None:
        """A generation that another supervisor has started."""
        self.generations[generation.number] = generation
        self._told[generation.number] = generation.target

    def start_master(self, generation: Generation) -> None:
        """Start it with the workers it is to have at first."""
        self._told[generation.number] = generation.target
        self._outbox.act(actions.StartMaster(generation.number, generation.service, generation.target))

    def tell_targets(self, now: float) -> None:
        """Tell each master the target that has changed; where there is none, retire who is too many."""
        for number, generation in list(self.generations.items()):
            if generation.state is GenerationState.RETIRING:
                continue
            if not generation.has_master:
                if generation.target < generation.kept:
                    self.retire_orphans(generation, generation.target, now)
            elif self._told.get(number) != generation.target:
                self._told[number] = generation.target
                generation.retry_at = 0.0  # with another number the master does not wait
                self._outbox.act(Tell(number, SetTarget(generation.target)))

    def stop(self, generation: Generation, now: float, *, fast: bool) -> None:
        """End a generation; repeated, only to do it faster."""
        is_first = generation.state is not GenerationState.RETIRING
        generation.state = GenerationState.RETIRING
        generation.target = 0
        if not generation.is_booted:
            patience = BOOT_STOP
        else:
            patience = FAST_STOP if fast else generation.service.graceful_timeout + OVERTIME
        kill_at = now + patience
        generation.kill_at = min(kill_at, generation.kill_at or kill_at)
        if not generation.has_master:
            self.retire_orphans(generation, 0, now)
        elif is_first or fast:
            self._outbox.act(Tell(generation.number, Stop(fast)))

    def kill_unbooted(self) -> None:
        """Kill the masters that are not up yet: they hold the listeners, and have no workers that would accept."""
        for generation in self.generations.values():
            if generation.has_master and not generation.is_booted:
                self._outbox.act(actions.Kill(generation.number, ()))

    def retire_orphans(self, generation: Generation, keep: int, now: float) -> None:
        """Retire workers that have no master: those that do not serve before the others, then the oldest."""
        kept = [worker for worker in generation.workers.values() if worker.state is not WorkerState.RETIRING]
        kept.sort(key=lambda worker: worker.state is WorkerState.READY)
        for worker in kept[: max(0, len(kept) - keep)]:
            self.retire(generation, worker.pid, now)
        self._drop_if_over(generation)

    def retire(self, generation: Generation, pid: int, now: float) -> None:
        """Tell one worker to go: its master, where it has one, makes up for it."""
        worker = generation.workers[pid]
        worker.state = WorkerState.RETIRING
        worker.retired_at = now
        if generation.has_master:
            self._outbox.act(Tell(generation.number, ReplaceAtOnce(pid)))
        else:
            self._outbox.act(actions.Retire(pid))

    def kill_overdue(self, now: float) -> None:
        """Kill what is left of generations that should have ended."""
        for generation in self.generations.values():
            if generation.kill_at is not None and now >= generation.kill_at:
                generation.kill_at = now + OVERTIME
                self._outbox.log(Level.WARNING, f"generation {generation.number}: killing what did not end in time")
                self._outbox.act(actions.Kill(generation.number, tuple(generation.workers)))

    def kill_silent_masters(self, now: float, awaited: Generation | None = None) -> None:
        """Kill masters that hang, or are stopped: their workers serve on, and another generation takes over.

        A reload waits for the one of `awaited`.
        """
        if now - self._looked_at > ALIVE_PERIOD:  # it was this process that stood still
            for generation in self.generations.values():
                generation.heard_at = max(generation.heard_at, now)
        self._looked_at = now
        for generation in self.generations.values():
            silent = now - generation.heard_at
            is_missed = generation is awaited or any(worker.is_gone for worker in generation.workers.values())
            patience = SILENCE_WHERE_MISSED if is_missed else MASTER_SILENCE
            if generation.has_master and silent > patience:
                generation.heard_at = now
                self._outbox.log(
                    Level.ERROR,
                    f"the master of generation {generation.number} has been silent for {silent:.0f} s: killing it",
                )
                self._outbox.act(actions.Kill(generation.number, ()))

    def lose_master(self, generation: Generation) -> None:
        """Its master is gone; of its workers those remain of which the kernel has not said so, too."""
        generation.has_master = False
        for pid in [pid for pid, worker in generation.workers.items() if worker.is_gone]:
            self.forget(generation, pid)
        self._drop_if_over(generation)

    def forget(self, generation: Generation, pid: int) -> None:
        """A worker is gone."""
        generation.workers.pop(pid, None)
        self._drop_if_over(generation)

    def _drop_if_over(self, generation: Generation) -> None:
        is_empty = not generation.has_master and not generation.workers
        if is_empty and generation.state is GenerationState.RETIRING:
            self.generations.pop(generation.number, None)
            self._told.pop(generation.number, None)
