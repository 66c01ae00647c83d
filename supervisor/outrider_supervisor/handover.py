"""The end of an operation: whoever asked hears of it once no worker that goes would answer the next connection."""

from __future__ import annotations

from dataclasses import dataclass

from outrider_supervisor.actions import Code
from outrider_supervisor.generation import Generation, WorkerState

PATIENCE = 2.0
"""Seconds for workers to close their listeners: one whose loop is blocked must not hold the answer up for longer."""


@dataclass(slots=True)
class Handover:
    """A reload is decided: the `leaving` generation was told to go. What follows is the answer to who asked for it."""

    leaving: Generation
    deadline: float
    code: Code
    message: str
    number: int
    """Of the new generation, also where that is the one that leaves."""
    blamed: int = 0

    def is_over(self, now: float) -> bool:
        """Whether all who leave are gone, or accept no more, or have had their time."""
        workers = self.leaving.workers.values()
        return now >= self.deadline or not any(worker.may_answer for worker in workers)


def have_closed(current: Generation, now: float) -> bool:
    """The same for the workers that a scaling or recycling took from a generation which stays."""
    retired = (worker for worker in current.workers.values() if worker.state is WorkerState.RETIRING)
    return not any(worker.may_answer and now < worker.retired_at + PATIENCE for worker in retired)
