"""What happens to the supervisor, as plain data for `machine`. What a master says is in `messages`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from outrider_supervisor.messages import FromMaster
from outrider_supervisor.service import Service


@dataclass(frozen=True, slots=True)
class Started:
    """The supervisor has read the configuration for the first time and holds its listeners."""

    service: Service


@dataclass(frozen=True, slots=True)
class ReloadAsked:
    """Somebody wants a new generation. `operation` names the asker; 0 is a signal, which nobody waits for."""

    operation: int
    canary: bool


@dataclass(frozen=True, slots=True)
class ScaleAsked:
    """Somebody wants `workers`, or with `relative` so many more or fewer."""

    operation: int
    workers: int
    relative: bool = False


@dataclass(frozen=True, slots=True)
class RecycleAsked:
    """Somebody wants workers replaced: one by its pid, or all with 0."""

    operation: int
    pid: int


@dataclass(frozen=True, slots=True)
class UpgradeAsked:
    """Somebody wants the supervisor itself replaced."""

    operation: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The service shall end: drained, or at once with `fast`."""

    operation: int
    fast: bool


@dataclass(frozen=True, slots=True)
class ConfigurationRead:
    """A child has read the configuration for the reload that waits for it."""

    service: Service


@dataclass(frozen=True, slots=True)
class ConfigurationRefused:
    """The configuration cannot be used, or its listeners cannot be opened. `details` is a traceback, or empty."""

    reason: str
    details: str = ""


@dataclass(frozen=True, slots=True)
class UpgradeFailed:
    """The new supervisor would not start; this one goes on. `details` is its traceback, or empty."""

    reason: str
    details: str = ""


@dataclass(frozen=True, slots=True)
class FromGeneration:
    """A message of the master of generation `number`."""

    number: int
    message: FromMaster


@dataclass(frozen=True, slots=True)
class MasterExited:
    """The master of generation `number` is gone; `how` reads on from "the master "."""

    number: int
    how: str


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """The kernel says that a worker is gone. Counts where its master is gone as well and cannot say so."""

    pid: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One worker's row of the scoreboard, and its memory where that was looked at (otherwise None)."""

    requests: int
    errors: int
    lag: float
    """Seconds: of the last tick, or since the last heartbeat where that is longer overdue."""
    memory: int | None = None
    accepts: bool = False
    """Whether it takes new connections; False where its row does not say so."""


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the time since the last look one worker was at work."""

    cpu: float
    """Cores: more than 1 with threads that do not need the interpreter lock."""
    busy: float
    """Of its event loop, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Load:
    """What was measured of the whole pool since the last look, about a second ago. None is not known."""

    workers: Mapping[int, Share]
    """By pid, of those that served all the time."""
    requests_per_second: float
    backlog: int | None
    """Connections that wait to be accepted."""
    cores: float
    """How many the service may use."""
    memory_room: int | None
    """Bytes that may still be used."""
    worker_memory: int | None
    """Bytes that a worker takes."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A look at the scoreboard: samples by pid. It also stands for the passing of time."""

    samples: Mapping[int, Sample]
    load: Load | None = None
    """Only where the number of workers is scaled by it, once a second."""


Event = (
    Started
    | ReloadAsked
    | ScaleAsked
    | RecycleAsked
    | UpgradeAsked
    | StopAsked
    | ConfigurationRead
    | ConfigurationRefused
    | UpgradeFailed
    | FromGeneration
    | MasterExited
    | WorkerGone
    | Observed
)
