"""Several certificates, chosen by server name."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from outrider import tls_certificates as module
from outrider import tls_extension
from outrider.errors import ConfigurationError
from outrider.settings import OutriderSettings
from outrider.tls_certificates import TLS
from outrider_testing.certificates import Authority, Pair, handshake, serial_of, trusting_context
from outrider_testing.fakes import FakeLog
from outrider_testing.rotation import encrypt, hook_with, make, serial, text, write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    return write_pairs(Authority(), tmp_path_factory.mktemp("pem"))


# -- several certificates


@pytest.mark.parametrize(
    "server_name, chosen",
    [
        (None, "main"),
        ("main.example", "main"),
        ("one.example", "one"),
        ("UNO.Example", "one"),
        ("two.example", "wild"),
        ("two.deep.example", "wild"),
        ("a.two.example", "main"),
        ("example", "main"),
        ("one.example.org", "main"),
    ],
)
def test_client_is_shown_the_certificate_of_the_name_it_asks_for(
    pairs: dict[str, Pair], server_name: str | None, chosen: str
) -> None:
    tls = make(pairs["main"], pairs["wild"], pairs["one"])
    assert serial_of(tls.context, server_name) == serial(pairs[chosen])


def test_first_certificate_of_a_name_counts(pairs: dict[str, Pair]) -> None:
    tls = make(pairs["one"], pairs["next"], pairs["main"])
    assert serial_of(tls.context, "main.example") == serial(pairs["next"])


def test_single_certificate_needs_no_choice(pairs: dict[str, Pair]) -> None:
    assert make(pairs["main"]).context.sni_callback is None


def test_settings_hold_for_every_certificate(pairs: dict[str, Pair]) -> None:
    tls = make(pairs["main"], pairs["one"], ciphers="ECDHE+AESGCM", http_protocols="h2,h1")
    client_context = trusting_context(["http/1.1", "h2"])
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    client, server = handshake(tls.context, client_context, "one.example")
    assert client.selected_alpn_protocol() == "h2"
    assert server.context is not tls.context
    assert all("GCM" in cipher["name"] for cipher in server.context.get_ciphers() if cipher["protocol"] != "TLSv1.3")


def test_password_is_that_of_every_key(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    main, one = (encrypt(pairs[name], tmp_path) for name in ("main", "one"))
    tls = make(main, one, keyfile_password="secret")
    assert serial_of(tls.context) == serial(pairs["main"])
    assert serial_of(tls.context, "one.example") == serial(pairs["one"])


def test_hook_makes_the_context_of_every_certificate(pairs: dict[str, Pair]) -> None:
    made = []

    def hook(cfg: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        made.append(cfg.certfile)
        assert cfg.workers == 1
        return default_ssl_context_factory()

    tls = make(pairs["main"], pairs["one"], ssl_context=hook)
    assert made == [pairs["main"][0], pairs["one"][0]]
    assert serial_of(tls.context, "one.example") == serial(pairs["one"])


def test_hook_may_choose_by_itself(pairs: dict[str, Pair]) -> None:
    def hook(_: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        other = default_ssl_context_factory()
        other.load_cert_chain(*pairs["one"])

        def choose(ssl_object: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> None:
            if server_name == "one.example":
                ssl_object.context = other

        context = default_ssl_context_factory()
        context.sni_callback = choose
        return context

    tls = make(pairs["main"], ssl_context=hook, http_protocols="h2,h1")
    assert serial_of(tls.context) == serial(pairs["main"])
    client, server = handshake(tls.context, trusting_context(["h2"]), "one.example")
    assert client.selected_alpn_protocol() == "h2"
    assert tls.certificate_of(server.context) == text(pairs["one"])
    assert tls.certificate_of(tls.context) == text(pairs["main"])


def test_two_who_choose_are_refused(pairs: dict[str, Pair]) -> None:
    def hook(_: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        context = default_ssl_context_factory()
        context.sni_callback = lambda *_: None
        return context

    with pytest.raises(ConfigurationError, match=r"sni_certificates is set, but .* has an sni_callback"):
        make(pairs["main"], pairs["one"], ssl_context=hook)


def test_further_certificate_that_cannot_be_used_is_refused(pairs: dict[str, Pair]) -> None:
    with pytest.raises(ConfigurationError, match=r"^sni_certificates: keyfile '.*main.key' is not the key of"):
        make(pairs["main"], (pairs["one"][0], pairs["main"][1]))


def test_further_certificate_without_names_is_refused(pairs: dict[str, Pair]) -> None:
    with pytest.raises(ConfigurationError, match=r"^sni_certificates: .*address.crt' is for no DNS name"):
        make(pairs["main"], pairs["address"])


def test_further_certificates_alone_are_refused(pairs: dict[str, Pair]) -> None:
    own = OutriderSettings(sni_certificates=(pairs["one"],))
    with pytest.raises(ConfigurationError, match=r"sni_certificates is .* certfile is not set"):
        TLS.from_gunicorn(Config(), own, FakeLog())


def test_no_certificate_is_no_tls() -> None:
    assert TLS.from_gunicorn(Config(), OutriderSettings(), FakeLog()) is None


@pytest.mark.parametrize("server_name, shown", [(None, "main"), ("one.example", "one")])
def test_certificate_of_a_connection_is_known(pairs: dict[str, Pair], server_name: str | None, shown: str) -> None:
    tls = make(pairs["main"], pairs["one"], ca_certs=pairs["main"][0], cert_reqs=ssl.CERT_OPTIONAL)
    _, server = handshake(tls.context, trusting_context(), server_name)
    assert tls.certificate_of(server.context) == text(pairs[shown])


def test_hook_that_shows_another_certificate_than_the_file_is_believed(pairs: dict[str, Pair]) -> None:
    def hook(_: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        context = default_ssl_context_factory()
        context.load_cert_chain(*pairs["one"])
        return context

    tls = make(pairs["main"], ssl_context=hook)
    assert tls.certificate_of(tls.context) == text(pairs["one"])


class Asked:
    """Counts the contexts that are asked what they show."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self._ask = tls_extension.presented_certificate
        monkeypatch.setattr(module, "presented_certificate", self.ask)

    def ask(self, context: ssl.SSLContext) -> str | None:
        self.times += 1
        return self._ask(context)


def test_context_of_a_hook_is_asked_once_what_it_shows(pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    tls = make(pairs["main"], ssl_context=hook_with(pairs["one"]))
    assert [tls.certificate_of(tls.context) for _ in range(2)] == [text(pairs["one"])] * 2
    assert asked.times == 1


@pytest.mark.parametrize("can_be_read_again, times", [(True, 0), (False, 1)])
def test_context_of_the_server_is_known_by_its_file(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch, can_be_read_again: bool, times: int
) -> None:
    asked = Asked(monkeypatch)
    if not can_be_read_again:
        monkeypatch.setattr(module, "_read_first", lambda _: None)
    tls = make(pairs["main"])
    assert tls.certificate_of(tls.context) == text(pairs["main"])
    assert asked.times == times


@pytest.mark.parametrize("is_fast", [True, False])
def test_fast_transport_is_used_by_setting(pairs: dict[str, Pair], is_fast: bool) -> None:
    assert make(pairs["main"], fast_tls=is_fast).fast is is_fast


# -- what a hook does not read


def armoured(content: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("content", [None, "", "junk", armoured("junk!"), armoured("anVuaw=="), armoured("MAA=")])
def test_file_that_a_hook_does_not_read_may_be_anything(
    tmp_path: Path, pairs: dict[str, Pair], content: str | None
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content, encoding="ascii")
    tls = make((str(path), pairs["one"][1]), ssl_context=hook_with(pairs["one"]))
    assert serial_of(tls.context) == serial(pairs["one"])
    assert tls.certificate_of(tls.context) == text(pairs["one"])


def test_further_certificate_that_is_only_the_hooks_cannot_be_chosen(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match=r"^sni_certificates: .*missing' is for no DNS name"):
        make(pairs["main"], (missing, missing), ssl_context=hook_with(pairs["one"]))


def test_first_certificate_may_be_only_the_hooks(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    missing = str(tmp_path / "missing")

    def hook(cfg: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        if cfg.certfile == missing:
            return hook_with(pairs["next"])(cfg, default_ssl_context_factory)
        return default_ssl_context_factory()

    tls = make((missing, missing), pairs["one"], ssl_context=hook)
    assert serial_of(tls.context, "main.example") == serial(pairs["next"])
    assert serial_of(tls.context, "one.example") == serial(pairs["one"])


def test_pipe_that_a_hook_does_not_read_is_not_read(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    os.mkfifo(tmp_path / "pipe")
    tls = make((str(tmp_path / "pipe"), pairs["one"][1]), ssl_context=hook_with(pairs["one"]))
    assert serial_of(tls.context) == serial(pairs["one"])
