"""What `outrider status --json` says: the stable form of the supervisor's state, for scripts.

docs/supervisor.md documents each field. Fields may be added; a change of meaning is a new `STATUS_VERSION`. Moments are
Unix times, durations are seconds, memory is bytes. A number that is not known is null.
"""

from __future__ import annotations

from typing import TypedDict

STATUS_VERSION = 1


class WorkerStatus(TypedDict):
    """One worker. What only the worker itself can say is null where its class keeps no scoreboard row."""

    pid: int
    state: str
    """booting, ready, draining, stuck."""
    age: float
    in_flight: int | None
    connections: int | None
    websockets: int | None
    requests: int | None
    errors_5xx: int | None
    loop_lag_ms: float | None
    busy: float | None
    """Share of the time in which the event loop ran something, 0 to 1, lately."""
    cpu_percent: float | None
    """Of one core, lately."""
    memory_bytes: int | None
    memory_kind: str | None
    """pss or rss."""
    heartbeat_age: float | None
    last_dump: float | None
    """When its stacks were last written to the log."""
    requests_per_second: float | None
    """In the last 10 seconds, as the next one."""
    p99_ms: float | None


class BackoffStatus(TypedDict):
    """Why a master starts no worker at the moment."""

    failures: int
    """In a row."""
    until: float


class GenerationStatus(TypedDict):
    """One master and its workers, oldest first."""

    number: int
    state: str
    """starting, canary, rolling, current, rolling back, retiring."""
    master_pid: int | None
    """null once the master has died."""
    since: float
    backoff: BackoffStatus | None
    """null unless the next worker waits because those before it could not boot, or crashed too often."""
    workers: list[WorkerStatus]


class OperationStatus(TypedDict):
    """What the supervisor is doing."""

    name: str
    """reload, scale, recycle, upgrade."""
    since: float | None
    progress: str
    """The last line of progress, or empty."""


class RatesStatus(TypedDict):
    """What all workers did in the last 10 seconds; null before there were two looks at them."""

    requests_per_second: float | None
    errors_per_second: float | None
    """Responses with a 5xx."""
    p50_ms: float | None
    p99_ms: float | None
    in_flight: int


class LastReload(TypedDict):
    """How the last reload ended, and how long it took."""

    outcome: str
    at: float
    seconds: float


class ReloadsStatus(TypedDict):
    """Reloads since the service was started, by how they ended."""

    committed: int
    rolled_back: int
    refused: int
    """The configuration could not be used."""
    failed: int
    """It could not be undone: the new generation serves as well as it can."""
    stopped: int
    """The service ended first."""
    last: LastReload | None


class StallStatus(TypedDict):
    """Stalls of event loops in one function, of all workers."""

    frame: str
    """Where the application was blocked the last time: `module.function file:line`."""
    hangs_in: str
    """The innermost frame, in the same form; empty if it is the same."""
    count: int
    seconds: float
    """Of all of them together."""
    longest: float
    last: float
    """When the latest one was reported."""
    worker: int
    """Which worker reported it."""
    stack: str
    """Of the latest one that was logged with its stack."""


class EventStatus(TypedDict):
    """A line of the supervisor's log."""

    at: float
    level: str
    """info, warning, error."""
    text: str


class AutoscalerStatus(TypedDict):
    """What the autoscaler goes by, and what it has decided last. Before its first decision, no reason is given."""

    min: int
    max: int
    target: int
    demand: float | None
    """Loops that would be busy all the time, lately."""
    utilisation: float | None
    """Share of its time in which a worker that serves was busy, lately."""
    reason: str
    vetoes: list[str]
    """Why there are not as many workers as demand asks for: reload, operation, crash backoff, booting, memory, cpu."""


class Status(TypedDict):
    """The whole service."""

    status_version: int
    name: str
    pid: int
    version: str
    state: str
    """starting, serving, degraded, reloading, stopping."""
    since: float
    target: int
    """How many workers there shall be."""
    capacity: int
    """How many serve."""
    addresses: list[str]
    admin_addresses: list[str]
    """Where the admin endpoint is served; two while a reload to another one goes on."""
    operation: OperationStatus | None
    autoscaler: AutoscalerStatus | None
    """null while it is off."""
    rates: RatesStatus
    reloads: ReloadsStatus
    restarts: dict[str, int]
    """Workers that another one took the place of since the service was started, by the cause."""
    generations: list[GenerationStatus]
    stalls: list[StallStatus]
    """The latest first."""
    events: list[EventStatus]
    """The latest decisions and reports, oldest first."""
