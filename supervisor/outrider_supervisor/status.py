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


class EventStatus(TypedDict):
    """A line of the supervisor's log."""

    at: float
    level: str
    """info, warning, error."""
    text: str


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
    operation: OperationStatus | None
    generations: list[GenerationStatus]
    events: list[EventStatus]
    """The latest decisions and reports, oldest first."""
