"""What a client of HTTP/2 may do that is of no use, before its connection is closed (RFC 9113 §10.5)."""

from __future__ import annotations

BURST = 1000
RATE = 100.0
"""Points a second that are given back."""

# A stream that ends early may have cost an application call (CVE-2023-44487, CVE-2025-8671).
LOST_STREAM = 5
CONTROL_FRAME = 1
# Where window updates are smaller, a small frame answers each of them.
LEAST_WINDOW_UPDATE = 128


class Patience:
    """Points that useless frames cost. They come back with time, and with each response that was of use."""

    __slots__ = ("_left", "_since")

    def __init__(self, now: float) -> None:
        self._left = float(BURST)
        self._since = now

    @property
    def is_over(self) -> bool:
        """Whether more points were taken than there were."""
        return self._left < 0

    def spend(self, points: int, now: float) -> None:
        """Take points, at the time `now` in seconds."""
        self._left = min(BURST, self._left + (now - self._since) * RATE) - points
        self._since = now

    def earn(self) -> None:
        """Give back what one lost stream costs."""
        if self._left < BURST:
            self._left = min(BURST, self._left + LOST_STREAM)
