"""When the next worker may be spawned after others failed. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 60.0
JITTER = 0.25
"""Largest share of a backoff that is taken off at random, so that several services do not retry in step."""
SETTLED_AFTER = 10.0
"""Seconds that a worker must have served before the failures in front of it are forgotten."""
CRASH_WINDOW = 60.0
"""Seconds over which `restart_intensity` counts crashes."""


class Backoff:
    """Counts failures in a row: each doubles the wait, and a worker that serves for a while ends the row."""

    def __init__(self, restart_intensity: int, random: Callable[[], float]) -> None:
        """Start without failures.

        Args:
            restart_intensity: crashes of ready workers within `CRASH_WINDOW` that are none to wait for; 0: any number.
            random: a number from 0 to 1, excluded.
        """
        self.failures = 0
        self.spawn_at = float("-inf")
        """When the next worker may be spawned."""
        self._restart_intensity = restart_intensity
        self._random = random
        self._failed_at = float("-inf")
        self._crashes: deque[float] = deque()

    def note_failure(self, now: float, spawned_at: float) -> float | None:
        """A worker did not get ready. Workers that were spawned together fail together: that counts once.

        Returns:
            the seconds to wait from now; None if this failure adds nothing.
        """
        if spawned_at <= self._failed_at:
            return None
        self.failures += 1
        self._failed_at = now
        seconds = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self.failures - 1, 10))
        seconds *= 1 - JITTER * self._random()
        self.spawn_at = now + seconds
        return seconds

    def note_crash(self, now: float, spawned_at: float) -> float | None:
        """A ready worker died. Crashes beyond `restart_intensity` are failures; see `note_failure`."""
        self._crashes.append(now)
        return self.note_failure(now, spawned_at) if self._is_crashing(now) else None

    def reset(self) -> None:
        """Something else is wanted: do not wait any more."""
        self.failures = 0
        self.spawn_at = float("-inf")

    def note_service(self, now: float, spawned_at: float, ready_at: float) -> None:
        """A worker serves."""
        if (
            self.failures
            and spawned_at > self._failed_at
            and now - ready_at >= SETTLED_AFTER
            and not self._is_crashing(now)
        ):
            self.failures = 0

    def _is_crashing(self, now: float) -> bool:
        while self._crashes and self._crashes[0] < now - CRASH_WINDOW:
            self._crashes.popleft()
        return 0 < self._restart_intensity < len(self._crashes)
