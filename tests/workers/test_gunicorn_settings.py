"""gunicorn's settings: each is classified, documented, and refused where it cannot be honoured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import KNOWN_SETTINGS, Config

from outrider import gunicorn_settings
from outrider.errors import ConfigurationError
from outrider.gunicorn_settings import ARBITER_ONLY, HONOURED, REFUSED, WITHOUT_EFFECT, refuse_unsupported

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
GUNICORN_SETTINGS = {setting.name for setting in KNOWN_SETTINGS if setting.section != "Outrider"}
SECTIONS: dict[str, frozenset[str]] = {
    "### Honoured": HONOURED,
    "### Refused": frozenset(REFUSED),
    "### Without effect": WITHOUT_EFFECT,
    "### The master's": ARBITER_ONLY,
}


@pytest.fixture
def cfg() -> Any:
    return Config()


def documented(section: str) -> list[str]:
    """Return the names in the first column of the section's table."""
    text = DOCS.read_text(encoding="utf-8")
    _, _, rest = text.partition(f"\n{section}\n")
    rows = re.findall(r"^\| (`[^|]*) \|", rest.partition("\n### ")[0], re.MULTILINE)
    return re.findall(r"`(\w+)`", " ".join(rows))


def test_every_setting_of_gunicorn_is_classified() -> None:
    assert HONOURED | ARBITER_ONLY | WITHOUT_EFFECT | set(REFUSED) == GUNICORN_SETTINGS


def test_no_setting_is_classified_twice() -> None:
    classes = [*HONOURED, *ARBITER_ONLY, *WITHOUT_EFFECT, *REFUSED]
    assert len(classes) == len(set(classes))


@pytest.mark.parametrize("section", list(SECTIONS))
def test_docs_name_each_setting_once(section: str) -> None:
    assert sorted(documented(section)) == sorted(SECTIONS[section])


def test_defaults_are_not_refused(cfg: Any) -> None:
    refuse_unsupported(cfg)


@pytest.mark.parametrize(
    "name,value",
    [
        ("http_parser", "fast"),
        ("http_parser", "auto"),
        ("http_protocols", "h1"),
        ("http_protocols", "h2,h1"),
        ("protocol", "http"),
    ],
)
def test_allowed_value_is_not_refused(cfg: Any, name: str, value: object) -> None:
    cfg.set(name, value)
    refuse_unsupported(cfg)


REFUSED_VALUES = [
    ("casefold_http_method", True),
    ("permit_obsolete_folding", True),
    ("permit_unconventional_http_method", True),
    ("permit_unconventional_http_version", True),
    ("strip_header_spaces", True),
    ("protocol", "uwsgi"),
    ("http_parser", "python"),
    ("http2_cleartext", "upgrade"),
    ("ssl_version", "TLSv1_2"),
    ("suppress_ragged_eofs", False),
]


@pytest.mark.parametrize("name,value", REFUSED_VALUES)
def test_unsupported_value_is_refused_in_one_line(cfg: Any, name: str, value: object) -> None:
    cfg.set(name, value)
    with pytest.raises(ConfigurationError) as caught:
        refuse_unsupported(cfg)
    message = str(caught.value)
    assert message.startswith(f"{name} is {getattr(cfg, name)!r}, but outrider.UvicornWorker allows only ")
    assert "\n" not in message


def test_http2_without_its_library_is_refused(cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn_settings, "find_spec", lambda _: None)
    refuse_unsupported(cfg)
    cfg.set("http_protocols", "h2,h1")
    with pytest.raises(
        ConfigurationError, match=r"^http_protocols includes h2, .* ngh2 is missing: install outrider\[http2\]"
    ):
        refuse_unsupported(cfg)


@pytest.mark.parametrize("tls", [{}, {"certfile": "a.crt", "keyfile": "a.key"}])
def test_http2_without_tls_needs_http2(cfg: Any, tls: dict[str, str]) -> None:
    for name, value in tls.items():
        cfg.set(name, value)
    cfg.set("http2_cleartext", "prior-knowledge")
    with pytest.raises(ConfigurationError) as caught:
        refuse_unsupported(cfg)
    assert str(caught.value) == (
        "http2_cleartext is 'prior-knowledge', but http_protocols does not include h2: set it to 'h2,h1', "
        "or leave http2_cleartext out"
    )
    cfg.set("http_protocols", "h2,h1")
    refuse_unsupported(cfg)


def test_each_refusal_is_tested() -> None:
    assert {name for name, _ in REFUSED_VALUES} == set(REFUSED)
