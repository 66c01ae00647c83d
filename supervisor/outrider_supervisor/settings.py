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
from outrider.setting_declaration import Flag, declare, switch_off
from outrider.settings import ENVIRONMENT_PREFIX, register

_SIZE = re.compile(r"(\d+)([kmg]?)(?:i?b)?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SMALLEST_WORKER = 1 << 20


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


def memory_size(value: object) -> int:
    """Validate a number of bytes, or a text such as 512M. K, M and G are powers of 1024."""
    match = None if isinstance(value, bool) else _SIZE.fullmatch(str(value).strip())
    size = int(match[1]) * _FACTORS[match[2].lower()] if match else -1
    if size and size < _SMALLEST_WORKER:  # 512 is meant to be megabytes, and would recycle every worker at once
        raise ValueError("0, or a size of at least 1M, such as 512M or 2G; a plain number is bytes")
    return size


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

    @classmethod
    def from_gunicorn(cls, cfg: Any) -> SupervisorSettings:
        """Take the values from a gunicorn `Config`, which has validated them."""
        return cls(**{name: getattr(cfg, name) for name in _FIELDS})


_FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(SupervisorSettings)}


def refuse_variables(environ: Mapping[str, str]) -> None:
    """Refuse the supervisor's settings as environment variables, which the worker's may be.

    The supervisor reads its settings again with each reload, but its environment is that of its start.

    Raises:
        ConfigurationError: for the first of them.
    """
    for name, field in _FIELDS.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environ:
            raise ConfigurationError(
                f"the environment variable {variable} is not read: give {name} in gunicorn.conf.py, or "
                f"{field.metadata['flag'].name} on the command line or in GUNICORN_CMD_ARGS"
            )


def render_supervisor_table() -> str:
    """The supervisor's settings as a Markdown table, for docs/settings.md."""
    lines = ["| Setting | Default | Flag | What it does |", "|---|---|---|---|"]
    for name, field in _FIELDS.items():
        flag = field.metadata["flag"]
        shown = f"{flag.name} {flag.meta}" if flag.meta else flag.name
        lines.append(f"| `{name}` | `{field.default!r}` | `{shown}` | {field.metadata['description']} |")
    return "\n".join(lines) + "\n"


register(_FIELDS)
