"""Whether the service is degraded: too few workers serve, they crash too often, or nobody can start new ones."""

from __future__ import annotations

from collections import deque

from outrider_supervisor.actions import Level
from outrider_supervisor.counting import count
from outrider_supervisor.fleet import Outbox
from outrider_supervisor.generation import Generation

INTENSITY_WINDOW = 60.0
"""Seconds in which `restart_intensity` counts crashes."""


class Health:
    """Says so once when it begins, and once when it is over."""

    def __init__(self, outbox: Outbox) -> None:
        self.is_degraded = False
        self._outbox = outbox
        self._crashes: deque[float] = deque()

    def note_crash(self, now: float) -> None:
        """A worker that served has died."""
        self._crashes.append(now)

    def forget_crashes(self) -> None:
        """They were those of other code."""
        self._crashes.clear()

    def judge(self, current: Generation, target: int, now: float) -> None:
        """Look at the generation that serves, while nothing is changed on purpose."""
        while self._crashes and now - self._crashes[0] > INTENSITY_WINDOW:
            self._crashes.popleft()
        reasons = [f"serving with {current.ready} of {count(target, 'worker')}"]
        if len(self._crashes) > current.service.restart_intensity:
            reasons.append(f"{len(self._crashes)} crashes within {INTENSITY_WINDOW:g} s")
        if not current.has_master:
            reasons.append("their master is gone")
        is_degraded = len(reasons) > 1 or current.ready < target
        if is_degraded == self.is_degraded:
            return
        self.is_degraded = is_degraded
        if is_degraded:
            self._outbox.log(Level.WARNING, f"degraded: {', '.join(reasons)}")
        else:
            self._outbox.log(Level.INFO, f"recovered: {reasons[0]}")
