"""Where the token of the admin endpoint comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrider.errors import ConfigurationError
from outrider.setting_values import Secret
from outrider_supervisor.admin_token import read_token
from outrider_supervisor.settings import SupervisorSettings

TOKEN = "0123456789abcdef"
VARIABLE = {"OUTRIDER_ADMIN_TOKEN": TOKEN}


@pytest.mark.parametrize("source", ["setting", "file", "variable"])
def test_token_is_read(tmp_path: Path, source: str) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    settings = {
        "setting": SupervisorSettings(admin_token=Secret(TOKEN)),
        "file": SupervisorSettings(admin_token_file=str(path)),
        "variable": SupervisorSettings(),
    }
    found = read_token(settings[source], VARIABLE if source == "variable" else {})
    assert type(found) is str
    assert found == TOKEN


@pytest.mark.parametrize("bind", ["", "127.0.0.1:9100", "[::1]:9100", "unix:/run/admin.sock"])
def test_token_is_not_needed_where_only_this_machine_can_connect(bind: str) -> None:
    assert read_token(SupervisorSettings(admin_bind=bind), {}) == ""


@pytest.mark.parametrize("bind", ["0.0.0.0:9100", "[::]:9100", "10.0.0.1:9100", "example.com:9100"])
def test_address_that_others_can_reach_needs_a_token(bind: str) -> None:
    with pytest.raises(ConfigurationError, match=r"admin_bind is '.*', which others can reach, but no admin_token is"):
        read_token(SupervisorSettings(admin_bind=bind), {})
    assert read_token(SupervisorSettings(admin_bind=bind), VARIABLE) == TOKEN


def test_token_that_is_given_twice_is_refused() -> None:
    settings = SupervisorSettings(admin_token=Secret(TOKEN), admin_token_file="token")
    with pytest.raises(ConfigurationError, match="by admin_token and admin_token_file; give it once"):
        read_token(settings, {})


@pytest.mark.parametrize("content", ["", "short", "with a space in the middle", "with\na line break", "ü" * 20])
def test_file_without_a_token_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="admin_token_file") as caught:
        read_token(SupervisorSettings(admin_token_file=str(path)), {})
    assert not content or content not in str(caught.value)


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read: No such file"):
        read_token(SupervisorSettings(admin_token_file=str(tmp_path / "none")), {})


def test_variable_that_is_no_token_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="OUTRIDER_ADMIN_TOKEN: the token must be at least 16") as caught:
        read_token(SupervisorSettings(), {"OUTRIDER_ADMIN_TOKEN": "secret"})
    assert "secret" not in str(caught.value)
