"""The judgement on a canary: the first worker of a new generation against the old generation in the same time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from outrider_supervisor.counting import count
from outrider_supervisor.events import Sample

QUIET_FACTOR = 3
"""With little traffic a canary ends after so many times `canary_seconds`."""
MORE_ERRORS = 0.05
"""The share of 5xx may exceed the old generation's by so much."""
FEW_ERRORS = 2
CLEAR_ERRORS = 5
"""One error proves nothing: it may be the client's doing. So many end the canary before its time is over."""
MOST_LAG = 0.5
"""Seconds by which the event loop may be late, or so many times the old generation's:"""
MORE_LAG = 3


@dataclass(frozen=True, slots=True)
class Passed:
    """The canary does not serve worse than the old generation; `summary` says what was seen."""

    summary: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The canary serves worse; `reason` says how."""

    reason: str


class _Tally:
    """Requests and errors of some workers since the canary began, from where each worker was first seen."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.lag = 0.0
        self._last: dict[int, tuple[int, int]] = {}

    def add(self, pid: int, sample: Sample, *, from_zero: bool = False) -> None:
        requests, errors = self._last.get(pid, (0, 0) if from_zero else (sample.requests, sample.errors))
        self.requests += max(0, sample.requests - requests)
        self.errors += max(0, sample.errors - errors)
        self.lag = max(self.lag, sample.lag)
        self._last[pid] = (sample.requests, sample.errors)

    @property
    def share(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


class Canary:
    """Watches one canary from the moment it is ready."""

    def __init__(self, seconds: float, requests: int, now: float) -> None:
        self._since = now
        self._seconds = seconds
        self._enough = requests
        self._new = _Tally()
        self._old = _Tally()

    def look(self, new: Mapping[int, Sample], old: Mapping[int, Sample], now: float) -> Passed | Failed | None:
        """Take in what the canary and the old workers did; a verdict, or None while it is too early for one."""
        for pid, sample in new.items():
            self._new.add(pid, sample, from_zero=True)
        for pid, sample in old.items():
            self._old.add(pid, sample)
        age = now - self._since
        failure = self._failure(FEW_ERRORS if age >= self._seconds else CLEAR_ERRORS)
        if failure:
            return Failed(failure)
        if age < self._seconds or (self._new.requests < self._enough and age < QUIET_FACTOR * self._seconds):
            return None
        errors = f"{count(self._new.errors, 'error')}, lag {self._new.lag * 1000:.0f} ms"
        if self._new.requests < self._enough:
            requests = f"{self._new.requests} of {count(self._enough, 'request')}"
            return Passed(f"canary not judged by traffic: {requests}, {errors}")
        return Passed(f"canary passed: {count(self._new.requests, 'request')}, {errors}")

    def _failure(self, least_errors: int) -> str:
        new, old = self._new, self._old
        if new.errors >= least_errors and new.share > old.share + MORE_ERRORS:
            return (
                f"{new.errors} of its {new.requests} responses were 5xx ({new.share:.0%}), "
                f"{old.share:.0%} of the old generation's"
            )
        if new.lag > max(MOST_LAG, MORE_LAG * old.lag):
            return f"its event loop was blocked for {new.lag:.1f} s, the old generation's for at most {old.lag:.1f} s"
        return ""
