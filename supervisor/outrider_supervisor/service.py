"""What the supervisor knows of a service: plain data that a short-lived child has read from its configuration."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from outrider.errors import ConfigurationError

Address = tuple[str, int] | str | int
"""A bind as gunicorn has it: host and port, a unix socket's path (abstract with a leading NUL), a descriptor."""


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """One reading of the configuration. Times are seconds, memory is bytes; 0 switches a limit off."""

    name: str
    """The instance's name: gunicorn's proc_name."""
    application: str
    worker_class: str
    reports_state: bool
    """Whether the workers keep a scoreboard row themselves: UvicornWorker and its subclasses do."""
    addresses: tuple[Address, ...]
    backlog: int
    umask: int
    uid: int
    gid: int
    workers: int
    graceful_timeout: float
    boot_timeout: float
    canary: bool
    canary_seconds: float
    canary_requests: int
    max_surge: int
    restart_intensity: int
    max_requests: int
    max_requests_jitter: int
    max_worker_age: float
    max_worker_memory: int
    preload: bool
    directory: str
    """The working directory after `chdir`."""
    pidfile: str | None
    errorlog: str
    """Path of gunicorn's error log, or "-" for stderr."""
    loglevel: str
    log_format: str = "auto"
    """Outrider's setting: "auto", "text" or "json"."""
    timeout: float = 30.0
    """Seconds without a heartbeat after which the master kills a worker."""
    stop_delay: float = 0.0
    min_workers: int = 1
    max_workers: int = 0
    """0: the number of workers is not scaled."""
    target_utilisation: float = 0.8
    scale_up_window: float = 3.0
    scale_down_window: float = 45.0
    scale_up_step: int = 4
    admin_bind: str = ""
    """Address of the admin endpoint as it was given; empty without one."""
    admin_token: str = dataclasses.field(default="", repr=False)
    notes: tuple[str, ...] = ()
    """What the user should know about this configuration, a sentence each."""

    def to_json(self) -> str:
        """Write it as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Service:
        """Read what `to_json` wrote."""
        return cls.from_fields(json.loads(text))

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Service:
        """Make one of its fields as JSON has them: without tuples."""
        addresses = tuple(tuple(each) if isinstance(each, list) else each for each in fields["addresses"])
        return cls(**{**fields, "addresses": addresses, "notes": tuple(fields["notes"])})


class ServiceRefused(ConfigurationError):
    """The configuration cannot be used.

    Attributes:
        reason: one sentence for the user.
        details: the traceback of the user's code, what it has printed, or nothing.
    """

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(f"{reason}\n{details}".rstrip())
        self.reason = reason
        self.details = details

    def to_json(self) -> str:
        """Write it as JSON."""
        return json.dumps({"reason": self.reason, "details": self.details})

    @classmethod
    def from_json(cls, text: str) -> ServiceRefused:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        fields = json.loads(text)
        return cls(str(fields["reason"]), str(fields["details"]))
