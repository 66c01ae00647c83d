"""The supervisor's own settings: each is declared once, as a field of `SupervisorSettings`.

Importing this module makes each field a gunicorn `Setting`: a flag and a name for gunicorn.conf.py, in the same
section as the worker's. Stock gunicorn does not know them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from outrider import setting_values as check
from outrider.errors import ConfigurationError
from outrider.scoreboard import MOST_WORKERS
from outrider.setting_declaration import Flag, declare, switch_off
from outrider.setting_registration import register
from outrider.settings import ENVIRONMENT_PREFIX
from outrider_supervisor.admin_address import parse_address

_SIZE = re.compile(r"(\d+)([kmg]?)(?:i?b)?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SMALLEST_WORKER = 1 << 20
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]{16,}=*")
TOKEN_VARIABLE = ENVIRONMENT_PREFIX + "ADMIN_TOKEN"
"""The one of the supervisor's settings that may be in the environment: where secrets often are."""


def positive_seconds(value: object) -> float:
    """Validate a time that cannot be switched off."""
    try:
        number = check.seconds(value)
    except ValueError:
        number = 0.0
    if number == 0:
        raise ValueError("a number of seconds above 0")
    return number


def positive_count(value: object) -> int:
    """Validate a whole number that cannot be 0."""
    try:
        number = check.count(value)
    except ValueError:
        number = 0
    if number == 0:
        raise ValueError("a whole number, 1 or more")
    return number


def share(value: object) -> float:
    """Validate a share of a whole that is not nothing."""
    try:
        number = check.seconds(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise ValueError("a number above 0 and at most 1")
    return number


def memory_size(value: object) -> int:
    """Validate a number of bytes, or a text such as 512M. K, M and G are powers of 1024."""
    match = None if isinstance(value, bool) else _SIZE.fullmatch(str(value).strip())
    size = int(match[1]) * _FACTORS[match[2].lower()] if match else -1
    if size and size < _SMALLEST_WORKER:  # 512 is meant to be megabytes, and would recycle every worker at once
        raise ValueError("0, or a size of at least 1M, such as 512M or 2G; a plain number is bytes")
    return size


def bind_address(value: object) -> str:
    """Validate the address of the admin endpoint."""
    given = str(value)
    if given:
        parse_address(given)
    return given


def token(value: object) -> check.Secret:
    """Validate a token as a header can carry it (RFC 6750 §2.1)."""
    if value == "" or (isinstance(value, str) and _TOKEN.fullmatch(value)):
        return check.Secret(value)
    raise ValueError("at least 16 letters, digits and any of -._~+/, such as `openssl rand -hex 32` gives")


def text(value: object) -> str:
    """Validate a text."""
    if isinstance(value, str):
        return value
    raise ValueError("a string")


@dataclasses.dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """The values. Times are seconds, memory is bytes."""

    max_surge: int = declare(
        1,
        positive_count,
        Flag("--max-surge", "WORKERS"),
        "Most workers beyond the target while a reload or a recycling goes on. 1 takes the least memory and rolls "
        "one worker after the other; as many as there are workers starts the new generation whole (blue-green).",
    )
    canary: bool = declare(
        True,
        check.boolean,
        switch_off("--no-canary", "Do not watch the first worker of a reload before the others follow."),
        "Begin a reload with a single worker and compare it with the old generation before the others follow: code "
        "that starts but fails its requests is found this way alone.",
    )
    canary_seconds: float = declare(
        5.0,
        check.seconds,
        Flag("--canary-seconds", "SECONDS"),
        "Shortest time the canary serves. Short enough to wait for, long enough for what breaks in the first "
        "requests. With little traffic it ends after three times as long, 15 s by default. 0 switches the canary off.",
    )
    canary_requests: int = declare(
        20,
        check.count,
        Flag("--canary-requests", "REQUESTS"),
        "Fewest requests the canary answers before it is judged good; from 20 on a share of errors means something.",
    )
    boot_timeout: float = declare(
        60.0,
        positive_seconds,
        Flag("--boot-timeout", "SECONDS"),
        "Longest time a worker may take to become ready, and a master to be up: imports, the lifespan and the "
        "probe. Generous, for a hang is the only thing it is there for; a worker that fails is seen at once.",
    )
    restart_intensity: int = declare(
        5,
        positive_count,
        Flag("--restart-intensity", "FAILURES"),
        "With more failures of workers than this within 60 seconds the service is called degraded. Workers are "
        "restarted all the same, after a pause that grows up to a minute.",
    )
    max_worker_age: float = declare(
        0.0,
        check.seconds,
        Flag("--max-worker-age", "SECONDS"),
        "Replace a worker that is older, up to a tenth earlier so that not all go at once. 0 switches it off: a "
        "sound application needs no restarts.",
    )
    max_worker_memory: int = declare(
        0,
        memory_size,
        Flag("--max-worker-memory", "SIZE"),
        "Replace a worker that stays above this much memory (PSS, or RSS where that cannot be read), such as 512M "
        "or 2G; it is read every 10 s, and counts when three readings in a row are above. 0 switches it off: what is "
        "right depends on the application.",
    )
    stop_delay: float = declare(
        0.0,
        check.seconds,
        Flag("--stop-delay", "SECONDS"),
        "How long a service that is told to stop serves on while `/readyz` says that it is not ready: long enough for "
        "a load balancer on another machine to notice, such as 5. What it would send here later is refused. Not for "
        "`stop --fast`; a second TERM ends it. 0: there is nobody to notice.",
    )

    min_workers: int = declare(
        1,
        positive_count,
        Flag("--min-workers", "WORKERS"),
        "Fewest workers that the autoscaler keeps; see `max_workers`.",
    )
    max_workers: int = declare(
        0,
        check.count,
        Flag("--max-workers", "WORKERS"),
        "Most workers. Turns the autoscaler on: the number of workers follows the load, from `workers` at the start. "
        "0 leaves it as it is.",
    )
    target_utilisation: float = declare(
        0.8,
        share,
        Flag("--target-utilisation", "SHARE"),
        "How busy the workers' event loops shall be. Above 0.8 requests begin to wait for one another; less keeps "
        "more in hand for what comes suddenly.",
    )
    scale_up_window: float = declare(
        3.0,
        positive_seconds,
        Flag("--scale-up-window", "SECONDS"),
        "Time over which the load is measured before workers are added: one look is chance.",
    )
    scale_down_window: float = declare(
        45.0,
        positive_seconds,
        Flag("--scale-down-window", "SECONDS"),
        "Fewer workers must have been enough for this long before one goes. A load that comes back sooner finds them "
        "all; when it did so later, the wait doubles, up to eight times.",
    )
    scale_up_step: int = declare(
        4,
        positive_count,
        Flag("--scale-up-step", "WORKERS"),
        "Most workers that are added at once; as many as there are may be added in any case.",
    )
    admin_bind: str = declare(
        "",
        bind_address,
        Flag("--admin-bind", "ADDRESS"),
        "Address of the admin endpoint: probes, metrics, dashboard; `127.0.0.1:9100`, `[::1]:9100` or `unix:PATH`. Any "
        "other needs a token. Empty: there is none. See docs/reference/metrics.md.",
    )
    admin_token: str = declare(
        "",
        token,
        Flag("--admin-token", "TOKEN"),
        "What clients of the admin endpoint must know, and commands in any case. Other users can see a command line: "
        "better in `admin_token_file`, or in the environment as `OUTRIDER_ADMIN_TOKEN`.",
    )
    admin_token_file: str = declare(
        "",
        text,
        Flag("--admin-token-file", "FILE"),
        "A file that holds the token alone. A reload reads it again.",
    )

    @classmethod
    def from_gunicorn(cls, cfg: Any) -> SupervisorSettings:
        """Take the values from a gunicorn `Config`, which has validated them."""
        return cls(**{name: getattr(cfg, name) for name in _FIELDS})

    def starting_workers(self, workers: int) -> int:
        """How many workers to start with, where `workers` are configured; 1, the default, means no more than needed.

        Raises:
            ConfigurationError: the limits of the autoscaler contradict each other, or that number.
        """
        least, most = self.min_workers, self.max_workers
        for name, number in (("workers", workers), ("max_workers", most)):
            if number > MOST_WORKERS:
                raise ConfigurationError(f"{name} is {number}, but must be at most {MOST_WORKERS}")
        if not most:
            if least != 1:
                raise ConfigurationError(
                    f"min_workers is {least}, but must be 1 without max_workers, which turns the autoscaler on"
                )
            return workers
        if least > most:
            raise ConfigurationError(f"min_workers is {least}, but must be at most max_workers, which is {most}")
        if workers == 1:
            return least
        if not least <= workers <= most:
            limits = f"min_workers and max_workers: {least} to {most}"
            raise ConfigurationError(f"workers is {workers}, but must be between {limits}")
        return workers


_FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(SupervisorSettings)}


def refuse_variables(environ: Mapping[str, str]) -> None:
    """Refuse the supervisor's settings as environment variables, which the worker's may be.

    The supervisor reads its settings again with each reload, but its environment is that of its start.

    Raises:
        ConfigurationError: for the first of them.
    """
    for name, field in _FIELDS.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environ and variable != TOKEN_VARIABLE:
            raise ConfigurationError(
                f"the environment variable {variable} is not read: give {name} in gunicorn.conf.py, or "
                f"{field.metadata['flag'].name} on the command line or in GUNICORN_CMD_ARGS"
            )


register(_FIELDS)
