"""The commands that go over the control socket: as data, as a path, and as JSON (version 1 of the interface).

- `POST /v1/reload` `{"canary": bool}`, default true: judge a canary if the configuration has one
- `POST /v1/stop` `{"fast": bool}`, default false: drain first
- `POST /v1/scale` `{"workers": int}`
- `POST /v1/recycle` `{"pid": int}` or `{"all": true}`
- `POST /v1/dump` `{"pid": int}`
- `POST /v1/upgrade` `{}`
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

PREFIX = "/v1/"
STATUS = "status"
"""The one resource that is no command: GET /v1/status."""
JSON = b"application/json"
LINES = b"application/x-ndjson"
"""What commands are answered with: one JSON object a line."""
ALIVE_PERIOD = 5.0
"""Seconds after which a command without news is sent an empty line, which says that the supervisor is alive."""


class CommandError(ValueError):
    """The body of a command is not what it must be; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Reload:
    """A new generation; without `canary` its first worker is not judged."""

    canary: bool = True


@dataclass(frozen=True, slots=True)
class StopService:
    """The end of the service: drained, or at once with `fast`."""

    fast: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """So many workers, at least one."""

    workers: int


@dataclass(frozen=True, slots=True)
class Recycle:
    """Replace the worker `pid`, or every one with 0."""

    pid: int


@dataclass(frozen=True, slots=True)
class Dump:
    """What the worker `pid` is doing: stacks, tasks, requests."""

    pid: int


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Replace the supervisor itself, in place."""


Command = Reload | StopService | Scale | Recycle | Dump | Upgrade


def encode(command: Command) -> tuple[str, bytes]:
    """Path and body of the request that carries `command`."""
    fields: dict[str, Any] = asdict(command)
    if command == Recycle(0):
        fields = {"all": True}
    return PREFIX + _NAMES[type(command)], json.dumps(fields).encode()


def decode(name: str, body: bytes) -> Command:
    """The command `name` (one of `NAMES`) with the fields that the JSON in `body` gives; an empty body gives none.

    Raises:
        CommandError: the body is no JSON object, or has other fields than the command's.
    """
    try:
        fields = json.loads(body) if body.strip() else {}
    except ValueError as error:
        raise CommandError(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise CommandError("the body is nested too deeply") from error
    if not isinstance(fields, dict):
        raise CommandError("the body must be a JSON object")
    command = _READERS[name](fields)
    if fields:
        raise CommandError(f"unknown field {next(iter(fields))!r} for {name}")
    return command


def _flag(fields: dict[str, Any], name: str, *, default: bool) -> bool:
    value = fields.pop(name, default)
    if not isinstance(value, bool):
        raise CommandError(f"{name}={value!r}: it must be true or false")
    return value


def _number(fields: dict[str, Any], name: str) -> int:
    value = fields.pop(name, None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        given = "is missing" if value is None else f"is {json.dumps(value)}"
        raise CommandError(f"{name} {given}: it must be a whole number from 1")
    return value


def _read_recycle(fields: dict[str, Any]) -> Recycle:
    if "all" in fields and "pid" in fields:
        raise CommandError("pid and all exclude each other")
    if "pid" not in fields and not fields.get("all"):
        raise CommandError('give {"pid": NUMBER} or {"all": true}')
    return Recycle(0) if _flag(fields, "all", default=False) else Recycle(_number(fields, "pid"))


_READERS: dict[str, Callable[[dict[str, Any]], Command]] = {
    "reload": lambda fields: Reload(_flag(fields, "canary", default=True)),
    "stop": lambda fields: StopService(_flag(fields, "fast", default=False)),
    "scale": lambda fields: Scale(_number(fields, "workers")),
    "recycle": _read_recycle,
    "dump": lambda fields: Dump(_number(fields, "pid")),
    "upgrade": lambda _fields: Upgrade(),
}
NAMES = frozenset(_READERS)
_NAMES: dict[type[Command], str] = {
    Reload: "reload",
    StopService: "stop",
    Scale: "scale",
    Recycle: "recycle",
    Dump: "dump",
    Upgrade: "upgrade",
}
