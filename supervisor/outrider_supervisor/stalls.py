"""Stalls of event loops, as workers report them, grouped by the function that held the loop."""

from __future__ import annotations

import math
from typing import Any

from outrider_supervisor.status import StallStatus

MOST_GROUPS = 20
LONGEST_STACK = 4000
LONGEST_NAME = 300
"""Characters."""


class Stalls:
    """The groups. Of many, those that were reported last are kept."""

    def __init__(self) -> None:
        self._groups: dict[str, StallStatus] = {}

    def note(self, pid: int, entries: Any, at: float) -> None:
        """Add up what a worker has reported: a list of `outrider.stall_report.StallEntry`.

        Args:
            pid: of the worker.
            entries: as it came from there; what is of another form is ignored.
            at: Unix time.
        """
        for news in _read(entries):
            self._add(news | {"last": round(at, 3), "worker": pid})

    def groups(self) -> list[StallStatus]:
        """The groups, the latest first."""
        return [group.copy() for group in reversed(self._groups.values())]

    def take_state(self, groups: Any) -> None:
        """Go on with what `groups` of another supervisor returned, maybe of another version."""
        self._groups = {function_of(group): group for group in reversed(_read(groups))}

    def _add(self, news: StallStatus) -> None:
        before = self._groups.pop(function_of(news), None)
        if before is None:
            # The beginning may have been lost on the way.
            news["count"] = max(1, news["count"])
        else:
            news["count"] += before["count"]
            news["seconds"] = round(news["seconds"] + before["seconds"], 3)
            news["longest"] = max(news["longest"], before["longest"])
            news["stack"] = news["stack"] or before["stack"]
        self._groups[function_of(news)] = news
        if len(self._groups) > MOST_GROUPS:
            del self._groups[next(iter(self._groups))]


def function_of(stall: StallStatus) -> str:
    """The frame without its line: a function that computes is found at another one each time."""
    return stall["frame"].rpartition(":")[0] or stall["frame"]


def _read(entries: Any) -> list[StallStatus]:
    found = []
    for entry in entries if isinstance(entries, list) else ():
        try:
            found.append(_read_one(entry))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return found


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):  # JSON has no such numbers
        raise ValueError(f"{number} is no duration")
    return number


def _read_one(entry: Any) -> StallStatus:
    return {
        "frame": str(entry["frame"])[:LONGEST_NAME],
        "hangs_in": str(entry["hangs_in"])[:LONGEST_NAME],
        "count": max(0, int(entry["count"])),
        "seconds": max(0.0, _finite(entry["seconds"])),
        "longest": max(0.0, _finite(entry["longest"])),
        "last": _finite(entry.get("last", 0.0)),
        "worker": int(entry.get("worker", 0)),
        "stack": str(entry["stack"])[-LONGEST_STACK:],
    }
