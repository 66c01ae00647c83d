"""The end of a reload: whoever asked hears of it once no worker that goes would answer the next connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider_supervisor.actions import Code
from outrider_supervisor.events import Sample
from outrider_supervisor.generation import Generation

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
    _accepting: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self._accepting = set(self.leaving.workers) if self.leaving.service.reports_state else set()

    @property
    def outcome(self) -> str:
        """How the reload ended, as it is counted (`tally.OUTCOMES`)."""
        if self.code is Code.DONE:
            return "committed"
        return "rolled_back" if self.leaving.number == self.number else "failed"

    def observe(self, samples: Mapping[int, Sample]) -> None:
        """Look at who accepts still; a worker without a row is not waited for."""
        self._accepting = {pid for pid in self.leaving.workers if pid in samples and samples[pid].accepts}

    def is_over(self, now: float) -> bool:
        """Whether all who leave are gone, or accept no more, or have had their time."""
        workers = self.leaving.workers
        return now >= self.deadline or all(pid not in workers or workers[pid].is_gone for pid in self._accepting)
