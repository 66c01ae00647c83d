"""The supervisor's decisions: events in, actions out; no I/O, and no clock but the `now` of each event.

What is wanted is in the `agenda`, who serves and who shall in the `succession`; `hearing` takes in what processes say.
"""

from __future__ import annotations

import math
from functools import singledispatchmethod

from outrider_supervisor import actions, events
from outrider_supervisor.actions import READ_TIMEOUT, Action, Code, Level, Readiness
from outrider_supervisor.agenda import Agenda
from outrider_supervisor.autoscaling import Autoscaling, refuse_scale
from outrider_supervisor.counting import count
from outrider_supervisor.events import Event
from outrider_supervisor.exits import Exit
from outrider_supervisor.fleet import OVERTIME, Fleet, Outbox
from outrider_supervisor.generation import Generation
from outrider_supervisor.handover import have_closed
from outrider_supervisor.health import Health
from outrider_supervisor.hearing import Hearing
from outrider_supervisor.intents import Intent, Recycle, Reload, Scale, Upgrade
from outrider_supervisor.replacements import Replacements
from outrider_supervisor.rollout import Rollout
from outrider_supervisor.succession import Succession


class Machine:
    """The state of the service: `handle` changes it, and for an upgrade `give_up_waiting`."""

    def __init__(self) -> None:
        self._outbox = Outbox()
        self.fleet = Fleet(self._outbox)
        self.agenda = Agenda(self._outbox)
        self.replacements = Replacements(self._outbox, self.fleet)
        self._health = Health(self._outbox)
        self.succession = Succession(self._outbox, self.fleet, self.agenda, self._health, self.replacements)
        self._hearing = Hearing(self._outbox, self.fleet, self.agenda, self.succession, self._health, self.replacements)
        self.autoscaling = Autoscaling(self._outbox, self.agenda, self.succession)
        self._now = 0.0
        self._reload_since = 0.0
        self._drain_at = math.inf
        self._stop_by = math.inf
        self._exit_status: int = Exit.DONE
        self._is_over = False

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in one event at monotonic time `now`; what is to be done, in this order."""
        self._now = now
        self._take(event)
        self._advance()
        return self._outbox.take()

    def give_up_waiting(self) -> list[int]:
        """Another supervisor takes over: drop the operations that clients wait for, and return their numbers."""
        return self.agenda.give_up_waiting()

    # -- what can be seen

    @property
    def state(self) -> str:
        """The service in one word."""
        if self.is_stopping:
            return "stopping"
        if self.current is None:
            return "starting"
        if self.rollout is not None:
            return "reloading"
        return "degraded" if self._health.is_degraded else "serving"

    @property
    def current(self) -> Generation | None:
        """The generation that serves; None before the first one does."""
        return self.succession.current

    @property
    def rollout(self) -> Rollout | None:
        """The reload that is under way, once its configuration has been read."""
        return self.succession.rollout

    @property
    def is_reading(self) -> bool:
        """Whether a reload waits for its configuration."""
        succession = self.succession
        return isinstance(self.operation, Reload) and succession.rollout is None and succession.handover is None

    @property
    def target(self) -> int:
        """How many workers there shall be."""
        return self.succession.target

    @property
    def operation(self) -> Intent | None:
        """What is under way."""
        return self.agenda.operation

    @property
    def waiting(self) -> tuple[Intent, ...]:
        """What comes next."""
        return self.agenda.waiting

    @property
    def is_stopping(self) -> bool:
        """Whether the service ends."""
        return self.agenda.is_stopping

    @property
    def is_degraded(self) -> bool:
        """Whether too few workers serve, or something else is wrong, and nobody changes it on purpose."""
        return self._health.is_degraded

    @property
    def faults(self) -> tuple[str, ...]:
        """What else is wrong, in words."""
        return self._health.faults

    @property
    def deadline(self) -> float | None:
        """When the start, reload or stop that is under way has got stuck; None while there is none.

        It moves with each step that is taken. A reload that waits for something else has the deadline of that.
        """
        if self.is_stopping:
            return min(self._stop_by, self._drain_at + OVERTIME)
        operation = self.operation
        if self.is_reading:
            return self._reload_since + READ_TIMEOUT + OVERTIME
        if isinstance(operation, Scale | Recycle) and any(isinstance(each, Reload) for each in self.waiting):
            return operation.deadline
        return self.succession.deadline

    @property
    def serves_on_until(self) -> float | None:
        """When a service that was told to stop begins to; None without a delay, and after it."""
        return self._drain_at if math.isfinite(self._drain_at) else None

    # -- what users and the service manager want

    @singledispatchmethod
    def _take(self, event: object) -> None:
        raise TypeError(f"not an event: {event!r}")

    @_take.register
    def _start(self, event: events.Started) -> None:
        if not self.is_stopping:
            self.succession.start(event.service, self._now)

    @_take.register
    def _ask_for_reload(self, event: events.ReloadAsked) -> None:
        self._enqueue(Reload(event.operation, event.canary))

    @_take.register
    def _ask_for_scale(self, event: events.ScaleAsked) -> None:
        wanted = event.workers
        if event.relative and not self.target:
            self._outbox.finish(event.operation, Code.REFUSED, "the service has not been started yet")
            return
        if event.relative:
            waiting = [each.workers for each in self.waiting if isinstance(each, Scale)]
            wanted = max(1, wanted + (waiting[0] if waiting else self.target))
        refusal = self._refuse_scale(wanted)
        if refusal:
            self._outbox.log(Level.WARNING, f"not scaled: {refusal}")
            self._outbox.finish(event.operation, Code.REFUSED, refusal)
        else:
            self._enqueue(Scale(event.operation, wanted))

    def _refuse_scale(self, workers: int) -> str:
        """Why there may not be so many workers, by what the service that runs now allows; empty if there may."""
        newest = self.current or next(reversed(self.fleet.generations.values()), None)
        return refuse_scale(newest.service, workers) if newest is not None else ""

    @_take.register
    def _ask_for_recycling(self, event: events.RecycleAsked) -> None:
        self._enqueue(Recycle(event.operation, event.pid))

    @_take.register
    def _ask_for_upgrade(self, event: events.UpgradeAsked) -> None:
        self._enqueue(Upgrade(event.operation))

    @_take.register
    def _ask_for_stop(self, event: events.StopAsked) -> None:
        if event.operation:
            self.agenda.await_stop(event.operation)
        if not self.is_stopping or event.fast:
            self._stop(event.operation, fast=event.fast)

    def _enqueue(self, operation: Intent) -> None:
        self.agenda.add(operation, has_started=self.current is not None)

    def _stop(self, operation: int, *, fast: bool) -> None:
        delay = 0.0
        if self.is_stopping:
            self._outbox.log(Level.INFO, "stopping at once: requests in flight are cut", operation)
        else:
            delay = self.current.service.stop_delay if self.current is not None and not fast else 0.0
            first = f"no longer ready, serving on for {delay:g} s; then " if delay else ""
            how = "stopping at once" if fast else f"stopping: {first}workers finish what they hold"
            self._outbox.log(Level.INFO, how, operation)
            self.succession.end_handover()  # that reload has succeeded, or not, already
            self.agenda.stop()
            self.succession.give_up_rollout()
            self._outbox.act(actions.Notify(Readiness.STOPPING))
            if self.current is not None:  # else it is the only one, and may be about to say why it fails
                self.fleet.kill_unbooted()
        if delay and self.current is not None:
            self._drain_at = self._now + delay
            self._outbox.act(actions.KeepListeners(self.current.service))  # what a reload has opened, nobody may serve
        else:
            self._end_generations(fast=fast)

    def _end_generations(self, *, fast: bool) -> None:
        self._drain_at = math.inf
        self._outbox.act(actions.KeepListeners(None))
        for generation in list(self.fleet.generations.values()):
            self.fleet.stop(generation, self._now, fast=fast)
        kills = [each.kill_at for each in self.fleet.generations.values() if each.kill_at is not None]
        self._stop_by = min(self._stop_by, max(kills, default=self._now) + OVERTIME)

    # -- what the loop has done

    @_take.register
    def _use_configuration(self, event: events.ConfigurationRead) -> None:
        operation = self.operation
        if not isinstance(operation, Reload) or not self.is_reading or self.current is None:
            return  # a stop came in between
        wants_canary = operation.canary and event.service.canary
        self.succession.begin_rollout(self.current, event.service, self._now, canary=wants_canary)

    @_take.register
    def _refuse_configuration(self, event: events.ConfigurationRefused) -> None:
        if self.is_reading:
            self._outbox.log(Level.ERROR, f"reload refused: {event.reason}")
            self.agenda.end(Code.REFUSED, f"nothing was changed: {event.reason}", details=event.details)
            self._outbox.act(actions.Notify(Readiness.READY))
            self.succession.note_refused(event.reason, self._now)

    @_take.register
    def _fail_upgrade(self, event: events.UpgradeFailed) -> None:
        if isinstance(self.operation, Upgrade):
            self._outbox.log(Level.ERROR, f"upgrade failed, this supervisor goes on: {event.reason}")
            message = f"the new supervisor does not start, the old one goes on: {event.reason}"
            self.agenda.end(Code.FAILED, message, details=event.details)

    @_take.register
    def _observe(self, event: events.Observed) -> None:
        if self._now >= self._drain_at:
            self._end_generations(fast=False)
        if not self.is_stopping:
            self.succession.observe(event.samples, self._now)
        self.fleet.kill_overdue(self._now)
        self.fleet.kill_silent_masters(self._now, self.rollout.old if self.rollout is not None else None)
        self._fail_overdue_operation()
        if self.operation is None and self.current is not None and not self.is_stopping:
            self.replacements.replace_due(self.current, event.samples, self.target, self._now)
        if not self.is_stopping:
            self.autoscaling.observe(event, self._now)

    def _fail_overdue_operation(self) -> None:
        operation = self.operation
        if isinstance(operation, Scale | Recycle) and self._now > operation.deadline:
            serving = f"serving with {self.fleet.capacity} of {count(self.target, 'worker')}"
            missing = f"{count(len(self.replacements.pids), 'worker')} not replaced yet"
            what = serving if isinstance(operation, Scale) else missing
            self.agenda.end(Code.FAILED, f"{what}; it is tried further")

    # -- what is heard of processes

    @_take.register
    def _lose_master(self, event: events.MasterExited) -> None:
        self._hearing.lose_master(event.number, event.how, self._now)

    @_take.register
    def _lose_worker(self, event: events.WorkerGone) -> None:
        self._hearing.lose_worker(event.pid)

    @_take.register
    def _hear(self, event: events.FromGeneration) -> None:
        self._hearing.hear(event.number, event.message, self._now)

    # -- after each event: what has become possible

    def _advance(self) -> None:
        if self.succession.boot_failure and not self.is_stopping:
            self._exit_status = Exit.BOOT_FAILED
            self._stop(0, fast=True)
        if self.is_stopping:
            if not self.fleet.generations:
                self._end()
            return
        self.succession.advance(self._now)
        if self.current is not None:
            self._advance_operation(self.current)
            self._begin_next(self.current)
            if self.rollout is None and not isinstance(self.operation, Scale):
                expected = self.autoscaling.expected(self.current, self.target, self._now)
                self._health.judge(self.current, expected, self._now)
        self.fleet.tell_targets(self._now)

    def _end(self) -> None:
        self.agenda.finish_stops()
        if not self._is_over:
            self._is_over = True
            self._outbox.act(actions.Exit(self._exit_status))

    def _advance_operation(self, current: Generation) -> None:
        operation = self.operation
        if isinstance(operation, Scale):
            is_done = current.ready == current.kept == self.target
            text = f"serving with {count(self.target, 'worker')}"
        elif isinstance(operation, Recycle):
            is_done = self.replacements.advance(operation, current, self._now)
            text = f"{operation.count} of {current.ready} workers replaced"
        else:
            return
        if is_done and have_closed(current, self._now):
            self.agenda.end(Code.DONE, text)

    def _begin_next(self, current: Generation) -> None:
        if self.operation is None and self.succession.is_recovery_due(self._now):
            self._begin(self.agenda.begin_recovery(), current)
        while (operation := self.agenda.take_next(has_master=current.has_master)) is not None:
            self._begin(operation, current)

    def _begin(self, operation: Intent, current: Generation) -> None:
        match operation:
            case Reload():
                self._reload_since = self._now
                self._outbox.act(actions.Notify(Readiness.RELOADING))
                self._outbox.act(actions.ReadConfiguration())
            case Scale():
                self._begin_scaling(operation, current)
            case Recycle():
                if not self.replacements.begin(operation, current, self._now):
                    unknown = f"{operation.pid} is no worker that serves; `outrider status` lists them"
                    self.agenda.end(Code.REFUSED, unknown)
            case Upgrade():
                self._outbox.log(Level.INFO, "replacing the supervisor in place", operation.id)
                self._outbox.act(actions.Upgrade())

    def _begin_scaling(self, operation: Scale, current: Generation) -> None:
        refusal = refuse_scale(current.service, operation.workers)  # a reload may have changed what is allowed
        if refusal:
            self.agenda.end(Code.REFUSED, refusal)
            return
        self.succession.scale(current, operation.workers)
        self.autoscaling.begin_anew()
        operation.deadline = self._now + current.service.boot_timeout + OVERTIME
