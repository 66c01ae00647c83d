"""How a declared setting becomes one of gunicorn's: a flag and a name for gunicorn.conf.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gunicorn import config as gunicorn_config

from outrider.setting_declaration import validated

SECTION = "Outrider"


def _initialise(setting: Any) -> None:
    setting.times_set = 0
    setting.value = setting.validator(setting.default)


def _set(setting: Any, value: object) -> None:
    setting.times_set += 1
    setting.value = setting.validator(value)


def _add_option(setting: Any, parser: Any) -> None:
    if not setting.flag.help:
        gunicorn_config.Setting.add_option(setting, parser)
        return
    # gunicorn's way would add the default of the setting, which is not that of the flag.
    flag = setting.flag
    parser.add_argument(flag.name, dest=setting.name, action=flag.action, const=flag.const, help=flag.help)


def _register(field: dataclasses.Field[Any]) -> None:
    """Make the field a gunicorn setting: creating the class adds it to gunicorn's KNOWN_SETTINGS."""
    flag = field.metadata["flag"]
    name = field.name
    validate = field.metadata["validator"]
    attributes = {
        "name": name,
        "section": SECTION,
        "flag": flag,
        "cli": [flag.name],
        "meta": flag.meta,
        "action": flag.action,
        "const": flag.const,
        "validator": lambda value: validated(name, validate, value, "gunicorn's configuration"),
        "default": field.default,
        "desc": field.metadata["description"],
        "__init__": _initialise,
        "set": _set,
        "add_option": _add_option,
    }
    base = gunicorn_config.Setting
    type(base)(f"Outrider{name.title().replace('_', '')}", (base,), attributes)


def register(fields: Mapping[str, dataclasses.Field[Any]]) -> None:
    """Make settings that were declared with `declare` gunicorn's, unless it has them."""
    known = {setting.name for setting in gunicorn_config.KNOWN_SETTINGS}
    for name, field in fields.items():
        if name not in known:
            _register(field)
