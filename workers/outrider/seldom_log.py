"""Logging of what may happen a thousand times a second: once in a while, with the number of those left out."""

from __future__ import annotations

from collections.abc import Callable


class SeldomLog:
    """Passes on the first messages, `burst` of them, and so many again after `period` seconds."""

    def __init__(self, log: Callable[..., None], clock: Callable[[], float], period: float, burst: int = 1) -> None:
        self._log = log
        self._clock = clock
        self._period = period
        self._burst = burst
        self._left = burst
        self._ends_at = 0.0
        self._unreported = 0

    def __call__(self, msg: str, *args: object) -> None:
        """Log it, or count it."""
        now = self._clock()
        if now >= self._ends_at:
            self._ends_at = now + self._period
            self._left = self._burst
        if not self._left:
            self._unreported += 1
            return
        more = f" (not reported since the last one: {self._unreported} more of these)" if self._unreported else ""
        self._log(f"{msg}%s", *args, more)
        self._left -= 1
        self._unreported = 0
