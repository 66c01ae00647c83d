"""Medians of the rounds, ratios between servers, and the targets they are held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from statistics import median

from loads import Page
from measure import Failure, Sample
from servers import FLOOR, METRICS, OUTRIDER

Results = Mapping[tuple[str, str], list[Sample | Failure]]
"""All rounds of each (load, server)."""

CPU_TARGETS: dict[str, dict[str, float]] = {
    "plaintext": {"uvicorn": 0.5, "gunicorn-asgi": 0.45, "granian": 0.6, "granian-no-ws": 0.6, "h2corn": 1.0},
    "json": {"uvicorn": 0.8, "gunicorn-asgi": 0.7, "granian": 0.9, "granian-no-ws": 0.9, "h2corn": 0.95},
    "echo": {"uvicorn": 0.6, "gunicorn-asgi": 0.6, "granian": 1.0, "granian-no-ws": 1.0, "h2corn": 1.0},
    "access-log": {"uvicorn": 0.6, "gunicorn-asgi": 0.6},
    "websocket-64b-32": {"uvicorn": 0.7, "gunicorn-asgi": 0.6, "h2corn": 0.9},
    "tls-plaintext": {"uvicorn": 0.5},
    "h2c-plaintext": {"granian": 1.2, "h2corn": 1.2},
}
"""The largest allowed ratio of Outrider's CPU per request or message to a peer's, by load and peer."""

FLOOR_LIMIT = 1.8
METRICS_LIMIT = 1.03
P99_LOADS = ("plaintext", "json", "echo")
KIB_PER_IDLE_CONNECTION_LIMIT = 6.0
KIB_PER_IDLE_WEBSOCKET_LIMIT = 12.0
IDLE_USE_LIMIT = 0.001
"""Share of a core that idle connections may cost: less is noise."""


@dataclass(frozen=True, slots=True)
class Row:
    """The rounds of one server under one load."""

    middle: Sample
    """The median of each figure; the faults of all rounds together."""
    cpu_range: tuple[float, float]
    """The smallest and largest CPU per request or message."""
    rounds: int
    failures: tuple[str, ...]
    """Why rounds are missing."""

    @property
    def is_clean(self) -> bool:
        """Whether every round was made and nothing went wrong in any."""
        return not self.failures and not self.middle.faults


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target and what was measured."""

    name: str
    measured: str
    limit: str
    passed: bool | None
    """None where it was not measured."""
    marked: bool = False
    """Whether a figure behind it comes from rounds with errors."""


def summarise(rounds: Iterable[Sample | Failure]) -> Row | None:
    """Return the medians of ``rounds``, or None when every one of them failed."""
    rounds = list(rounds)
    samples = [sample for sample in rounds if isinstance(sample, Sample)]
    reasons = tuple(failure.reason for failure in rounds if isinstance(failure, Failure))
    if not samples:
        return None
    names = [field.name for field in fields(Sample) if field.name != "faults"]
    middle = {name: median(getattr(sample, name) for sample in samples) for name in names}
    faults = sum((Counter(sample.faults) for sample in samples), Counter())
    costs = [sample.cpu_us for sample in samples]
    return Row(Sample(**middle, faults=dict(faults)), (min(costs), max(costs)), len(samples), reasons)


def rows_of(results: Results, load: str) -> dict[str, Row]:
    """Return the rows of ``load`` by server, without those that failed in every round."""
    rows = {}
    for (key, server), rounds in results.items():
        row = summarise(rounds) if key == load else None
        if row is not None:
            rows[server] = row
    return rows


def cpu_ratio(rows: Mapping[str, Row], peer: str) -> float | None:
    """Return Outrider's CPU per request over that of ``peer``, or None where one was not measured."""
    if OUTRIDER not in rows or peer not in rows or not rows[peer].middle.cpu_us:
        return None
    return rows[OUTRIDER].middle.cpu_us / rows[peer].middle.cpu_us


def at_most(name: str, measured: float | None, limit: float, form: str = "{:.2f}", *, marked: bool = False) -> Verdict:
    """Return the verdict on a figure that may not exceed ``limit``: it is judged before it is rounded."""
    shown = "not measured" if measured is None else form.format(measured)
    passed = None if measured is None else measured <= limit
    return Verdict(name, shown, form.format(limit), passed, marked)


def cpu_verdicts(results: Results, load: str) -> dict[str, Verdict]:
    """Return the verdicts of `CPU_TARGETS` on ``load`` by peer."""
    rows = rows_of(results, load)
    return {
        peer: at_most(f"{load} vs {peer}", cpu_ratio(rows, peer), limit, marked=_marked(rows, OUTRIDER, peer))
        for peer, limit in CPU_TARGETS[load].items()
    }


def other_verdicts(results: Results, page: Page) -> list[Verdict]:
    """Return the verdicts on everything else that is promised of the loads of ``page``."""
    if page is Page.WEBSOCKET:
        return [_idle_memory_verdict(results, "websocket-idle", "WebSocket", KIB_PER_IDLE_WEBSOCKET_LIMIT)]
    return _other_http1_verdicts(results) if page is Page.HTTP1 else []


def _other_http1_verdicts(results: Results) -> list[Verdict]:
    plaintext = rows_of(results, "plaintext")
    over_floor = cpu_ratio(plaintext, FLOOR)
    return [
        at_most(
            "plaintext, CPU over the raw floor's",
            over_floor,
            FLOOR_LIMIT,
            marked=_marked(plaintext, OUTRIDER, FLOOR),
        ),
        _metrics_verdict(results),
        *(_p99_verdict(results, load) for load in P99_LOADS),
        _memory_verdict(results),
        _idle_memory_verdict(results, "idle", "connection", KIB_PER_IDLE_CONNECTION_LIMIT),
        _idle_use_verdict(results),
    ]


def _marked(rows: Mapping[str, Row], *servers: str) -> bool:
    return any(server in rows and not rows[server].is_clean for server in servers)


def _p99_verdict(results: Results, load: str) -> Verdict:
    rows = rows_of(results, load)
    name = f"{load}, p99 at 64 connections (ms) against the best peer's"
    peers = {server: row for server, row in rows.items() if server not in (OUTRIDER, FLOOR)}
    if OUTRIDER not in rows or not peers:
        return Verdict(name, "not measured", "", None)
    best = min(peers, key=lambda server: peers[server].middle.p99_us)
    measured, limit = rows[OUTRIDER].middle.p99_us / 1000, peers[best].middle.p99_us / 1000
    return at_most(f"{name} ({best})", measured, limit, marked=_marked(rows, OUTRIDER, best))


def _metrics_verdict(results: Results) -> Verdict:
    rows = rows_of(results, "metrics")
    ratio = cpu_ratio(rows, METRICS)
    marked = _marked(rows, OUTRIDER, METRICS)
    return at_most("plaintext with metrics, CPU over that without", ratio and 1 / ratio, METRICS_LIMIT, marked=marked)


def _memory_verdict(results: Results) -> Verdict:
    rows = rows_of(results, "json")
    name = "FastAPI worker, RSS (MiB) against uvicorn-worker's"
    if OUTRIDER not in rows or "uvicorn-worker" not in rows:
        return Verdict(name, "not measured", "", None)
    measured, limit = (rows[server].middle.rss_kib / 1024 for server in (OUTRIDER, "uvicorn-worker"))
    return at_most(name, measured, limit, "{:.1f}", marked=_marked(rows, OUTRIDER, "uvicorn-worker"))


def _idle_memory_verdict(results: Results, load: str, what: str, limit: float) -> Verdict:
    rows = rows_of(results, load)
    memory = rows[OUTRIDER].middle.kib_per_connection if OUTRIDER in rows else None
    return at_most(f"KiB per idle {what}, 10 000 of them", memory, limit, "{:.1f}", marked=_marked(rows, OUTRIDER))


def _idle_use_verdict(results: Results) -> Verdict:
    rows = rows_of(results, "idle")
    row = rows.get(OUTRIDER)
    use = max(0.0, row.middle.core_use - row.middle.idle_use) if row else None
    marked = _marked(rows, OUTRIDER)
    return at_most("idle CPU they add, share of a core", use, IDLE_USE_LIMIT, "{:.2%}", marked=marked)
