"""What the supervisor counts of its own doings: restarts by their cause, reloads by their outcome, changes of target.

It looks at the machine before and after each event, and nowhere else. An upgrade in place takes the counts over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outrider_supervisor.events import Event, FromGeneration
from outrider_supervisor.generation import Generation, GenerationState, WorkerState
from outrider_supervisor.intents import Intent, Reload
from outrider_supervisor.machine import Machine
from outrider_supervisor.messages import WorkerExited
from outrider_supervisor.status import LastReload

CAUSES = ("crash", "boot_failure", "stuck", "recycle", "max_requests", "max_worker_age", "max_worker_memory", "reload")
"""Why a worker ended that another one took the place of. The end of the service, and fewer workers, are no causes."""
OUTCOMES = ("committed", "rolled_back", "refused", "failed", "stopped")
"""How a reload ends. One that failed could not be undone: the new generation serves as well as it can."""
DIRECTIONS = ("up", "down")


class Tally:
    """Counts since the service was started."""

    def __init__(self) -> None:
        self.restarts = dict.fromkeys(CAUSES, 0)
        self.reloads = dict.fromkeys(OUTCOMES, 0)
        self.reload_seconds = dict.fromkeys(OUTCOMES, 0.0)
        self.target_changes = dict.fromkeys(DIRECTIONS, 0)
        self.last_reload: LastReload | None = None
        self._operation: Intent | None = None
        self._was_decided = False
        self._target = 0
        self._reload_since = 0.0

    def look_before(self, event: Event, machine: Machine) -> None:
        """See what there is before the machine handles an event."""
        self._operation = machine.operation
        self._was_decided = machine.succession.handover is not None
        self._target = machine.target
        if isinstance(event, FromGeneration) and isinstance(event.message, WorkerExited) and not machine.is_stopping:
            cause = _cause(event.message, machine.fleet.generations.get(event.number), machine)
            if cause:
                self.restarts[cause] += 1

    def look_after(self, event: Event, machine: Machine, now: float, wall: float) -> None:
        """See what has become of it, at this monotonic and Unix time."""
        if self._target and machine.target != self._target:
            self.target_changes["up" if machine.target > self._target else "down"] += 1
        if machine.operation is self._operation:
            return
        if isinstance(self._operation, Reload):
            self._end_reload(self._outcome(machine), now, wall)
        if isinstance(machine.operation, Reload):
            self._reload_since = now

    def _outcome(self, machine: Machine) -> str:
        if machine.is_stopping and not self._was_decided:
            return "stopped"
        failed = machine.succession.failed_reload
        return failed.outcome.replace(" ", "_") if failed is not None else "committed"

    def _end_reload(self, outcome: str, now: float, wall: float) -> None:
        seconds = now - self._reload_since
        self.reloads[outcome] += 1
        self.reload_seconds[outcome] += seconds
        self.last_reload = {"outcome": outcome, "at": round(wall, 3), "seconds": round(seconds, 3)}

    def to_state(self) -> dict[str, Any]:
        """What `take_state` needs in the supervisor that replaces this one."""
        return {
            "restarts": self.restarts,
            "reloads": self.reloads,
            "reload_seconds": self.reload_seconds,
            "target_changes": self.target_changes,
            "last_reload": self.last_reload,
        }

    def take_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the counts of another supervisor, which may know other causes and outcomes."""
        self.restarts.update(state["restarts"])
        self.reloads.update(state["reloads"])
        self.reload_seconds.update(state["reload_seconds"])
        self.target_changes.update(state["target_changes"])
        self.last_reload = state["last_reload"]


def _cause(message: WorkerExited, generation: Generation | None, machine: Machine) -> str:
    """Why this worker ended; empty if no other one takes its place, or nobody knows."""
    if generation is None:
        return ""
    worker = generation.workers.get(message.pid)
    if worker is not None and worker.state is WorkerState.STUCK:
        return "stuck"
    if not message.expected:
        return "crash" if message.was_ready else "boot_failure"
    if message.pid in machine.replacements.causes:
        return machine.replacements.causes[message.pid]
    return "reload" if machine.rollout is not None or generation.state is GenerationState.RETIRING else ""
