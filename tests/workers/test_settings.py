"""Outrider's settings: declaration, registration with gunicorn, and where their values come from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from types import ModuleType
from typing import Any

import pytest
from gunicorn import config as gunicorn_config

from outrider import settings as settings_module
from outrider.errors import ConfigurationError
from outrider.setting_registration import register
from outrider.settings import (
    SUPERVISOR_SETTINGS,
    OutriderSettings,
    load_settings,
    validate_setting,
)

NAMES = [field.name for field in fields(OutriderSettings)]
NO_VARIABLES: dict[str, str] = {}


@pytest.fixture
def cfg() -> Any:
    """Return a Config that knows our settings, as it does after HUP and under the supervisor."""
    return gunicorn_config.Config()


@pytest.fixture
def stock_cfg(cfg: Any) -> Any:
    """Return a Config as stock gunicorn makes it, before it imports the worker class."""
    for name in NAMES:
        del cfg.settings[name]
    return cfg


@pytest.fixture
def config_file(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return the module that gunicorn makes of gunicorn.conf.py."""
    module = ModuleType("__config__")
    monkeypatch.setitem(sys.modules, "__config__", module)
    return module


@pytest.fixture(autouse=True)
def no_config_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "__config__", raising=False)


def test_load_settings_returns_defaults(cfg: Any, stock_cfg: Any) -> None:
    assert load_settings(stock_cfg, NO_VARIABLES) == OutriderSettings()
    assert load_settings(cfg, NO_VARIABLES) == OutriderSettings()


def test_defaults_are_those_of_the_design() -> None:
    assert OutriderSettings() == OutriderSettings(
        header_timeout=10.0,
        body_timeout=30.0,
        min_body_rate=240,
        write_timeout=30.0,
        stall_warning=1.0,
        probe_path="",
        server_header=True,
        date_header=True,
        response_headers=(),
        drain_linger=2.0,
        accept_gate=True,
        limit_concurrency=0,
        reset_contextvars=False,
        app_factory=False,
    )


def test_settings_refuse_assignment() -> None:
    with pytest.raises(FrozenInstanceError):
        OutriderSettings().header_timeout = 1.0  # type: ignore[misc]  # the refusal is what is tested


@pytest.mark.parametrize("name", NAMES)
def test_default_passes_its_validator(name: str) -> None:
    default = getattr(OutriderSettings(), name)
    assert validate_setting(name, default, "the default") == default


# -- registration with gunicorn


def test_registration_adds_each_setting_once() -> None:
    register(settings_module._FIELDS)
    registered = [setting.name for setting in gunicorn_config.KNOWN_SETTINGS if setting.name in NAMES]
    assert registered == NAMES


def test_import_overrides_no_setting_of_gunicorn() -> None:
    others = {setting.name for setting in gunicorn_config.KNOWN_SETTINGS if setting.section != "Outrider"}
    assert others.isdisjoint(NAMES)


def test_gunicorn_parses_flags(cfg: Any) -> None:
    flags = ["--header-timeout", "3", "--no-server-header", "--app-factory"]
    headers = ["--response-header", "X-A: 1", "--response-header", "X-B: 2"]
    arguments = cfg.parser().parse_args(flags + headers)
    for name, value in vars(arguments).items():
        if value is not None and name != "args":
            cfg.set(name, value)
    settings = load_settings(cfg, NO_VARIABLES)
    assert settings.header_timeout == 3.0
    assert settings.server_header is False
    assert settings.date_header is True
    assert settings.app_factory is True
    assert settings.response_headers == ((b"X-A", b"1"), (b"X-B", b"2"))


def test_help_of_a_negative_flag_says_what_is_not_done(cfg: Any) -> None:
    text = " ".join(cfg.parser().format_help().split())
    assert "--no-server-header Send no `server: outrider`. --no-date-header Send no `date`. --response" in text
    assert "--no-accept-gate Do not spread" in text
    assert "--app-factory Call the application object without arguments to get the ASGI application. [False]" in text


def test_gunicorn_refuses_bad_value_by_name(cfg: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^header_timeout is 'soon' .* must be a number of seconds"):
        cfg.set("header_timeout", "soon")


# -- precedence


def test_environment_gives_value(stock_cfg: Any) -> None:
    environ = {"OUTRIDER_HEADER_TIMEOUT": "2.5", "OUTRIDER_ACCEPT_GATE": "off", "PATH": "/bin"}
    settings = load_settings(stock_cfg, environ)
    assert settings.header_timeout == 2.5
    assert settings.accept_gate is False


def test_config_file_gives_value(stock_cfg: Any, config_file: Any) -> None:
    config_file.probe_path = "/health"
    assert load_settings(stock_cfg, NO_VARIABLES).probe_path == "/health"


def test_config_module_gives_value(stock_cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("my.conf")
    module.drain_linger = 7
    monkeypatch.setitem(sys.modules, "my.conf", module)
    stock_cfg.set("config", "python:my.conf")
    assert load_settings(stock_cfg, NO_VARIABLES).drain_linger == 7.0


def test_configuration_without_a_file_gives_nothing(stock_cfg: Any) -> None:
    stock_cfg.set("config", None)
    assert load_settings(stock_cfg, NO_VARIABLES) == OutriderSettings()


def test_environment_wins_over_config_file(stock_cfg: Any, config_file: Any) -> None:
    config_file.header_timeout = 5
    assert load_settings(stock_cfg, {"OUTRIDER_HEADER_TIMEOUT": "3"}).header_timeout == 3.0


def test_environment_wins_over_config_file_after_hup(cfg: Any, config_file: Any) -> None:
    config_file.header_timeout = 5
    cfg.set("header_timeout", 5)  # gunicorn knows the name by now, and sets what the file says
    assert load_settings(cfg, {"OUTRIDER_HEADER_TIMEOUT": "3"}).header_timeout == 3.0
    assert load_settings(cfg, NO_VARIABLES).header_timeout == 5.0


def test_command_line_wins_over_environment_and_file(cfg: Any, config_file: Any) -> None:
    config_file.header_timeout = 5
    cfg.set("header_timeout", 5)
    cfg.set("header_timeout", "4")
    assert load_settings(cfg, {"OUTRIDER_HEADER_TIMEOUT": "3"}).header_timeout == 4.0


def test_command_line_wins_without_a_file(cfg: Any) -> None:
    cfg.set("header_timeout", "10")
    assert load_settings(cfg, {"OUTRIDER_HEADER_TIMEOUT": "3"}).header_timeout == 10.0


def test_overrides_win_over_everything(cfg: Any, config_file: Any) -> None:
    config_file.server_header = True
    cfg.set("server_header", "true")
    settings = load_settings(cfg, {"OUTRIDER_SERVER_HEADER": "true"}, {"server_header": False})
    assert settings.server_header is False


# -- refusals


@pytest.mark.parametrize(
    "variable,value",
    [("OUTRIDER_HEADER_TIMEOUT", "-1"), ("OUTRIDER_PROBE_PATH", "x\ny"), ("OUTRIDER_APP_FACTORY", "")],
)
def test_bad_variable_is_refused_in_one_line(stock_cfg: Any, variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"environment variable {variable}") as caught:
        load_settings(stock_cfg, {variable: value})
    message = str(caught.value)
    assert message.startswith(variable.removeprefix("OUTRIDER_").lower())
    assert repr(value) in message
    assert "but must be " in message
    assert "\n" not in message


def test_bad_value_in_config_file_is_refused(stock_cfg: Any, config_file: Any) -> None:
    config_file.limit_concurrency = -5
    with pytest.raises(ConfigurationError, match=r"^limit_concurrency is -5 \(gunicorn's configuration file\)"):
        load_settings(stock_cfg, NO_VARIABLES)


def test_bad_override_is_refused(stock_cfg: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"date_header is 'x' \(CONFIG_KWARGS\)"):
        load_settings(stock_cfg, NO_VARIABLES, {"date_header": "x"})


def test_unknown_override_is_refused(stock_cfg: Any) -> None:
    with pytest.raises(ConfigurationError, match="did you mean date_header"):
        load_settings(stock_cfg, NO_VARIABLES, {"dateheader": True})


def test_misspelt_variable_is_refused_with_a_suggestion(stock_cfg: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"OUTRIDER_HEADERTIMEOUT .*mean OUTRIDER_HEADER_TIMEOUT\?$"):
        load_settings(stock_cfg, {"OUTRIDER_HEADERTIMEOUT": "3"})


def test_unknown_variable_is_refused_with_the_list(stock_cfg: Any) -> None:
    with pytest.raises(ConfigurationError, match="there are: OUTRIDER_HEADER_TIMEOUT, OUTRIDER_BODY_TIMEOUT"):
        load_settings(stock_cfg, {"OUTRIDER_" + "Z" * 30: "1"})


@pytest.mark.parametrize(
    "variable, instead",
    [
        ("OUTRIDER_WEBSOCKET_MAX_MESSAGE_SIZE", "--websocket-max-message-size, or websocket_max_message_size in "),
        ("OUTRIDER_HTTP_PROTOCOLS", "--http-protocols, or http_protocols in "),
        ("OUTRIDER_WORKERS", "--workers, or workers in "),
        ("OUTRIDER_WHEN_READY", "when_ready in "),
    ],
)
def test_variable_for_gunicorn_is_refused_with_its_flag(stock_cfg: Any, variable: str, instead: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(stock_cfg, {variable: "1"})
    name = variable.removeprefix("OUTRIDER_").lower()
    assert str(caught.value) == (
        f"the environment variable {variable} is not read: {name} is gunicorn's own; use {instead}gunicorn.conf.py"
    )


@pytest.mark.parametrize("setting", sorted(SUPERVISOR_SETTINGS))
def test_variable_for_the_supervisor_is_refused_with_where_it_belongs(stock_cfg: Any, setting: str) -> None:
    variable = f"OUTRIDER_{setting.upper()}"
    with pytest.raises(ConfigurationError) as caught:
        load_settings(stock_cfg, {variable: "1"})
    assert str(caught.value) == (
        f"the environment variable {variable} is not read: {setting} is a flag of `outrider run` "
        "and a name in gunicorn.conf.py"
    )


@pytest.mark.parametrize(
    "variable",
    [
        "OUTRIDER_ADMIN_TOKEN",
        "OUTRIDER_SCOREBOARD_FD",
        "OUTRIDER_SOAK",
        "OUTRIDER_SUPERVISOR_STATE",
        "OUTRIDER_SERVICE_HOST",
        "OUTRIDER_SERVICE_PORT_HTTP",
        "OUTRIDER_PORT",
        "OUTRIDER_WEB_PORT_8000_TCP_ADDR",
    ],
)
def test_reserved_variable_is_left_alone(stock_cfg: Any, variable: str) -> None:
    assert load_settings(stock_cfg, {variable: "x"}) == OutriderSettings()


def test_password_is_not_printed_with_the_configuration(cfg: Any) -> None:
    cfg.set("keyfile_password", "hunter2")
    assert load_settings(cfg, {}).keyfile_password == "hunter2"
    assert "hunter2" not in str(cfg)
