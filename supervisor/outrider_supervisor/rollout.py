"""One reload, from the new generation's first worker to its commit, or back.

Workers are moved from one generation to the other in steps: so many started in the one, as many retired in the other
when those are ready. Capacity never falls below the target, and no more than `max_surge` workers are there beyond it.
Going back is the same movement the other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider_supervisor import canary
from outrider_supervisor.counting import count
from outrider_supervisor.events import Sample
from outrider_supervisor.generation import Generation, GenerationState, WorkerState

RETIRE_PATIENCE = 1.0
"""Seconds for which a retired worker holds its place: drains are short as a rule, and memory is not used twice.
One that drains for longer, because of a slow client, does not hold the others up."""
GRACE = 5.0
"""Seconds beyond `boot_timeout`, which the master enforces, after which a step that does not happen has failed."""


@dataclass(slots=True)
class Rollout:
    """Decides which generation should have how many workers; the machine tells the masters.

    `old` may have lost its master. It then keeps what it has, and nothing can be moved back to it.
    """

    old: Generation
    new: Generation
    wants_canary: bool
    old_target: int
    """How many workers the old generation had, and gets back if the new one fails."""
    stepped_at: float
    """When the last step was: a worker became ready, or was retired."""
    notes: list[str] = field(default_factory=list)
    """What to tell the caller, since it was last emptied."""
    failure: str = ""
    old_is_broken: bool = False
    """A worker of the old generation could not be started again: the code it would run is gone."""
    blamed: int = 0
    """The worker whose fault the failure is, or 0."""
    _canary: canary.Canary | None = None

    def first_target(self, target: int) -> int:
        """How many workers the new generation begins with."""
        missing = target - self.old.kept
        return 1 if self._has_canary else min(target, max(missing, self.new.service.max_surge))

    @property
    def _has_canary(self) -> bool:
        return self.wants_canary and self.new.service.canary_seconds > 0

    @property
    def is_rolling_back(self) -> bool:
        """Whether the new generation has failed."""
        return self.new.state is GenerationState.ROLLING_BACK

    @property
    def is_better_than_nothing(self) -> bool:
        """Whether going back would lose workers that serve, for the old generation gets no new ones."""
        return not self._old_can_grow and self.new.ready > self.old.ready

    @property
    def _old_can_grow(self) -> bool:
        return self.old.has_master and not self.old_is_broken

    def note_ready(self, pid: int, target: int, now: float) -> None:
        """A worker of the new generation is ready."""
        self.stepped_at = now
        new = self.new
        if new.state is GenerationState.STARTING:
            if self._has_canary:
                new.state = GenerationState.CANARY
                service = new.service
                requests = count(service.canary_requests, "request")
                self._canary = canary.Canary(service.canary_seconds, service.canary_requests, now)
                self.notes.append(
                    f"worker {pid} is ready; it is the canary for {service.canary_seconds:g} s and {requests}, "
                    f"at most {canary.QUIET_FACTOR * service.canary_seconds:g} s"
                )
                return
            new.state = GenerationState.ROLLING
        self.notes.append(f"{new.ready} of {count(target, 'worker')} ready")

    def observe(self, samples: Mapping[int, Sample], target: int, now: float) -> None:
        """Judge the canary, and whether the reload still moves."""
        new = self.new
        if new.state is GenerationState.CANARY and self._canary is not None:
            verdict = self._canary.look(_of(new, samples), _of(self.old, samples), now)
            if isinstance(verdict, canary.Failed):
                self.fail(f"canary: {verdict.reason}", now, blamed=next(iter(new.workers), 0))
            elif verdict is not None:
                new.state = GenerationState.ROLLING
                self.stepped_at = now
                self.notes.append(f"{verdict.summary}; rolling {count(target, 'worker')}")
        elif self.is_overdue(now) and not self.is_rolling_back:
            self.fail(f"{self._describe_delay()} within boot_timeout ({new.service.boot_timeout:g} s)", now)

    def _describe_delay(self) -> str:
        old = self.old
        if old.has_master and old.kept > old.target:
            return f"the master of generation {old.number} did not retire its workers"
        return "no worker was ready" if self.new.is_booted else "no master was up"

    def is_overdue(self, now: float) -> bool:
        """Whether a step that should have happened did not."""
        return now > self.deadline

    @property
    def deadline(self) -> float:
        """When the next step, or the verdict on the canary, is overdue."""
        service = self.new.service
        in_canary = self.new.state is GenerationState.CANARY
        patience = canary.QUIET_FACTOR * service.canary_seconds if in_canary else service.boot_timeout
        return self.stepped_at + patience + GRACE

    def fail(self, reason: str, now: float, blamed: int = 0) -> None:
        """The new generation may not go on; its workers go as the old ones come back."""
        if not self.is_rolling_back:
            in_canary = self.new.state in (GenerationState.STARTING, GenerationState.CANARY)
            self.new.state = GenerationState.ROLLING_BACK
            self.failure = reason
            self.blamed = blamed
            self.stepped_at = now
            self.new.target = 0 if in_canary else self.new.ready

    def step(self, target: int, now: float) -> bool:
        """Set the generations' targets to what is right now. True: the movement is complete."""
        new, old = self.new, self.old
        if new.state is GenerationState.ROLLING:
            can_have = old.target if old.has_master else old.kept
            # The last of the old ones go with the commit.
            old.target = max(1, min(can_have, target - new.ready))
            return self._move(old, new, target, now)
        if self.is_rolling_back:
            if not self._old_can_grow or self.is_overdue(now):
                return True
            new.target = max(0, min(new.target, self.old_target - old.ready))
            return self._move(new, old, self.old_target, now)
        return False

    def _move(self, source: Generation, destination: Generation, target: int, now: float) -> bool:
        room = target + self.new.service.max_surge - source.occupied(now, RETIRE_PATIENCE)
        destination.target = max(destination.target, min(target, room))
        return destination.ready >= target


def _of(generation: Generation, samples: Mapping[int, Sample]) -> dict[int, Sample]:
    ready = (pid for pid, worker in generation.workers.items() if worker.state is WorkerState.READY)
    return {pid: samples[pid] for pid in ready if pid in samples}
