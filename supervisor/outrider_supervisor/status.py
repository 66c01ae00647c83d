"""What `outrider status --json` says: the stable form of the supervisor's state, for scripts.

docs/reference/control-api.md documents each field with the text below it. Fields may be added; a change of meaning is a
new `STATUS_VERSION`. Moments are Unix times, durations are seconds, memory is bytes. What is not known is null.
"""

from __future__ import annotations

from typing import TypedDict

STATUS_VERSION = 1


class WorkerStatus(TypedDict):
    """One worker. What only the worker itself can say is null where its class keeps no scoreboard row."""

    pid: int
    """Its process."""
    state: str
    """`booting`, `ready`, `draining`, `stuck`."""
    age: float
    """Since its start."""
    in_flight: int | None
    """Requests being answered."""
    connections: int | None
    """Open now."""
    websockets: int | None
    """Open now."""
    requests: int | None
    """Since its start, accepted WebSockets included."""
    errors_5xx: int | None
    """Of these the responses with a 5xx, and the WebSockets that ended with 1011."""
    loop_lag_ms: float | None
    """By how much its event loop was late last, or is."""
    busy: float | None
    """Share of the time in which its event loop ran something, lately, 0 to 1."""
    cpu_percent: float | None
    """Of one core, lately."""
    memory_bytes: int | None
    """As `memory_kind` says."""
    memory_kind: str | None
    """`pss`, or `rss` where that can't be read."""
    heartbeat_age: float | None
    """Since its event loop last ran its timer."""
    last_dump: float | None
    """When its stacks were last written to the log."""
    requests_per_second: float | None
    """In the last 10 s."""
    p99_ms: float | None
    """99th percentile of the durations of its requests in the last 10 s."""


class BackoffStatus(TypedDict):
    """Why a master starts no worker at the moment."""

    failures: int
    """So many workers in a row could not boot, or crashed too often."""
    until: float
    """When the next one is started."""


class GenerationStatus(TypedDict):
    """One master and its workers, oldest first."""

    number: int
    """Counts up from 1."""
    state: str
    """`starting`, `canary`, `rolling`, `current`, `rolling back`, `retiring`."""
    master_pid: int | None
    """Its master's process; null once that has died."""
    since: float
    """When it was started."""
    backoff: BackoffStatus | None
    """null, or why no worker is started at the moment:"""
    workers: list[WorkerStatus]
    """The oldest first:"""


class OperationStatus(TypedDict):
    """What the supervisor is doing."""

    name: str
    """`reload`, `scale`, `recycle`, `upgrade`."""
    since: float | None
    """When it began."""
    progress: str
    """The last line of progress, or empty."""


class RatesStatus(TypedDict):
    """What all workers did in the last 10 seconds; null before there were two looks at them."""

    requests_per_second: float | None
    """Requests that were completed."""
    errors_per_second: float | None
    """Responses with a 5xx."""
    p50_ms: float | None
    """Median of their durations."""
    p99_ms: float | None
    """99th percentile of their durations."""
    in_flight: int
    """Requests being answered now."""


class LastReload(TypedDict):
    """How the last reload ended."""

    outcome: str
    """One of the words above."""
    at: float
    """When it ended."""
    seconds: float
    """How long it took."""


class ReloadsStatus(TypedDict):
    """Reloads since the service was started, by how they ended."""

    committed: int
    """The new generation serves."""
    rolled_back: int
    """The old one serves on."""
    refused: int
    """The configuration could not be used."""
    failed: int
    """It could not be undone: the new generation serves as well as it can."""
    stopped: int
    """The service ended first."""
    last: LastReload | None
    """null, or the last one:"""


class StallStatus(TypedDict):
    """Stalls of event loops in one function, of all workers."""

    frame: str
    """Where the application was blocked the last time: `module.function file:line`."""
    hangs_in: str
    """The innermost frame, in the same form; empty if it is the same."""
    count: int
    """How often."""
    seconds: float
    """Of all of them together."""
    longest: float
    """Of a single one."""
    last: float
    """When the latest one was reported."""
    worker: int
    """Which worker reported it."""
    stack: str
    """Of the latest one that was logged with its stack."""


class EventStatus(TypedDict):
    """A line of the supervisor's log."""

    at: float
    """When."""
    level: str
    """`info`, `warning`, `error`."""
    text: str
    """The line."""


class AutoscalerStatus(TypedDict):
    """What the autoscaler goes by, and what it has decided last."""

    min: int
    """`min_workers`."""
    max: int
    """`max_workers`."""
    target: int
    """How many workers there shall be."""
    demand: float | None
    """Event loops that would be busy all the time, in the last second."""
    utilisation: float | None
    """Share of its time in which a worker that serves was busy then."""
    reason: str
    """Why there shall be so many; empty before the first decision."""
    vetoes: list[str]
    """Why not as many as demand asks for: `reload`, `operation`, `crash backoff`, `booting`, `memory`, `cpu`."""


class Status(TypedDict):
    """The whole service."""

    status_version: int
    """1."""
    name: str
    """The instance's name, gunicorn's `proc_name`."""
    pid: int
    """The supervisor's process."""
    version: str
    """Outrider's, of the supervisor."""
    state: str
    """`starting`, `serving`, `degraded` (too few workers, or they crash), `reloading`, `stopping`."""
    since: float
    """When the service was started."""
    target: int
    """How many workers there shall be."""
    capacity: int
    """How many are ready, of all generations."""
    unreadiness: str
    """Why no requests should be sent here, as `/readyz` says it; empty if they may."""
    addresses: list[str]
    """Where it serves, such as `127.0.0.1:8000`."""
    admin_addresses: list[str]
    """Of the admin endpoint, such as `http://127.0.0.1:9100`; two while a reload to another one goes on."""
    operation: OperationStatus | None
    """null, or what is under way:"""
    autoscaler: AutoscalerStatus | None
    """null while it is off, or what it goes by:"""
    rates: RatesStatus
    """What all workers did in the last 10 s; before there were two looks at them, its numbers are null:"""
    reloads: ReloadsStatus
    """How reloads ended since the service was started:"""
    restarts: dict[str, int]
    """Workers that another one took the place of since then, by cause: `crash`, `boot_failure`, `stuck`, `recycle`,
    `max_requests`, `max_worker_age`, `max_worker_memory`, `reload`."""
    generations: list[GenerationStatus]
    """The oldest first:"""
    stalls: list[StallStatus]
    """The functions that blocked event loops, of all workers, the latest first, 20 at most:"""
    events: list[EventStatus]
    """The latest 100 decisions and reports, the oldest first:"""
