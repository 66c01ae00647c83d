"""Which generation serves, and how another one takes its place, or does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from outrider_supervisor import actions
from outrider_supervisor.actions import Code, Level, Readiness
from outrider_supervisor.agenda import Agenda
from outrider_supervisor.backoff import FIRST_BACKOFF, LONGEST_BACKOFF
from outrider_supervisor.counting import count
from outrider_supervisor.events import Sample
from outrider_supervisor.fleet import OVERTIME, Fleet, Outbox
from outrider_supervisor.generation import Generation, GenerationState
from outrider_supervisor.handover import PATIENCE, Handover
from outrider_supervisor.health import Health
from outrider_supervisor.replacements import Replacements
from outrider_supervisor.rollout import Rollout
from outrider_supervisor.service import Service

EMPTY_BACKOFF = 5.0
"""Longest pause between two recoveries, in seconds, while nothing serves."""


@dataclass(frozen=True, slots=True)
class FailedReload:
    """The last reload, if it did not bring what was asked for."""

    outcome: str
    """rolled back, refused, or failed: it could not be undone."""
    reason: str
    at: float
    """On the monotonic clock."""


class Succession:
    """`current` serves; a `rollout` may be on its way to put another one into its place.

    A master that dies is made up for by a reload that nobody asked for (a recovery).
    """

    def __init__(
        self, outbox: Outbox, fleet: Fleet, agenda: Agenda, health: Health, replacements: Replacements
    ) -> None:
        self.current: Generation | None = None
        self.rollout: Rollout | None = None
        self.handover: Handover | None = None
        """The end of a reload whose rollout is over."""
        self.target = 0
        """How many workers there shall be."""
        self.scaled_to: int | None = None
        """The same if somebody asked for it, which counts more than the configuration."""
        self.boot_failure = ""
        """Why the first generation failed: there is nothing to serve with. Empty if it did not."""
        self.failed_reload: FailedReload | None = None
        """None again once one succeeds."""
        self._outbox = outbox
        self._fleet = fleet
        self._agenda = agenda
        self._health = health
        self._replacements = replacements
        self._recovery_pause = 0.0
        self._recovery_failed_at = 0.0
        self._failed_boots = 0

    # -- begin

    def start(self, service: Service, now: float) -> None:
        """Start the first generation."""
        self.target = service.workers
        generation = self._fleet.make(service, now)
        generation.target = self.target
        self._fleet.start_master(generation)

    def begin_rollout(self, old: Generation, service: Service, now: float, *, canary: bool) -> None:
        """Start the generation that shall take the place of the old one."""
        generation = self._fleet.make(service, now)
        self.rollout = Rollout(old, generation, canary, self.target, now)
        self.target = self._first_number(service)
        generation.target = self.rollout.first_target(self.target)
        self._outbox.log(Level.INFO, f"generation {generation.number}: starting", self._agenda.asker)
        self._fleet.start_master(generation)

    def _first_number(self, service: Service) -> int:
        """How many workers another generation has: what the autoscaler has found stays, within its new limits."""
        if service.max_workers:
            return min(max(self.target, service.min_workers), service.max_workers)
        return self.scaled_to or service.workers

    def give_up_rollout(self) -> None:
        """The service ends: nothing takes the place of anything any more."""
        self.rollout = None

    def scale(self, current: Generation, workers: int) -> None:
        """Have another number of workers, because somebody asked for it."""
        self._outbox.log(Level.INFO, f"scaling from {self.target} to {workers} workers")
        self.target = self.scaled_to = current.target = workers

    def resize(self, current: Generation, workers: int) -> None:
        """Have another number of workers, because the load asks for it."""
        self.target = current.target = workers

    def is_recovery_due(self, now: float) -> bool:
        """Whether another generation is to be started because nobody looks after the current one.

        It is tried again soon while nothing serves at all: then there is nothing to be spared.
        """
        if self.current is None or self.current.has_master:
            return False
        pause = self._recovery_pause if self._fleet.capacity else min(self._recovery_pause, EMPTY_BACKOFF)
        return now >= self._recovery_failed_at + pause

    def note_refused(self, reason: str, now: float) -> None:
        """The configuration for the next generation cannot be used."""
        self.failed_reload = FailedReload("refused", reason, now)
        self._postpone_recovery(reason, now)

    @property
    def deadline(self) -> float | None:
        """When the first generation, or the next step of a reload, is overdue; None without either."""
        if self.rollout is not None:
            return self.rollout.deadline
        if self.handover is not None:
            return self.handover.deadline
        if self.current is None:
            return min(map(_first_deadline, self._fleet.generations.values()), default=None)
        return None

    # -- what has happened

    def note_booted(self, generation: Generation, now: float) -> None:
        """A master is up. From now on it is the workers' time: each has `boot_timeout`, as the master had."""
        generation.is_booted = True
        generation.booted_at = now
        if self.rollout is not None and generation is self.rollout.new:
            self.rollout.stepped_at = now

    def note_ready(self, generation: Generation, pid: int, now: float) -> None:
        """A worker is ready."""
        rollout = self.rollout
        if rollout is not None and generation is rollout.new and not rollout.is_rolling_back:
            rollout.note_ready(pid, self.target, now)
        elif rollout is not None and rollout.is_rolling_back:
            rollout.stepped_at = now
        elif self.current is None and generation.state is GenerationState.STARTING and generation.ready >= self.target:
            self._commit_first(generation)  # unless the service was told to stop meanwhile

    def observe(self, samples: Mapping[int, Sample], now: float) -> None:
        """Look at the workers, and at the time."""
        rollout = self.rollout
        if rollout is not None:
            was_rolling_back = rollout.is_rolling_back
            rollout.observe(samples, self.target, now)
            if rollout.is_rolling_back and not was_rolling_back:
                self._tell_way_back(rollout)
        for generation in self._fleet.generations.values():
            for pid, worker in generation.workers.items():
                worker.accepts = pid in samples and samples[pid].accepts
        if self.current is None:
            self._fail_overdue_start(now)

    def fail(self, generation: Generation, reason: str, now: float, blamed: int = 0) -> None:
        """A generation that is not current will not become so; the first one may, with those that serve."""
        rollout = self.rollout
        if rollout is not None and generation is rollout.new:
            self._fail_rollout(rollout, reason, now, blamed)
        elif self.current is None:
            self._outbox.log(Level.ERROR, f"generation {generation.number}: {reason}")
            if generation.ready:
                self._commit_first(generation)
            elif not (blamed and self._others_may_boot(generation)):
                self._outbox.log(Level.ERROR, "nothing serves yet: giving up")
                self.boot_failure = reason

    def advance(self, now: float) -> None:
        """Take the steps of the reload that have become possible."""
        if self.rollout is not None:
            self._advance_rollout(self.rollout, now)
        if self.handover is not None and self.handover.is_over(now):
            self.end_handover()

    def _advance_rollout(self, rollout: Rollout, now: float) -> None:
        is_complete = rollout.step(self.target, now)
        for note in rollout.notes:
            self._outbox.log(Level.INFO, f"generation {rollout.new.number}: {note}", self._agenda.asker)
        rollout.notes.clear()
        if is_complete and rollout.is_better_than_nothing and rollout.failure:
            self._commit(rollout, now, rollout.failure)
        elif is_complete and rollout.is_rolling_back:
            self._end_rollback(rollout, now)
        elif is_complete:
            self._commit(rollout, now)

    def _postpone_recovery(self, why: str, now: float) -> None:
        """A generation that should take the place of a lost master's failed: the next one is tried later."""
        if self.current is not None and not self.current.has_master:
            self._recovery_failed_at = now
            self._recovery_pause = min(LONGEST_BACKOFF, max(FIRST_BACKOFF, 2 * self._recovery_pause))
            gone = f"the master of generation {self.current.number} is gone, and another cannot be started"
            self._agenda.fail_those_that_need_a_master(f"{gone}: {why}; mend that, and `outrider reload`")

    # -- how it ends

    def end_handover(self) -> None:
        """Tell who waits for the end of a reload how it went, if one is about to end."""
        handover, self.handover = self.handover, None
        if handover is not None:
            self._agenda.end(handover.code, handover.message, handover.number, handover.blamed)
            self._outbox.act(actions.Notify(Readiness.READY))

    def _commit_first(self, generation: Generation) -> None:
        generation.state = GenerationState.CURRENT
        self.current = generation
        self._outbox.act(actions.Notify(Readiness.READY))
        self._outbox.log(
            Level.INFO, f"generation {generation.number}: {generation.ready} of {count(self.target, 'worker')} ready"
        )

    def _commit(self, rollout: Rollout, now: float, failure: str = "") -> None:
        """The new generation takes over, after a `failure` for want of another one."""
        new, old = rollout.new, rollout.old
        rollout.failure = failure
        self.rollout = None
        self.failed_reload = FailedReload("failed", failure, now) if failure else None
        self._recovery_pause = 0.0
        self._health.forget_crashes()
        self._replacements.give_up()
        new.target = self.target
        text = f"generation {new.number} is current, serving with {new.ready} of {count(self.target, 'worker')}"
        self._outbox.log(Level.INFO, text)
        # Before its workers go: they take what is queued at a listener that is not kept.
        self._outbox.act(actions.KeepListeners(new.service))
        self._fleet.stop(old, now, fast=False)
        new.state = GenerationState.CURRENT
        self.current = new
        code, message = Code.DONE, text
        if failure:
            code, message = Code.FAILED, f"{failure}; it could not be undone, and {text}"
        self.handover = Handover(old, now + PATIENCE, code, message, new.number, rollout.blamed)

    def _end_rollback(self, rollout: Rollout, now: float) -> None:
        new, old = rollout.new, rollout.old
        self.rollout = None
        self.failed_reload = FailedReload("rolled back", rollout.failure, now)
        self.target = old.target = rollout.old_target
        self._outbox.act(actions.KeepListeners(old.service))
        self._fleet.stop(new, now, fast=False)
        serving = f"generation {old.number} serves with {old.ready} of {count(self.target, 'worker')}"
        self._outbox.log(Level.ERROR, f"generation {new.number} was rolled back: {rollout.failure}; {serving}")
        message = f"rolled back: {rollout.failure}; {serving}"
        self.handover = Handover(new, now + PATIENCE, Code.FAILED, message, new.number, rollout.blamed)
        self._postpone_recovery(rollout.failure, now)

    def _fail_rollout(self, rollout: Rollout, reason: str, now: float, blamed: int) -> None:
        if rollout.is_better_than_nothing:
            number = rollout.new.number
            self._outbox.log(Level.ERROR, f"generation {number}: {reason}; there is none to go back to")
            rollout.blamed = blamed
            self._commit(rollout, now, reason)
            return
        was_rolling_back = rollout.is_rolling_back
        rollout.fail(reason, now, blamed)
        if not was_rolling_back:
            self._tell_way_back(rollout)

    def _tell_way_back(self, rollout: Rollout) -> None:
        text = f"generation {rollout.new.number}: {rollout.failure}; going back"
        self._outbox.log(Level.ERROR, text, self._agenda.asker)

    def _fail_overdue_start(self, now: float) -> None:
        for generation in self._fleet.generations.values():
            if now > _first_deadline(generation):
                limit = generation.service.boot_timeout
                self.fail(generation, f"no worker was ready within boot_timeout ({limit:g} s)", now)
                return

    def _others_may_boot(self, generation: Generation) -> bool:
        """Whether this first generation has workers that have not failed: the master starts others for those."""
        self._failed_boots += 1
        return generation.kept > 0 and self._failed_boots < generation.target


def _first_deadline(generation: Generation) -> float:
    """When the first generation is overdue: its master, then its workers."""
    return max(generation.since, generation.booted_at) + generation.service.boot_timeout + OVERTIME
