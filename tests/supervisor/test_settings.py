"""The supervisor's settings: declaration, registration with gunicorn, documentation."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from gunicorn import config as gunicorn_config

from outrider.errors import ConfigurationError
from outrider.scoreboard import MOST_WORKERS
from outrider.setting_registration import register
from outrider.setting_values import Secret
from outrider.settings import SUPERVISOR_SETTINGS, OutriderSettings
from outrider_supervisor import settings as settings_module
from outrider_supervisor.settings import SupervisorSettings, refuse_variables

NAMES = [field.name for field in fields(SupervisorSettings)]


@pytest.fixture
def cfg() -> Any:
    return gunicorn_config.Config()


def test_defaults_are_those_of_the_design(cfg: Any) -> None:
    assert (
        SupervisorSettings.from_gunicorn(cfg)
        == SupervisorSettings()
        == SupervisorSettings(
            max_surge=1,
            canary=True,
            canary_seconds=5.0,
            canary_requests=20,
            boot_timeout=60.0,
            restart_intensity=5,
            max_worker_age=0.0,
            max_worker_memory=0,
            min_workers=1,
            max_workers=0,
            target_utilisation=0.8,
            scale_up_window=3.0,
            scale_down_window=45.0,
            scale_up_step=4,
            admin_bind="",
            admin_token=Secret(""),
            admin_token_file="",
        )
    )


def test_registration_adds_each_setting_once_to_the_section_of_the_worker() -> None:
    register(settings_module._FIELDS)
    registered = [each.name for each in gunicorn_config.KNOWN_SETTINGS if each.section == "Outrider"]
    assert sorted(registered) == sorted([*NAMES, *(field.name for field in fields(OutriderSettings))])


def test_import_overrides_no_setting_of_gunicorn_or_the_worker() -> None:
    others = {each.name for each in gunicorn_config.KNOWN_SETTINGS if each.section != "Outrider"}
    assert others.isdisjoint(NAMES)
    assert {field.name for field in fields(OutriderSettings)}.isdisjoint(NAMES)


def test_gunicorn_parses_flags(cfg: Any) -> None:
    flags = ["--max-surge", "4", "--no-canary", "--canary-seconds", "2.5", "--canary-requests", "0"]
    limits = ["--boot-timeout", "9", "--restart-intensity", "3", "--max-worker-age", "60", "--max-worker-memory", "2G"]
    for name, value in vars(cfg.parser().parse_args(flags + limits)).items():
        if value is not None and name != "args":
            cfg.set(name, value)
    assert SupervisorSettings.from_gunicorn(cfg) == SupervisorSettings(4, False, 2.5, 0, 9.0, 3, 60.0, 2 << 30)


def test_gunicorn_parses_the_flags_of_the_autoscaler(cfg: Any) -> None:
    flags = ["--min-workers", "2", "--max-workers", "8", "--target-utilisation", "0.7", "--scale-up-step", "2"]
    windows = ["--scale-up-window", "5", "--scale-down-window", "90"]
    for name, value in vars(cfg.parser().parse_args(flags + windows)).items():
        if value is not None and name != "args":
            cfg.set(name, value)
    own = SupervisorSettings.from_gunicorn(cfg)
    assert (own.min_workers, own.max_workers, own.target_utilisation, own.scale_up_step) == (2, 8, 0.7, 2)
    assert (own.scale_up_window, own.scale_down_window) == (5.0, 90.0)


@pytest.mark.parametrize(
    "least,most,workers,begins_with",
    [
        (1, 0, 5, 5),
        (1, MOST_WORKERS, MOST_WORKERS, MOST_WORKERS),
        (1, 4, 1, 1),
        (2, 4, 1, 2),
        (2, 4, 3, 3),
        (2, 4, 4, 4),
        (3, 3, 3, 3),
    ],
)
def test_service_begins_with_what_is_configured_or_the_fewest(
    least: int, most: int, workers: int, begins_with: int
) -> None:
    assert SupervisorSettings(min_workers=least, max_workers=most).starting_workers(workers) == begins_with


@pytest.mark.parametrize(
    "least,most,workers,complaint",
    [
        (2, 0, 5, "min_workers is 2, but must be 1 without max_workers, which turns the autoscaler on"),
        (1, 0, MOST_WORKERS + 1, f"workers is {MOST_WORKERS + 1}, but must be at most {MOST_WORKERS}"),
        (1, MOST_WORKERS + 1, 1, f"max_workers is {MOST_WORKERS + 1}, but must be at most {MOST_WORKERS}"),
        (4, 3, 1, "min_workers is 4, but must be at most max_workers, which is 3"),
        (2, 3, 9, "workers is 9, but must be between min_workers and max_workers: 2 to 3"),
        (3, 8, 2, "workers is 2, but must be between min_workers and max_workers: 3 to 8"),
    ],
)
def test_limits_that_contradict_each_other_are_refused_in_one_line(
    least: int, most: int, workers: int, complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SupervisorSettings(min_workers=least, max_workers=most).starting_workers(workers)
    assert str(caught.value) == complaint


@pytest.mark.parametrize(
    "value,size",
    [(0, 0), ("0", 0), (1 << 20, 1 << 20), ("512M", 512 << 20), ("2g", 2 << 30), ("2GiB", 2 << 30), ("2048k", 2 << 20)],
)
def test_memory_is_bytes_or_a_size(cfg: Any, value: object, size: int) -> None:
    cfg.set("max_worker_memory", value)
    assert cfg.max_worker_memory == size


@pytest.mark.parametrize(
    "name,value,allowed",
    [
        ("max_surge", 0, "a whole number, 1 or more"),
        ("max_surge", "25%", "a whole number, 1 or more"),
        ("max_surge", True, "a whole number, 1 or more"),
        ("canary", "perhaps", "true or false"),
        ("canary_seconds", -1, "a number of seconds, 0 or more"),
        ("canary_requests", "many", "a whole number, 0 or more"),
        ("boot_timeout", 0, "a number of seconds above 0"),
        ("boot_timeout", "soon", "a number of seconds above 0"),
        ("restart_intensity", 0, "a whole number, 1 or more"),
        ("min_workers", 0, "a whole number, 1 or more"),
        ("max_workers", -1, "a whole number, 0 or more"),
        ("target_utilisation", 0, "a number above 0 and at most 1"),
        ("target_utilisation", 80, "a number above 0 and at most 1"),
        ("target_utilisation", "80%", "a number above 0 and at most 1"),
        ("scale_up_window", 0, "a number of seconds above 0"),
        ("scale_down_window", "1m", "a number of seconds above 0"),
        ("scale_up_step", 0, "a whole number, 1 or more"),
        ("admin_bind", 9100, "empty, host:port (such as 127.0.0.1:9100 or [::1]:9100), or unix:PATH"),
        ("admin_token_file", 7, "a string"),
        ("max_worker_age", "1h", "a number of seconds, 0 or more"),
        ("max_worker_memory", 512, "0, or a size of at least 1M"),
        ("max_worker_memory", -1, "0, or a size of at least 1M"),
        ("max_worker_memory", "1T", "0, or a size of at least 1M"),
        ("max_worker_memory", True, "0, or a size of at least 1M"),
        ("max_worker_memory", None, "0, or a size of at least 1M"),
    ],
)
def test_bad_value_is_refused_in_one_line(cfg: Any, name: str, value: object, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        cfg.set(name, value)
    message = str(caught.value)
    assert message.startswith(f"{name} is {value!r} (gunicorn's configuration), but must be {allowed}")
    assert "\n" not in message


def test_environment_variable_is_refused_with_the_way_to_give_the_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"OUTRIDER_CANARY is not read: give canary in .* or --no-canary on"):
        refuse_variables({"OUTRIDER_CANARY": "0"})


def test_worker_knows_which_settings_are_the_supervisors() -> None:
    assert set(NAMES) - {"admin_token"} == SUPERVISOR_SETTINGS


def test_token_may_be_a_variable() -> None:
    refuse_variables({"OUTRIDER_ADMIN_TOKEN": "x"})
    with pytest.raises(ConfigurationError, match="OUTRIDER_ADMIN_TOKEN_FILE is not read"):
        refuse_variables({"OUTRIDER_ADMIN_TOKEN_FILE": "x"})


def test_token_is_not_shown(cfg: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^admin_token is \*\*\* \(gunicorn's configuration\), but must be at"
    ) as caught:
        cfg.set("admin_token", "hush")
    assert "hush" not in str(caught.value)
    cfg.set("admin_token", "0123456789abcdef")
    assert "0123456789abcdef" not in str(cfg)
    assert "0123456789abcdef" not in repr(SupervisorSettings.from_gunicorn(cfg))


def test_other_variables_are_left_alone() -> None:
    refuse_variables({"OUTRIDER_HEADER_TIMEOUT": "3", "MAX_SURGE": "1"})
