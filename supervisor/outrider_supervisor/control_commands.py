"""The commands that go over the control socket: as data, as a path, and as JSON (version 1 of the interface)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

PREFIX = "/v1/"
STATUS = "status"
JSON = b"application/json"
LINES = b"application/x-ndjson"
"""What commands are answered with: one JSON object a line."""
ALIVE_PERIOD = 5.0
"""Seconds after which a command without news is sent an empty line, which says that the supervisor is alive."""


class CommandError(ValueError):
    """The body of a command is not what it must be; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Begin a new generation; with `canary` false its first worker is not judged."""

    canary: bool = True


@dataclass(frozen=True, slots=True)
class StopService:
    """End the service: when requests are answered, or at once with `fast`."""

    fast: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """Have so many workers, at least one."""

    workers: int


@dataclass(frozen=True, slots=True)
class Recycle:
    """Replace the worker `pid`, or every one, one after the other."""

    pid: int
    """0 for all."""


@dataclass(frozen=True, slots=True)
class Dump:
    """Show what the worker `pid` is doing: stacks, tasks, requests."""

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
    name = next(name for name, form in FORMS.items() if form.kind is type(command))
    return PREFIX + name, json.dumps(fields).encode()


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
    command = FORMS[name].read(fields)
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


class Form(NamedTuple):
    """A command as JSON: which one it is, how the fields of its body are read, and bodies as examples for the docs."""

    kind: type[Command]
    read: Callable[[dict[str, Any]], Command]
    examples: tuple[str, ...]


FORMS: dict[str, Form] = {
    "reload": Form(Reload, lambda fields: Reload(_flag(fields, "canary", default=True)), ('{"canary": true}',)),
    "stop": Form(StopService, lambda fields: StopService(_flag(fields, "fast", default=False)), ('{"fast": false}',)),
    "scale": Form(Scale, lambda fields: Scale(_number(fields, "workers")), ('{"workers": 4}',)),
    "recycle": Form(Recycle, _read_recycle, ('{"pid": 4711}', '{"all": true}')),
    "dump": Form(Dump, lambda fields: Dump(_number(fields, "pid")), ('{"pid": 4711}',)),
    "upgrade": Form(Upgrade, lambda _fields: Upgrade(), ()),
}
NAMES = frozenset(FORMS)
