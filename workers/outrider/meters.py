"""What is counted of requests: the cells that a worker adds to when one is complete, and a reading of them.

The cells are in shared memory, so that no count is lost with a worker that is killed. One histogram of durations for
each method and class of status also says how many requests there were. Boundaries and the name of an unknown method
are those of OpenTelemetry's `http.server.request.duration`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from time import monotonic_ns
from typing import NamedTuple

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "_OTHER")
OTHER_METHOD = METHODS[-1]
STATUS_CLASSES = (1, 2, 3, 4, 5)
DURATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds in seconds, inclusive; beyond the last one there is one more bucket."""

_BUCKETS = len(DURATION_BOUNDS) + 1
_SUM = _BUCKETS
_HISTOGRAM = _BUCKETS + 1  # the buckets, then the sum of the durations in nanoseconds
CELLS = len(METHODS) * len(STATUS_CLASSES) * _HISTOGRAM

_BOUNDS_NS = [round(bound * 1e9) for bound in DURATION_BOUNDS]
_SHORTEST = _BOUNDS_NS[0]
# Where a histogram begins is the sum of two numbers; that of a class counts from class 0, which there is not.
_OF_METHOD = {
    method: _HISTOGRAM * (len(STATUS_CLASSES) * index - STATUS_CLASSES[0]) for index, method in enumerate(METHODS)
}
_OTHER = _OF_METHOD[OTHER_METHOD]
_HIGHEST_STATUS = 599


class Meter:
    """Counts requests in the cells of one worker."""

    __slots__ = ("_cells",)

    def __init__(self, cells: memoryview[int]) -> None:
        self._cells = cells

    def count(self, method: str | None, status: int, started_ns: int) -> None:
        """Count a request that began at `started_ns` (`time.monotonic_ns`) and is complete; status 100 to 999."""
        duration = monotonic_ns() - started_ns
        cells = self._cells
        status_class = status // 100 if status <= _HIGHEST_STATUS else 5  # what is no registered class is an error
        first = _OF_METHOD.get(method, _OTHER) + _HISTOGRAM * status_class  # type: ignore[arg-type]  # None: other
        cells[first + (0 if duration <= _SHORTEST else bisect_left(_BOUNDS_NS, duration))] += 1
        cells[first + _SUM] += duration


class Histogram(NamedTuple):
    """How long requests took."""

    buckets: tuple[int, ...]
    """How many, between one of `DURATION_BOUNDS` and the next; the last ones took longer than all of them."""
    seconds: float
    """Of all together."""

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(self.buckets)


def histograms_of(cells: Sequence[int]) -> dict[tuple[str, int], Histogram]:
    """The histograms in these cells by method and class of status, without those that count nothing."""
    found = {}
    first = 0
    for method in METHODS:
        for status_class in STATUS_CLASSES:
            buckets = tuple(cells[first : first + _BUCKETS])
            if any(buckets):
                found[method, status_class] = Histogram(buckets, cells[first + _SUM] / 1e9)
            first += _HISTOGRAM
    return found
