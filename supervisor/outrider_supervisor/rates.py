"""How much was done in a stretch of time, from what workers had counted at its beginning and at its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from outrider.meters import DURATION_BOUNDS
from outrider.scoreboard import Totals

SERVER_ERROR = 5


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests and 5xx a second; median and 99th percentile of durations in seconds, None without a request."""

    requests: float = 0.0
    errors: float = 0.0
    median: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What had been counted at a moment (monotonic, seconds): requests, 5xx, and requests by duration."""

    at: float
    requests: int
    errors: int
    buckets: tuple[int, ...]

    @classmethod
    def of(cls, totals: Totals, at: float) -> Reading:
        """Sum the histograms up."""
        buckets = [0] * (len(DURATION_BOUNDS) + 1)
        errors = 0
        for (_, status_class), histogram in totals.requests.items():
            for index, number in enumerate(histogram.buckets):
                buckets[index] += number
            if status_class == SERVER_ERROR:
                errors += histogram.requests
        return cls(at, sum(buckets), errors, tuple(buckets))


def compare(earlier: Reading, later: Reading) -> Rates:
    """What happened between two readings."""
    seconds = later.at - earlier.at
    if seconds <= 0:
        return Rates()
    buckets = [max(0, new - old) for new, old in zip(later.buckets, earlier.buckets, strict=True)]
    return Rates(
        max(0, later.requests - earlier.requests) / seconds,
        max(0, later.errors - earlier.errors) / seconds,
        percentile(buckets, 0.5),
        percentile(buckets, 0.99),
    )


def percentile(buckets: Sequence[int], share: float) -> float | None:
    """The duration in seconds that this share of requests does not exceed, as Prometheus' histogram_quantile has it.

    Within a bucket requests are taken to be spread evenly. What is beyond the last bound is said to be that bound.
    """
    rank = share * sum(buckets)
    if not rank:
        return None
    below = 0
    lower = 0.0
    for number, bound in zip(buckets, DURATION_BOUNDS, strict=False):
        if number and below + number >= rank:
            return lower + (bound - lower) * (rank - below) / number
        below += number
        lower = bound
    return lower


class Window:
    """The readings of the last seconds, so that rates are those of a stretch that is long enough to mean something."""

    __slots__ = ("_readings",)

    def __init__(self, steps: int) -> None:
        """Compare a reading with the one so many steps before it."""
        self._readings: deque[Reading] = deque(maxlen=steps + 1)

    @property
    def latest(self) -> Reading | None:
        """The last reading."""
        return self._readings[-1] if self._readings else None

    def add(self, reading: Reading) -> Rates:
        """Take in a reading; the rates since the one before it."""
        before = self.latest
        if before is not None and reading.requests < before.requests:
            self._readings.clear()  # another worker has this process id
            before = None
        self._readings.append(reading)
        return compare(before, reading) if before is not None else Rates()

    def rates(self) -> Rates | None:
        """The rates over the whole window; None before there are two readings."""
        return compare(self._readings[0], self._readings[-1]) if len(self._readings) > 1 else None


def milliseconds(seconds: float | None) -> float | None:
    """As the status has it."""
    return None if seconds is None else round(seconds * 1000, 1)
