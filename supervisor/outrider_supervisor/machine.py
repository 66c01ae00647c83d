"""The supervisor's decisions: events in, actions out; no I/O, and no clock but the `now` of each event.

There is one operation at a time; others wait, of a kind only the newest (but every recycling). TERM pre-empts them all.
A master that dies is made up for by a reload that nobody asked for (a recovery).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatchmethod

from outrider_supervisor import actions, events
from outrider_supervisor.actions import Action, Code, Level, Readiness
from outrider_supervisor.counting import count
from outrider_supervisor.events import Event
from outrider_supervisor.fleet import KILL_AFTER, Fleet, Outbox
from outrider_supervisor.generation import Generation, GenerationState, Worker, WorkerState
from outrider_supervisor.health import Health
from outrider_supervisor.intents import Intent, Recycle, Reload, Scale, Upgrade
from outrider_supervisor.messages import (
    Alive,
    BackingOff,
    MasterBooted,
    MasterFailed,
    WorkerExited,
    WorkerReady,
    WorkerRetiring,
    WorkerSpawned,
    WorkerStuck,
)
from outrider_supervisor.replacements import Replacements
from outrider_supervisor.rollout import Rollout

FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 60.0
EMPTY_BACKOFF = 5.0
BOOT_FAILED = 3
"""Exit status where the first generation does not come up: gunicorn's WORKER_BOOT_ERROR."""


class Machine:
    """The state of the service; `handle` is the only way to change it."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.fleet = Fleet(self.outbox)
        self.current: Generation | None = None
        self.rollout: Rollout | None = None
        self.operation: Intent | None = None
        self.target = 0
        self.scaled_to: int | None = None
        self.is_stopping = False
        self.health = Health(self.outbox)
        self.replacements = Replacements(self.outbox, self.fleet)
        self._now = 0.0
        self.waiting: list[Intent] = []
        self._stops: list[int] = []
        self._recovery_pause = FIRST_BACKOFF
        self._recover_at = 0.0
        self._exit_status = 0
        self._failed_boots = 0
        self._is_over = False

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in one event at monotonic time `now`; what is to be done, in this order."""
        self._now = now
        self._take(event)
        self._advance()
        return self.outbox.take()

    @property
    def state(self) -> str:
        """The service in one word."""
        if self.is_stopping:
            return "stopping"
        if self.current is None:
            return "starting"
        if self.rollout is not None:
            return "reloading"
        return "degraded" if self.health.is_degraded else "serving"

    # -- what users and the service manager want

    @singledispatchmethod
    def _take(self, event: object) -> None:
        raise TypeError(f"not an event: {event!r}")

    @_take.register
    def _(self, event: events.Started) -> None:
        if self.is_stopping:
            return
        self.target = event.service.workers
        generation = self.fleet.make(event.service, self._now)
        generation.target = self.target
        self.fleet.start_master(generation)

    @_take.register
    def _(self, event: events.ReloadAsked) -> None:
        self._enqueue(Reload(event.operation, event.canary))

    @_take.register
    def _(self, event: events.ScaleAsked) -> None:
        wanted = event.workers
        if event.relative and not self.target:
            self.outbox.finish(event.operation, Code.REFUSED, "the service has not been started yet")
            return
        if event.relative:
            waiting = [each.workers for each in self.waiting if isinstance(each, Scale)]
            wanted = max(1, wanted + (waiting[0] if waiting else self.target))
        if wanted < 1:
            refusal = "at least one worker is needed; `outrider stop` ends the service"
            self.outbox.finish(event.operation, Code.REFUSED, refusal)
        else:
            self._enqueue(Scale(event.operation, wanted))

    @_take.register
    def _(self, event: events.RecycleAsked) -> None:
        self._enqueue(Recycle(event.operation, event.pid))

    @_take.register
    def _(self, event: events.UpgradeAsked) -> None:
        self._enqueue(Upgrade(event.operation))

    @_take.register
    def _(self, event: events.StopAsked) -> None:
        if event.operation:
            self._stops.append(event.operation)
        if self.is_stopping and not event.fast:
            return
        if self.is_stopping:
            self.outbox.log(Level.INFO, "stopping at once: requests in flight are cut", event.operation)
        else:
            how = "stopping at once" if event.fast else "stopping: workers finish what they hold"
            self.outbox.log(Level.INFO, how, event.operation)
            self.is_stopping = True
            self._give_up_operations()
            self.outbox.act(actions.Notify(Readiness.STOPPING))
            self.outbox.act(actions.KeepListeners(None))
            if self.current is not None:  # else it is the only one, and may be about to say why it fails
                self.fleet.kill_unbooted()
        for generation in list(self.fleet.generations.values()):
            self.fleet.stop(generation, self._now, fast=event.fast)

    # -- what the loop has done

    @_take.register
    def _(self, event: events.ConfigurationRead) -> None:
        operation = self.operation
        if not isinstance(operation, Reload) or self.rollout is not None or self.current is None:
            return  # a stop came in between
        service = event.service
        generation = self.fleet.make(service, self._now)
        wants_canary = operation.canary and service.canary
        self.rollout = Rollout(self.current, generation, wants_canary, self.target, self._now)
        self.target = self.scaled_to or service.workers
        generation.target = self.rollout.first_target(self.target)
        self.outbox.log(Level.INFO, f"generation {generation.number}: starting", operation.id)
        self.fleet.start_master(generation)

    @_take.register
    def _(self, event: events.ConfigurationRefused) -> None:
        if isinstance(self.operation, Reload) and self.rollout is None:
            self.outbox.log(Level.ERROR, f"reload refused: {event.reason}")
            self._end_operation(Code.REFUSED, f"nothing was changed: {event.reason}")
            self.outbox.act(actions.Notify(Readiness.READY))
            self._postpone_recovery()

    @_take.register
    def _(self, event: events.UpgradeFailed) -> None:
        if isinstance(self.operation, Upgrade):
            self.outbox.log(Level.ERROR, f"upgrade failed, this supervisor goes on: {event.reason}")
            message = f"the new supervisor does not start, the old one goes on: {event.reason}"
            self._end_operation(Code.FAILED, message, details=event.details)

    @_take.register
    def _(self, event: events.Observed) -> None:
        if self.rollout is not None:
            self._observe_rollout(self.rollout, event.samples)
        self._fail_overdue_start()
        self.fleet.kill_overdue(self._now)
        self.fleet.kill_silent_masters(self._now, self.rollout.old if self.rollout is not None else None)
        if isinstance(self.operation, Scale | Recycle) and self._now > self.operation.deadline:
            serving = f"serving with {self.fleet.capacity} of {count(self.target, 'worker')}"
            missing = f"{count(len(self.replacements.pids), 'worker')} not replaced yet"
            what = serving if isinstance(self.operation, Scale) else missing
            self._end_operation(Code.FAILED, f"{what}; it is tried further")
        if self.operation is None and self.current is not None and not self.is_stopping:
            self.replacements.replace_due(self.current, event.samples, self.target, self._now)

    def _observe_rollout(self, rollout: Rollout, samples: Mapping[int, events.Sample]) -> None:
        was_rolling_back = rollout.is_rolling_back
        rollout.observe(samples, self.target, self._now)
        if rollout.is_rolling_back and not was_rolling_back:
            self._tell_way_back(rollout)

    def _tell_way_back(self, rollout: Rollout) -> None:
        waits = self.operation.id if self.operation is not None else 0
        self.outbox.log(Level.ERROR, f"generation {rollout.new.number}: {rollout.failure}; going back", waits)

    # -- what has happened to processes

    @_take.register
    def _(self, event: events.MasterExited) -> None:
        generation = self.fleet.generations.get(event.number)
        if generation is None:
            return
        self.fleet.lose_master(generation)
        how = f"the master of generation {generation.number} {event.how}"
        if generation.state is GenerationState.RETIRING:
            self.fleet.retire_orphans(generation, 0, self._now)
        elif generation is self.current:
            self.outbox.log(
                Level.ERROR, f"{how}; serving on with its {count(generation.ready, 'worker')} until there is another"
            )
            self.replacements.pids.clear()
            if isinstance(self.operation, Scale | Recycle):
                self._end_operation(Code.FAILED, how)
        else:
            self._fail_generation(generation, f"the master {event.how}")

    @_take.register
    def _(self, event: events.WorkerGone) -> None:
        for generation in list(self.fleet.generations.values()):
            worker = generation.workers.get(event.pid)
            if worker is not None:
                worker.is_gone = True
                if not generation.has_master:
                    self.replacements.forget(event.pid)
                    self.fleet.forget(generation, event.pid)

    @_take.register
    def _(self, event: events.FromGeneration) -> None:
        generation = self.fleet.generations.get(event.number)
        if generation is not None:
            generation.heard_at = self._now
            self._hear(event.message, generation)

    @singledispatchmethod
    def _hear(self, message: object, generation: Generation) -> None:
        raise TypeError(f"not a master's message: {message!r}")

    @_hear.register
    def _(self, _message: MasterBooted, generation: Generation) -> None:
        generation.is_booted = True
        # From now on it is the workers' time: each has `boot_timeout`, as the master had.
        generation.booted_at = self._now
        if self.rollout is not None and generation is self.rollout.new:
            self.rollout.stepped_at = self._now

    @_hear.register
    def _(self, _message: Alive, _generation: Generation) -> None:
        """That it said something is all there is to it."""

    @_hear.register
    def _(self, message: MasterFailed, generation: Generation) -> None:
        if generation is not self.current:
            self._fail_generation(generation, message.reason)

    @_hear.register
    def _(self, message: WorkerSpawned, generation: Generation) -> None:
        generation.workers[message.pid] = Worker(message.pid, self._now)

    @_hear.register
    def _(self, message: WorkerReady, generation: Generation) -> None:
        worker = generation.workers.get(message.pid)
        if worker is None or worker.state is not WorkerState.BOOTING:
            return
        worker.state = WorkerState.READY
        rollout = self.rollout
        if rollout is not None and generation is rollout.new and not rollout.is_rolling_back:
            rollout.note_ready(message.pid, self.target, self._now)
        elif rollout is not None and rollout.is_rolling_back:
            rollout.stepped_at = self._now
        elif self.current is None and generation.ready >= self.target:
            self._commit_first(generation)

    @_hear.register
    def _(self, message: WorkerRetiring, generation: Generation) -> None:
        self.replacements.note_retiring(message.pid)
        worker = generation.workers.get(message.pid)
        if worker is not None and worker.state is not WorkerState.RETIRING:
            worker.state = WorkerState.RETIRING
            worker.retired_at = self._now

    @_hear.register
    def _(self, message: WorkerStuck, generation: Generation) -> None:
        worker = generation.workers.get(message.pid)
        if worker is not None:
            worker.state = WorkerState.STUCK
            silence = f"its loop has been silent for {message.silent:.0f} s"
            self.outbox.log(Level.ERROR, f"worker {message.pid}: {silence}; it is replaced")

    @_hear.register
    def _(self, message: WorkerExited, generation: Generation) -> None:
        self.replacements.forget(message.pid)
        self.fleet.forget(generation, message.pid)
        if self.is_stopping:
            left = sum(len(each.workers) for each in self.fleet.generations.values())
            for operation in self._stops:
                self.outbox.act(actions.Progress(operation, f"worker {message.pid} {message.how}, {left} left"))
            return
        if message.expected or generation.state is GenerationState.RETIRING:
            return
        what = f"worker {message.pid} {message.how}"
        if generation is not self.current:
            self._fail_generation(generation, what, message.pid)
            return
        self.outbox.log(Level.WARNING, what)
        if message.was_ready:
            self.health.note_crash(self._now)
        elif self.rollout is not None and self.rollout.is_rolling_back:
            self.rollout.old_is_broken = True
        elif isinstance(self.operation, Scale | Recycle):
            self._end_operation(Code.FAILED, f"{what}; it is tried further", generation.number, message.pid)

    @_hear.register
    def _(self, message: BackingOff, generation: Generation) -> None:
        if generation is self.current:
            times = count(message.failures, "failure")
            self.outbox.log(Level.WARNING, f"{times} in a row: the next worker is started in {message.seconds:.0f} s")

    # -- operations

    def _enqueue(self, operation: Intent) -> None:
        if self.is_stopping:
            self.outbox.finish(operation.id, Code.STOPPING, "the service is stopping")
            return
        for same in [each for each in self.waiting if type(each) is type(operation)]:
            if not isinstance(same, Recycle):
                self.waiting.remove(same)
                self.outbox.finish(same.id, Code.SUPERSEDED, "a newer request of the same kind took its place")
        self.waiting.append(operation)
        if operation.id and (self.operation is not None or self.current is None):
            over = "service has started" if self.current is None else "operation under way is over"
            self.outbox.act(actions.Progress(operation.id, f"waits until the {over}"))

    def _begin(self, operation: Intent, current: Generation) -> None:
        self.operation = operation
        match operation:
            case Reload():
                self.outbox.act(actions.Notify(Readiness.RELOADING))
                self.outbox.act(actions.ReadConfiguration())
            case Scale():
                self.outbox.log(Level.INFO, f"scaling from {self.target} to {operation.workers} workers")
                self.target = self.scaled_to = current.target = operation.workers
                operation.deadline = self._now + current.service.boot_timeout + KILL_AFTER
            case Recycle():
                if not self.replacements.begin(operation, current, self._now):
                    unknown = f"{operation.pid} is no worker that serves; `outrider status` lists them"
                    self._end_operation(Code.REFUSED, unknown)
            case Upgrade():
                self.outbox.log(Level.INFO, "replacing the supervisor in place", operation.id)
                self.outbox.act(actions.Upgrade())

    def _end_operation(self, code: Code, message: str, generation: int = 0, blamed: int = 0, details: str = "") -> None:
        operation, self.operation = self.operation, None
        if operation is not None:
            if code is Code.FAILED and not isinstance(operation, Reload):
                self.outbox.log(Level.WARNING, message)  # a reload has said so
            self.outbox.finish(operation.id, code, message, generation, blamed, details)

    def _give_up_operations(self) -> None:
        for operation in (self.operation, *self.waiting):
            if operation is not None:
                self.outbox.finish(operation.id, Code.STOPPING, "the service was told to stop")
        self.operation = self.rollout = None
        self.waiting = []

    # -- after each event: what has become possible

    def _advance(self) -> None:
        if self.is_stopping:
            if not self.fleet.generations:
                self._end()
            return
        if self.rollout is not None:
            self._advance_rollout(self.rollout)
        if self.current is not None:
            self._advance_operation(self.current)
            self._begin_next(self.current)
            if self.rollout is None and not isinstance(self.operation, Scale):
                self.health.judge(self.current, self.target, self._now)
        self.fleet.tell_targets(self._now)

    def _end(self) -> None:
        for operation in self._stops:
            self.outbox.finish(operation, Code.DONE, "stopped")
        self._stops = []
        if not self._is_over:
            self._is_over = True
            self.outbox.act(actions.Exit(self._exit_status))

    def _advance_rollout(self, rollout: Rollout) -> None:
        is_complete = rollout.step(self.target, self._now)
        for note in rollout.notes:
            waits = self.operation.id if self.operation is not None else 0
            self.outbox.log(Level.INFO, f"generation {rollout.new.number}: {note}", waits)
        rollout.notes.clear()
        if is_complete and rollout.is_better_than_nothing and rollout.failure:
            self._commit(rollout, rollout.failure)
        elif is_complete and rollout.is_rolling_back:
            self._end_rollback(rollout)
        elif is_complete:
            self._commit(rollout)

    def _advance_operation(self, current: Generation) -> None:
        operation = self.operation
        if isinstance(operation, Scale) and current.ready == current.kept == self.target:
            self._end_operation(Code.DONE, f"serving with {count(self.target, 'worker')}")
        elif isinstance(operation, Recycle) and self.replacements.advance(operation, current, self._now):
            self._end_operation(Code.DONE, f"{operation.count} of {current.ready} workers replaced")

    def _begin_next(self, current: Generation) -> None:
        if self.operation is None and not current.has_master and self._now >= self._recover_at:
            self._begin(Reload(0, canary=False), current)
        while self.operation is None:
            # Without a master there is nobody to scale or to recycle.
            able = [each for each in self.waiting if current.has_master or isinstance(each, Reload)]
            if not able:
                return
            self.waiting.remove(able[0])
            self._begin(able[0], current)

    # -- generations come and go

    def _commit_first(self, generation: Generation) -> None:
        self._make_current(generation)
        self.outbox.log(
            Level.INFO, f"generation {generation.number}: {generation.ready} of {count(self.target, 'worker')} ready"
        )

    def _make_current(self, generation: Generation) -> None:
        generation.state = GenerationState.CURRENT
        self.current = generation
        self.outbox.act(actions.Notify(Readiness.READY))

    def _commit(self, rollout: Rollout, failure: str = "") -> None:
        """The new generation takes over, after a `failure` for want of another one."""
        new, old = rollout.new, rollout.old
        self.rollout = None
        self._recovery_pause = FIRST_BACKOFF
        self.health.forget_crashes()
        self.replacements.pids.clear()
        new.target = self.target
        text = f"generation {new.number} is current, serving with {new.ready} of {count(self.target, 'worker')}"
        self.outbox.log(Level.INFO, text)
        # Before its workers go: they take what is queued at a listener that is not kept.
        self.outbox.act(actions.KeepListeners(new.service))
        self.fleet.stop(old, self._now, fast=False)
        self._make_current(new)
        if failure:
            self._end_operation(
                Code.FAILED, f"{failure}; it could not be undone, and {text}", new.number, rollout.blamed
            )
        else:
            self._end_operation(Code.DONE, text, new.number)

    def _end_rollback(self, rollout: Rollout) -> None:
        new, old = rollout.new, rollout.old
        self.rollout = None
        self.target = old.target = rollout.old_target
        self.outbox.act(actions.KeepListeners(old.service))
        self.fleet.stop(new, self._now, fast=False)
        serving = f"generation {old.number} serves with {old.ready} of {count(self.target, 'worker')}"
        self.outbox.log(Level.ERROR, f"generation {new.number} was rolled back: {rollout.failure}; {serving}")
        self._end_operation(Code.FAILED, f"rolled back: {rollout.failure}; {serving}", new.number, rollout.blamed)
        self.outbox.act(actions.Notify(Readiness.READY))
        self._postpone_recovery()

    def _postpone_recovery(self) -> None:
        """A generation that should take the place of a lost master's failed: the next one is tried later.

        Soon, while nothing serves at all: then there is nothing to be spared.
        """
        if self.current is not None and not self.current.has_master:
            pause = self._recovery_pause if self.fleet.capacity else min(self._recovery_pause, EMPTY_BACKOFF)
            self._recover_at = self._now + pause
            self._recovery_pause = min(LONGEST_BACKOFF, 2 * self._recovery_pause)

    def _fail_overdue_start(self) -> None:
        if self.current is not None or self.is_stopping:
            return
        for generation in self.fleet.generations.values():
            limit = generation.service.boot_timeout
            if self._now - max(generation.since, generation.booted_at) > limit + KILL_AFTER:
                self._fail_generation(generation, f"no worker was ready within boot_timeout ({limit:g} s)")
                return

    def _fail_generation(self, generation: Generation, reason: str, blamed: int = 0) -> None:
        """A generation that is not current will not become so; the first one may, with those that serve."""
        rollout = self.rollout
        if rollout is not None and generation is rollout.new:
            if rollout.is_better_than_nothing:
                self.outbox.log(Level.ERROR, f"generation {generation.number}: {reason}; there is none to go back to")
                rollout.blamed = blamed
                self._commit(rollout, reason)
                return
            was_rolling_back = rollout.is_rolling_back
            rollout.fail(reason, self._now, blamed)
            if not was_rolling_back:
                self._tell_way_back(rollout)
        elif self.current is None and not self.is_stopping:
            self.outbox.log(Level.ERROR, f"generation {generation.number}: {reason}")
            if generation.ready:
                self._commit_first(generation)
            elif not (blamed and self._others_may_boot(generation)):
                self.outbox.log(Level.ERROR, "nothing serves yet: giving up")
                self._exit_status = BOOT_FAILED
                self._take(events.StopAsked(0, fast=True))

    def _others_may_boot(self, generation: Generation) -> bool:
        """Whether this first generation has workers that have not failed: the master starts others for those."""
        self._failed_boots += 1
        return generation.kept > 0 and self._failed_boots < generation.target
