"""Has the autoscaler's decisions take effect, as one step of the machine. Pure."""

from __future__ import annotations

from typing import Any

from outrider.scoreboard import MOST_WORKERS
from outrider_supervisor.actions import Level
from outrider_supervisor.agenda import Agenda
from outrider_supervisor.autoscaler import Autoscaler, Decision, Look, Scaling, Veto
from outrider_supervisor.events import Load, Observed
from outrider_supervisor.fleet import Outbox
from outrider_supervisor.generation import Generation, WorkerState
from outrider_supervisor.intents import Reload
from outrider_supervisor.service import Service
from outrider_supervisor.succession import Succession


class Autoscaling:
    """A change of the number of workers that nobody waits for, while nothing else is under way."""

    def __init__(self, outbox: Outbox, agenda: Agenda, succession: Succession) -> None:
        self.decision: Decision | None = None
        """The latest; None while it is off, or has not been made yet."""
        self._outbox = outbox
        self._agenda = agenda
        self._succession = succession
        self._autoscaler = Autoscaler()
        self._generation = 0
        self._settled: int | None = None
        """How many workers there were to be before the growth that is under way."""

    def observe(self, event: Observed, now: float) -> None:
        """Decide by what was measured, if anything was."""
        current = self._succession.current
        scaling = scaling_of(current.service) if current is not None else None
        if current is None or scaling is None:
            self.decision = None
            return
        if current.number != self._generation:
            self._generation = current.number
            self.begin_anew()
        if event.load is None:
            return
        before = self._succession.target
        look = look_at(current, before, event, event.load, self._vetoes(current, now))
        self.decision = decision = self._autoscaler.decide(scaling, look, now)
        if decision.target != before:
            self._outbox.log(Level.INFO, f"scaled {before} → {decision.target}: {decision.reason}")
            self._succession.resize(current, decision.target)
            self._settled = before

    def begin_anew(self) -> None:
        """Somebody has changed the number of workers, or the pool is another one: measure again before deciding."""
        self._autoscaler.begin_anew()

    def expected(self, current: Generation, target: int, now: float) -> int:
        """How many workers must serve for the service to be whole: not those that were just asked for."""
        if current.ready >= target or current.is_backing_off(now):
            self._settled = None
        return target if self._settled is None else min(target, self._settled)

    def to_state(self) -> dict[str, Any]:
        """What `take_state` needs in the supervisor that replaces this one."""
        return {"generation": self._generation, "history": self._autoscaler.to_state()}

    def take_state(self, state: dict[str, Any]) -> None:
        """Go on where another supervisor was.

        Raises:
            KeyError, TypeError, ValueError: it was written by a version that this one cannot follow.
        """
        self._generation = state["generation"]
        self._autoscaler.take_state(state["history"])

    def _vetoes(self, current: Generation, now: float) -> list[Veto]:
        agenda = self._agenda
        vetoes = []
        if self._succession.rollout is not None or isinstance(agenda.operation, Reload):
            vetoes.append(Veto.RELOAD)
        elif agenda.operation is not None or not current.has_master:
            vetoes.append(Veto.OPERATION)
        if current.is_backing_off(now):
            vetoes.append(Veto.BACKOFF)
        return vetoes


def scaling_of(service: Service) -> Scaling | None:
    """The settings of the autoscaler; None while it is off."""
    if not service.max_workers:
        return None
    return Scaling(
        min_workers=service.min_workers,
        max_workers=service.max_workers,
        target_utilisation=service.target_utilisation,
        up_window=service.scale_up_window,
        down_window=service.scale_down_window,
        up_step=service.scale_up_step,
    )


def refuse_scale(service: Service, workers: int) -> str:
    """Why somebody may not have so many workers; empty if they may."""
    if workers < 1:
        return "at least one worker is needed; `outrider stop` ends the service"
    if workers > MOST_WORKERS:
        return f"there may be {MOST_WORKERS} workers at most"
    if service.max_workers and not service.min_workers <= workers <= service.max_workers:
        return (
            f"{workers} is outside of what the autoscaler keeps to, {service.min_workers} to {service.max_workers}; "
            "change min_workers or max_workers and reload"
        )
    return ""


def look_at(current: Generation, target: int, event: Observed, load: Load, vetoes: list[Veto]) -> Look:
    """What the autoscaler decides by: the measured load of a generation that shall have `target` workers."""
    shares = load.workers.values()
    serving = [pid for pid, worker in current.workers.items() if worker.state is WorkerState.READY]
    lags = [event.samples[pid].lag for pid in serving if pid in load.workers and pid in event.samples]
    queued = load.backlog / load.requests_per_second if load.backlog and load.requests_per_second else 0.0
    fitting = None
    if load.memory_room is not None and load.worker_memory:
        fitting = load.memory_room // load.worker_memory
    return Look(
        target=target,
        ready=current.ready,
        demand=sum(max(share.cpu, share.busy) for share in shares),
        cpu=sum(share.cpu for share in shares),
        late=max(min(lags, default=0.0), queued),
        cores=load.cores,
        fitting=fitting,
        vetoes=vetoes,
    )
