"""Logging of what may happen a thousand times a second: once in a while, with the number of those left out."""

from __future__ import annotations

from collections.abc import Callable


class SeldomLog:
    """Passes on the first message, and after `period` seconds at least the next one."""

    def __init__(self, log: Callable[..., None], clock: Callable[[], float], period: float) -> None:
        self._log = log
        self._clock = clock
        self._period = period
        self._silent_until = 0.0
        self._unreported = 0

    def __call__(self, msg: str, *args: object) -> None:
        """Log it, or count it."""
        now = self._clock()
        if now < self._silent_until:
            self._unreported += 1
            return
        more = f" Not reported since the last one: {self._unreported} more of these." if self._unreported else ""
        self._log(f"{msg}%s", *args, more)
        self._silent_until = now + self._period
        self._unreported = 0
