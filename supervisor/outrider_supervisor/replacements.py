"""Replacing single workers of the current generation: on request, and when they are due (`recycling`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from outrider_supervisor.actions import Level, Tell
from outrider_supervisor.events import Sample
from outrider_supervisor.fleet import OVERTIME, Fleet, Outbox
from outrider_supervisor.generation import Generation, WorkerState
from outrider_supervisor.intents import Recycle
from outrider_supervisor.messages import Replace
from outrider_supervisor.recycling import Recycling
from outrider_supervisor.rollout import RETIRE_PATIENCE


class Replacements:
    """At most `max_surge` at a time. `pids` are the workers that are to go, and do once theirs is ready."""

    def __init__(self, outbox: Outbox, fleet: Fleet) -> None:
        self.pids: set[int] = set()
        self.causes: dict[int, str] = {}
        """Why workers that are still there were told to go: "recycle", or the setting."""
        self._outbox = outbox
        self._fleet = fleet
        self._recycling = Recycling()

    def begin(self, recycle: Recycle, current: Generation, now: float) -> bool:
        """Begin what somebody asked for. False: there is no such worker."""
        ready = [pid for pid, worker in current.workers.items() if worker.state is WorkerState.READY]
        if recycle.pid and recycle.pid not in ready:
            return False
        recycle.left = deque([recycle.pid] if recycle.pid else ready)
        recycle.count = len(recycle.left)
        recycle.deadline = now + current.service.boot_timeout + OVERTIME
        self._outbox.log(Level.INFO, f"recycling {recycle.count} of {len(ready)} workers", recycle.id)
        return True

    def advance(self, recycle: Recycle, current: Generation, now: float) -> bool:
        """Go on with it; whether it is done."""
        while recycle.left and self._has_room(current, now):
            pid = recycle.left.popleft()
            if pid in current.workers:
                recycle.deadline = now + current.service.boot_timeout + OVERTIME
                self._replace(current, pid, "recycle")
        return not recycle.left and not self.pids

    def replace_due(self, current: Generation, samples: Mapping[int, Sample], target: int, now: float) -> None:
        """Replace the workers that are over a limit."""
        ready = {pid: worker.since for pid, worker in current.workers.items() if worker.state is WorkerState.READY}
        for due in self._recycling.find_due(current.service, samples, ready, now):
            if due.pid not in self.pids and current.has_master and self._has_room(current, now):
                self._outbox.log(Level.INFO, f"worker {due.pid} {due.reason}: it is replaced")
                self._replace(current, due.pid, due.setting)
            if due.at_once and current.ready > target - current.service.max_surge:
                self._outbox.log(Level.WARNING, f"worker {due.pid} {due.reason}: far too much, it goes at once")
                self.causes[due.pid] = due.setting
                self._fleet.retire(current, due.pid, now)

    def note_retiring(self, pid: int) -> None:
        """The worker goes: its replacement is there, or it could not wait."""
        self.pids.discard(pid)

    def give_up(self) -> None:
        """The master that was to replace them is gone, or its generation over."""
        self.pids.clear()

    def forget(self, pid: int) -> None:
        """The worker is gone."""
        self.pids.discard(pid)
        self.causes.pop(pid, None)
        self._recycling.forget(pid)

    def _has_room(self, current: Generation, now: float) -> bool:
        """Whether one more may be replaced. As in a reload, one that was retired holds its place for a moment."""
        others = [generation for generation in self._fleet.generations.values() if generation is not current]
        leaving = sum(generation.occupied(now, RETIRE_PATIENCE) for generation in others)
        retired = current.retired_since(now - RETIRE_PATIENCE)
        return len(self.pids) + retired + leaving < current.service.max_surge

    def _replace(self, generation: Generation, pid: int, cause: str) -> None:
        self.pids.add(pid)
        self.causes[pid] = cause
        self._outbox.act(Tell(generation.number, Replace(pid)))
