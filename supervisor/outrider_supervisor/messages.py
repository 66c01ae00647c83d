"""What the supervisor and a master say to each other: one JSON object a datagram, over an inherited socketpair.

The supervisor states targets and never counts signals; the master reports each step in the life of its workers.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

MOST_BYTES = 65536
"""Size of the largest message. The texts in them are cut to fit."""
ALIVE_PERIOD = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class SetTarget:
    """Run so many workers: spawn what is missing, retire the oldest of what is too much."""

    workers: int


@dataclasses.dataclass(frozen=True, slots=True)
class Replace:
    """Spawn a worker, and retire `pid` once that one is ready. Unknown or retiring pids are ignored."""

    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class ReplaceAtOnce:
    """Retire `pid` now, before there is another one in its place. Unknown or retiring pids are ignored."""

    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """Close the listeners, end every worker (drain, or at once with `fast`), and exit with 0."""

    fast: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ReopenLogs:
    """Reopen the log files, here and in the workers."""


@dataclasses.dataclass(frozen=True, slots=True)
class MasterBooted:
    """The configuration holds, a preloaded application is imported; the first workers are about to be spawned."""


@dataclasses.dataclass(frozen=True, slots=True)
class MasterFailed:
    """The master cannot go on, and exits. `reason` is one sentence, `details` the traceback or empty."""

    reason: str
    details: str


@dataclasses.dataclass(frozen=True, slots=True)
class Alive:
    """The master's loop runs. It says so every `ALIVE_PERIOD` seconds."""


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerSpawned:
    """A worker was forked; `replaces` is the pid that is retired when it is ready, or 0."""

    pid: int
    replaces: int


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerReady:
    """The worker serves."""

    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerRetiring:
    """The worker was told to drain, or began to by itself: it is no capacity any more."""

    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerStuck:
    """The worker's loop has been silent for longer than `timeout`; it is aborted, with a dump, and replaced."""

    pid: int
    silent: float


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerExited:
    """The worker is gone.

    `how` reads on from "worker 123 ": "exited with code 3 (failed to boot)", "was killed by SIGSEGV", "took longer
    than boot_timeout (60 s)". `expected` says that it had been retired, or replaced itself.
    """

    pid: int
    how: str
    expected: bool
    was_ready: bool


@dataclasses.dataclass(frozen=True, slots=True)
class BackingOff:
    """So many workers in a row failed: the next one is spawned after `seconds`."""

    failures: int
    seconds: float


ToMaster = SetTarget | Replace | ReplaceAtOnce | Stop | ReopenLogs
FromMaster = (
    MasterBooted
    | MasterFailed
    | Alive
    | WorkerSpawned
    | WorkerReady
    | WorkerRetiring
    | WorkerStuck
    | WorkerExited
    | BackingOff
)

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (*ToMaster.__args__, *FromMaster.__args__)}


def encode(message: ToMaster | FromMaster) -> bytes:
    """The message as one datagram of at most `MOST_BYTES`.

    Where it is too long `details` loses its beginning, and if that is not enough another text its end.
    """
    fields = {"type": type(message).__name__, **dataclasses.asdict(message)}
    while True:
        data = json.dumps(fields).encode()
        surplus = len(data) - MOST_BYTES
        if surplus <= 0:
            return data
        name = "details" if fields.get("details") else max(fields, key=lambda each: len(str(fields[each])))
        text = fields[name]
        # Characters may take several bytes, by their escapes: as many as these take on average.
        cut = 1 + surplus * len(text) // len(json.dumps(text))
        fields[name] = text[cut:] if name == "details" else text[:-cut]


def decode(data: bytes) -> Any:
    """The message in a datagram.

    Raises:
        ValueError: it is none of this version.
    """
    try:
        fields = json.loads(data)
        return _KINDS[fields.pop("type")](**fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a message between supervisor and master: {data[:200]!r}") from error
