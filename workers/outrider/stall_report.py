"""What the log records of stalls carry for handlers that pass them on: numbers that a reader only has to add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outrider.culprit import Culprit

MOST_MUTED_FRAMES = 5
LONGEST_STACK = 3000
"""Characters of a stack; the innermost calls are kept."""


class StallEntry(TypedDict):
    """What is new of the stalls at one frame."""

    frame: str
    hangs_in: str
    """Both as in `Culprit`."""
    count: int
    """Stalls that began."""
    seconds: float
    """Added to what was told before."""
    longest: float
    """Seconds of the longest of them, from its beginning."""
    stack: str
    """Empty where it is not told."""


def as_extra(entries: Sequence[StallEntry]) -> dict[str, Any]:
    """The attributes of the log record."""
    return {"report": "stall", "report_data": list(entries)}


class Stall:
    """One stall that goes on."""

    def __init__(self, culprit: Culprit) -> None:
        self.culprit = culprit
        self._told: float | None = None

    def tell(self, seconds: float, stack: str = "") -> StallEntry:
        """Return what is new, now that it has taken `seconds`."""
        before, self._told = self._told, seconds
        return {
            "frame": self.culprit.frame,
            "hangs_in": self.culprit.hangs_in,
            "count": 1 if before is None else 0,
            "seconds": round(seconds - (before or 0.0), 3),
            "longest": round(seconds, 3),
            "stack": stack[-LONGEST_STACK:],
        }


class MutedStalls:
    """Stalls that no warning is about, until they are told of in one. Of many frames the latest are kept."""

    def __init__(self) -> None:
        self._entries: dict[str, StallEntry] = {}

    def add(self, entry: StallEntry) -> None:
        """Keep one."""
        before = self._entries.pop(entry["frame"], None)
        if before is not None:
            entry["count"] += before["count"]
            entry["seconds"] = round(entry["seconds"] + before["seconds"], 3)
            entry["longest"] = max(entry["longest"], before["longest"])
        self._entries[entry["frame"]] = entry
        if len(self._entries) > MOST_MUTED_FRAMES:
            del self._entries[next(iter(self._entries))]

    def take(self) -> list[StallEntry]:
        """Return them all, and keep none."""
        entries = list(self._entries.values())
        self._entries.clear()
        return entries
