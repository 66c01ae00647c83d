"""What a load generator counts, and prints in the end."""

from __future__ import annotations

import json

from wrk import ERROR_KINDS, MARK


class Tally:
    """What all connections of a load generator have counted."""

    __slots__ = ("errors", "latencies", "running")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.running = True
        self.latencies: list[float] = []
        self.errors = dict.fromkeys(ERROR_KINDS, 0)

    def as_line(self, seconds: float) -> str:
        """Return the result line."""
        latencies = sorted(self.latencies) or [0.0]
        values = {
            "requests": len(self.latencies),
            "duration_us": round(seconds * 1e6),
            "p50_us": round(percentile(latencies, 50) * 1e6),
            "p99_us": round(percentile(latencies, 99) * 1e6),
        }
        return MARK + json.dumps(values | self.errors)


def percentile(ordered: list[float], percent: int) -> float:
    """Return the nearest-rank percentile of a sorted list that is not empty."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(rank, 1) - 1]
