"""What the supervisor does, as plain data from `machine`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from outrider_supervisor.messages import ToMaster
from outrider_supervisor.service import Service

READ_TIMEOUT = 60.0
"""Seconds that gunicorn.conf.py may take."""


class Level(Enum):
    """How loud a log line is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Code(Enum):
    """How an operation ended; stable, for scripts."""

    DONE = "done"
    """What was asked for is so."""
    FAILED = "failed"
    """It was tried, and did not work; a reload was rolled back."""
    REFUSED = "refused"
    """Nothing was changed: it can't be done."""
    SUPERSEDED = "superseded"
    """A newer operation of the same kind took its place."""
    STOPPING = "stopping"
    """The service ends."""


@dataclass(frozen=True, slots=True)
class ReadConfiguration:
    """Read the configuration in a child, and open the listeners it names."""


@dataclass(frozen=True, slots=True)
class StartMaster:
    """Start the master of generation `number` with so many workers."""

    number: int
    service: Service
    workers: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to the master of generation `number`."""

    number: int
    message: ToMaster


@dataclass(frozen=True, slots=True)
class Retire:
    """SIGTERM for a worker whose master is gone."""

    pid: int


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL for what is left of generation `number`: its master and these workers."""

    number: int
    workers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeepListeners:
    """Close our copies of all listeners but those of `service`; all of them with None. Its log and pid file count."""

    service: Service | None


@dataclass(frozen=True, slots=True)
class Log:
    """Write a line to the log, and remember it for `status`."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Tell whoever waits for the operation how it goes."""

    operation: int
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The operation is over.

    What explains a failure are the `details`; without them the last log lines of `blamed`, or of the master for 0.
    """

    operation: int
    code: Code
    message: str
    generation: int = 0
    blamed: int = 0
    details: str = ""


class Readiness(Enum):
    """What the service manager is told."""

    READY = "ready"
    RELOADING = "reloading"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the service manager (sd_notify)."""

    readiness: Readiness


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Replace this process by a new supervisor, in place."""


@dataclass(frozen=True, slots=True)
class Exit:
    """End the supervisor with this status."""

    status: int


Action = (
    ReadConfiguration
    | StartMaster
    | Tell
    | Retire
    | Kill
    | KeepListeners
    | Log
    | Progress
    | Finish
    | Notify
    | Upgrade
    | Exit
)
