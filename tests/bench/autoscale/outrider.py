"""Outrider's own rule: the supervisor's `autoscaler`, given what its measuring would have found."""

from __future__ import annotations

from autoscale.model import MAX_WORKERS, View
from outrider_supervisor.autoscaler import Autoscaler, Look, Scaling


class Outrider:
    """The autoscaler with its default settings."""

    def __init__(self, settings: Scaling | None = None) -> None:
        self._settings = settings or Scaling(min_workers=1, max_workers=MAX_WORKERS)
        self._autoscaler = Autoscaler()

    def decide(self, view: View) -> int:
        """See `Rule`."""
        demand = sum(max(worker.cpu, worker.busy) for worker in view.workers)
        queued = view.backlog / view.requests if view.requests else 0.0
        look = Look(
            target=view.target,
            ready=len(view.workers),
            demand=demand,
            cpu=sum(worker.cpu for worker in view.workers),
            late=max(view.lag, queued),
        )
        return self._autoscaler.decide(self._settings, look, view.now).target
