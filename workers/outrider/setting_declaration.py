"""How a setting is declared: once, as a field of a dataclass that knows its default, its validator and its flag."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from outrider.errors import ConfigurationError


class Flag(NamedTuple):
    """A command line flag: argparse's `action` and `const`, and gunicorn's `meta` (the name of the value).

    `help` is for a flag that does the opposite of what the setting's description says.
    """

    name: str
    meta: str | None = None
    action: str | None = None
    const: object = None
    help: str = ""


def switch_on(name: str) -> Flag:
    """A flag that sets its setting, which is off by default, to True."""
    return Flag(name, action="store_const", const=True)


def switch_off(name: str, help: str) -> Flag:  # noqa: A002  # argparse's name for it
    """A flag that sets its setting, which is on by default, to False; `help` says what is then not done."""
    return Flag(name, action="store_const", const=False, help=help)


def declare(default: object, validator: Callable[[object], object], flag: Flag, description: str) -> Any:
    """Declare one setting. The validator raises ValueError with the words that follow "must be"."""
    return dataclasses.field(
        default=default, metadata={"validator": validator, "flag": flag, "description": description}
    )


def validated(name: str, validator: Callable[[object], object], value: object, source: str) -> Any:
    """Return a setting's value as its validator has it.

    Raises:
        ConfigurationError: the value is not allowed; the message says that it came from `source`.
    """
    try:
        return validator(value)
    except ValueError as error:
        shown = "***" if name.endswith(("password", "token")) else repr(value)
        raise ConfigurationError(f"{name} is {shown} ({source}), but must be {error}") from None
