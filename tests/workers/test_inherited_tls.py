"""A worker that is started while the files of its certificate can't be used."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from outrider.errors import ConfigurationError
from outrider.inherited_tls import InheritedTLS
from outrider.settings import OutriderSettings
from outrider_testing.certificates import Authority, Pair, serial_of
from outrider_testing.fakes import FakeLog, ManualLoop
from outrider_testing.rotation import serial, use, write_pairs
from outrider_testing.server_fakes import eventually

OWN = OutriderSettings()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    return write_pairs(Authority(), tmp_path_factory.mktemp("pem"))


def configure(certfile: str, keyfile: str, **settings: Any) -> Config:
    cfg = Config()
    for name, value in {"certfile": certfile, "keyfile": keyfile, **settings}.items():
        cfg.set(name, value)
    return cfg


@pytest.fixture
def live(pairs: dict[str, Pair], tmp_path: Path) -> Pair:
    return use(pairs["main"], tmp_path)


def test_worker_reads_the_files_as_they_are(live: Pair, pairs: dict[str, Pair], tmp_path: Path) -> None:
    log = FakeLog()
    inherited = InheritedTLS(configure(*live), OWN, log)
    use(pairs["next"], tmp_path)
    tls = inherited.from_gunicorn(configure(*live), OWN, log)
    assert tls is not None
    assert serial_of(tls.context) == serial(pairs["next"])
    assert log.entries == []


def test_worker_begins_with_what_the_master_has_read(
    loop: ManualLoop, live: Pair, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    log = FakeLog()
    inherited = InheritedTLS(configure(*live), OWN, log)
    Path(live[0]).write_text("half of a cert")
    tls = inherited.from_gunicorn(configure(*live), OWN, log)
    assert tls is not None
    assert serial_of(tls.context) == serial(pairs["main"])
    (message,) = log.messages("error")
    assert message.startswith(f"certfile '{live[0]}' has no certificate that can be read; give a PEM file (")
    assert message.endswith("). This worker begins with what could be read when its master started")
    use(pairs["next"], tmp_path)
    for _ in range(2):
        loop.advance(1.0)
        tls.look(loop)
    eventually(loop, lambda: serial_of(tls.context) == serial(pairs["next"]))


def refuse(_cfg: Any, _make: Any) -> ssl.SSLContext:
    raise ValueError("no")


@pytest.mark.parametrize(
    "settings", [{"cert_reqs": ssl.CERT_OPTIONAL}, {"ciphers": "AES256-SHA"}, {"ssl_context": refuse}]
)
def test_other_settings_than_the_masters_are_not_replaced_by_them(live: Pair, settings: dict[str, Any]) -> None:
    inherited = InheritedTLS(configure(*live), OWN, FakeLog())
    Path(live[1]).unlink()
    with pytest.raises(ConfigurationError):
        inherited.from_gunicorn(configure(*live, **settings), OWN, FakeLog())


def test_other_files_than_the_masters_are_not_replaced_by_them(live: Pair) -> None:
    inherited = InheritedTLS(configure(*live), OWN, FakeLog())
    with pytest.raises(ConfigurationError, match=r"sni_certificates: certfile 'missing' can't be read"):
        inherited.from_gunicorn(configure(*live), OutriderSettings(sni_certificates=(("missing", live[1]),)), FakeLog())


def test_there_is_none_without_tls() -> None:
    inherited = InheritedTLS(Config(), OWN, FakeLog())
    assert inherited.from_gunicorn(Config(), OWN, FakeLog()) is None


def test_tls_that_was_switched_on_since_must_work(live: Pair) -> None:
    inherited = InheritedTLS(Config(), OWN, FakeLog())
    Path(live[1]).unlink()
    with pytest.raises(ConfigurationError, match="can't be read"):
        inherited.from_gunicorn(configure(*live), OWN, FakeLog())
