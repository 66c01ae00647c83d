"""What masters say of themselves and of their workers, and what the kernel says of both."""

from __future__ import annotations

from functools import singledispatchmethod

from outrider_supervisor.actions import Code, Level
from outrider_supervisor.agenda import Agenda
from outrider_supervisor.counting import count
from outrider_supervisor.fleet import Fleet, Outbox
from outrider_supervisor.generation import Generation, GenerationState, Worker, WorkerState
from outrider_supervisor.health import Health
from outrider_supervisor.intents import Recycle, Scale
from outrider_supervisor.messages import (
    Alive,
    BackingOff,
    FromMaster,
    MasterBooted,
    MasterFailed,
    WorkerExited,
    WorkerReady,
    WorkerRetiring,
    WorkerSpawned,
    WorkerStuck,
)
from outrider_supervisor.replacements import Replacements
from outrider_supervisor.succession import Succession


class Hearing:
    """Keeps the generations as their masters report them, and has the others draw the conclusions."""

    def __init__(
        self,
        outbox: Outbox,
        fleet: Fleet,
        agenda: Agenda,
        succession: Succession,
        health: Health,
        replacements: Replacements,
    ) -> None:
        self._outbox = outbox
        self._fleet = fleet
        self._agenda = agenda
        self._succession = succession
        self._health = health
        self._replacements = replacements

    # -- the kernel

    def lose_master(self, number: int, how: str, now: float) -> None:
        """The master of a generation is gone; `how` reads on from "the master "."""
        generation = self._fleet.generations.get(number)
        if generation is None:
            return
        self._fleet.lose_master(generation)
        if generation.state is GenerationState.RETIRING:
            self._fleet.retire_orphans(generation, 0, now)
        elif generation is self._succession.current:
            what = f"the master of generation {number} {how}"
            left = count(generation.ready, "worker")
            self._outbox.log(Level.ERROR, f"{what}; serving on with its {left} until there is another")
            self._replacements.give_up()
            if isinstance(self._agenda.operation, Scale | Recycle):
                self._agenda.end(Code.FAILED, what)
        else:
            self._fail(generation, f"the master {how}", now)

    def lose_worker(self, pid: int) -> None:
        """A process is gone. Its master, where there is one, will say how."""
        for generation in list(self._fleet.generations.values()):
            worker = generation.workers.get(pid)
            if worker is not None:
                worker.is_gone = True
                if not generation.has_master:
                    self._replacements.forget(pid)
                    self._fleet.forget(generation, pid)

    # -- masters

    def hear(self, number: int, message: FromMaster, now: float) -> None:
        """Take in what the master of a generation says."""
        generation = self._fleet.generations.get(number)
        if generation is not None:
            generation.heard_at = now
            self._take(message, generation, now)

    @singledispatchmethod
    def _take(self, message: object, generation: Generation, now: float) -> None:
        raise TypeError(f"not a master's message: {message!r}")

    @_take.register
    def _note_master_booted(self, _message: MasterBooted, generation: Generation, now: float) -> None:
        self._succession.note_booted(generation, now)

    @_take.register
    def _note_master_alive(self, _message: Alive, _generation: Generation, _now: float) -> None:
        """That it said something is all there is to it."""

    @_take.register
    def _note_master_failed(self, message: MasterFailed, generation: Generation, now: float) -> None:
        if generation is not self._succession.current:
            self._fail(generation, message.reason, now)

    @_take.register
    def _note_spawned(self, message: WorkerSpawned, generation: Generation, now: float) -> None:
        generation.workers[message.pid] = Worker(message.pid, now)
        generation.retry_at = 0.0

    @_take.register
    def _note_ready(self, message: WorkerReady, generation: Generation, now: float) -> None:
        worker = generation.workers.get(message.pid)
        if worker is not None and worker.state is WorkerState.BOOTING:
            worker.state = WorkerState.READY
            worker.accepts = generation.service.reports_state
            self._succession.note_ready(generation, message.pid, now)

    @_take.register
    def _note_retiring(self, message: WorkerRetiring, generation: Generation, now: float) -> None:
        self._replacements.note_retiring(message.pid)
        worker = generation.workers.get(message.pid)
        if worker is not None and worker.state is not WorkerState.RETIRING:
            worker.state = WorkerState.RETIRING
            worker.retired_at = now

    @_take.register
    def _note_stuck(self, message: WorkerStuck, generation: Generation, _now: float) -> None:
        worker = generation.workers.get(message.pid)
        if worker is not None:
            worker.state = WorkerState.STUCK
            silence = f"its loop has been silent for {message.silent:.0f} s"
            self._outbox.log(Level.ERROR, f"worker {message.pid}: {silence}; it is replaced")

    @_take.register
    def _note_exited(self, message: WorkerExited, generation: Generation, now: float) -> None:
        self._replacements.forget(message.pid)
        self._fleet.forget(generation, message.pid)
        what = f"worker {message.pid} {message.how}"
        if self._agenda.is_stopping:
            left = sum(len(each.workers) for each in self._fleet.generations.values())
            self._agenda.tell_stops(f"{what}, {left} left")
        elif message.expected or generation.state is GenerationState.RETIRING:
            return
        elif generation is not self._succession.current:
            self._fail(generation, what, now, message.pid)
        else:
            self._lose_current_worker(message, what, generation, now)

    def _lose_current_worker(self, message: WorkerExited, what: str, generation: Generation, now: float) -> None:
        self._outbox.log(Level.WARNING, what)
        rollout = self._succession.rollout
        if message.was_ready:
            self._health.note_crash(now)
        elif rollout is not None and rollout.is_rolling_back:
            rollout.old_is_broken = True
        elif isinstance(self._agenda.operation, Scale | Recycle):
            self._agenda.end(Code.FAILED, f"{what}; it is tried further", generation.number, message.pid)

    @_take.register
    def _note_backing_off(self, message: BackingOff, generation: Generation, now: float) -> None:
        generation.failures = message.failures
        generation.retry_at = now + message.seconds
        if generation is self._succession.current:
            times = count(message.failures, "failure")
            self._outbox.log(Level.WARNING, f"{times} in a row: the next worker is started in {message.seconds:.0f} s")

    def _fail(self, generation: Generation, reason: str, now: float, blamed: int = 0) -> None:
        if not self._agenda.is_stopping:
            self._succession.fail(generation, reason, now, blamed)
