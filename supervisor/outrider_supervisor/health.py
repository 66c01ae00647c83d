"""Whether the service is degraded: too few workers serve, they crash too often, or nobody can start new ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

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
        self.faults: tuple[str, ...] = ()
        """What is wrong, other than that workers are missing."""
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
        self.faults = tuple(self._find_faults(current))
        is_degraded = bool(self.faults) or current.ready < target
        if is_degraded == self.is_degraded:
            return
        self.is_degraded = is_degraded
        serving = f"serving with {current.ready} of {count(target, 'worker')}"
        if is_degraded:
            self._outbox.log(Level.WARNING, f"degraded: {', '.join((serving, *self.faults))}")
        else:
            self._outbox.log(Level.INFO, f"recovered: {serving}")

    def _find_faults(self, current: Generation) -> Iterator[str]:
        if len(self._crashes) > current.service.restart_intensity:
            yield f"{len(self._crashes)} crashes within {INTENSITY_WINDOW:g} s"
        if not current.has_master:
            yield "their master is gone"
