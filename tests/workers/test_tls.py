"""TLS contexts from gunicorn's settings, and one line for everything that can be wrong with them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from gunicorn.config import Config

from outrider.errors import ConfigurationError
from outrider.tls import build_ssl_context
from outrider_testing.certificates import handshake, trusting_context


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with certificates, keys and files that are neither."""
    path = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(path / "authority.pem")
    for name in ("first", "second"):
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(path / f"{name}.crt")
    key_object = serialization.load_pem_private_key((path / "first.key").read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    formats = {
        "encrypted.key": serialization.PrivateFormat.PKCS8,
        "encrypted-old.key": serialization.PrivateFormat.TraditionalOpenSSL,
    }
    for name, private_format in formats.items():
        pem_bytes = key_object.private_bytes(serialization.Encoding.PEM, private_format, encryption)
        (path / name).write_bytes(pem_bytes)
    certificate = (path / "first.crt").read_text(encoding="ascii")
    key = (path / "first.key").read_text(encoding="ascii")
    encrypted = (path / "encrypted.key").read_text(encoding="ascii")
    (path / "both.pem").write_text(certificate + key, encoding="ascii")
    (path / "both-encrypted.pem").write_text(certificate + encrypted, encoding="ascii")
    (path / "junk.pem").write_text("junk\n", encoding="ascii")
    (path / "bad.crt").write_text("-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n", encoding="ascii")
    (path / "directory").mkdir()
    os.mkfifo(path / "pipe")
    return path


def configure(**settings: Any) -> Any:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, str(value) if isinstance(value, Path) else value)
    return cfg


def test_no_tls_is_no_context() -> None:
    assert build_ssl_context(Config()) is None


@pytest.mark.parametrize("names", [("first.crt", "first.key"), ("both.pem", None)])
def test_certificate_and_key_make_a_context(pem: Path, names: tuple[str, str | None]) -> None:
    certificate, key = names
    cfg = configure(certfile=pem / certificate, keyfile=str(pem / key) if key else None)
    context = build_ssl_context(cfg)
    assert context is not None
    client, _ = handshake(context, trusting_context(["h2", "http/1.1"]))
    assert client.selected_alpn_protocol() == "http/1.1"


def test_client_certificate_settings_are_honoured(pem: Path) -> None:
    cfg = configure(
        certfile=pem / "first.crt",
        keyfile=pem / "first.key",
        ca_certs=pem / "authority.pem",
        cert_reqs=ssl.CERT_REQUIRED,
        ciphers="ECDHE+AESGCM",
    )
    context = build_ssl_context(cfg)
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1
    assert not any("CHACHA" in cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3")


def refusal_of(cfg: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        build_ssl_context(cfg)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["missing.pem", "directory", "pipe"])
@pytest.mark.parametrize("setting", ["certfile", "keyfile", "ca_certs"])
def test_unreadable_file_is_refused_by_path(pem: Path, setting: str, name: str) -> None:
    cfg = configure(certfile=pem / "first.crt", keyfile=pem / "first.key")
    cfg.set(setting, str(pem / name))
    assert refusal_of(cfg).startswith(f"{setting} {str(pem / name)!r} can't be read (")


@pytest.mark.parametrize("name", ["junk.pem", "bad.crt"])
@pytest.mark.parametrize("setting", ["certfile", "ca_certs"])
def test_file_without_certificate_is_refused_by_path(pem: Path, setting: str, name: str) -> None:
    cfg = configure(certfile=pem / "first.crt", keyfile=pem / "first.key")
    cfg.set(setting, str(pem / name))
    assert refusal_of(cfg).startswith(f"{setting} {str(pem / name)!r} has no certificate that can be read")


@pytest.mark.parametrize("name", ["junk.pem", "bad.crt", "first.crt"])
def test_file_without_key_is_refused_by_path(pem: Path, name: str) -> None:
    cfg = configure(certfile=pem / "first.crt", keyfile=pem / name)
    assert refusal_of(cfg).startswith(f"keyfile {str(pem / name)!r} has no private key that can be used")


def test_certificate_without_key_is_refused_by_path(pem: Path) -> None:
    path = pem / "first.crt"
    assert refusal_of(configure(certfile=path)).startswith(
        f"certfile {str(path)!r} has no private key that can be used; keyfile is not set ("
    )


def test_key_of_another_certificate_is_refused_by_path(pem: Path) -> None:
    message = refusal_of(configure(certfile=pem / "first.crt", keyfile=pem / "second.key"))
    assert message.startswith(f"keyfile {str(pem / 'second.key')!r} is not the key of the certificate in ")
    assert str(pem / "first.crt") in message


def test_key_without_certificate_is_refused(pem: Path) -> None:
    assert "certfile is not set" in refusal_of(configure(keyfile=pem / "first.key"))


@pytest.mark.parametrize("name", ["encrypted.key", "encrypted-old.key"])
def test_key_with_password_is_refused_without_asking(pem: Path, name: str) -> None:
    message = refusal_of(configure(certfile=pem / "first.crt", keyfile=pem / name))
    assert message.startswith(f"keyfile {str(pem / name)!r} has a key with a password; set keyfile_password")
    assert "ssl_context hook" in message


@pytest.mark.parametrize("name", ["encrypted.key", "encrypted-old.key"])
def test_key_with_password_is_read_with_it(pem: Path, name: str) -> None:
    cfg = configure(certfile=pem / "first.crt", keyfile=pem / name)
    assert build_ssl_context(cfg, "secret") is not None


def test_key_with_another_password_is_refused(pem: Path) -> None:
    cfg = configure(certfile=pem / "first.crt", keyfile=pem / "encrypted.key")
    with pytest.raises(ConfigurationError) as caught:
        build_ssl_context(cfg, "wrong")
    path = str(pem / "encrypted.key")
    assert str(caught.value).startswith(
        f"keyfile {path!r} has no private key that can be used with this keyfile_password ("
    )


def test_client_certificates_that_nobody_could_verify_are_refused(pem: Path) -> None:
    cfg = configure(certfile=pem / "first.crt", keyfile=pem / "first.key", cert_reqs=ssl.CERT_REQUIRED)
    assert refusal_of(cfg).startswith("cert_reqs is CERT_REQUIRED, but ca_certs is not set")


@pytest.mark.parametrize(
    "protocols, offered, chosen",
    [
        ("h1", ["h2", "http/1.1"], "http/1.1"),
        ("h2,h1", ["http/1.1", "h2"], "h2"),
        ("h1,h2", ["h2", "http/1.1"], "http/1.1"),
        ("h2", ["http/1.1", "h2"], "h2"),
        ("h2", ["http/1.1"], None),
        ("h1", [], None),
    ],
)
def test_protocols_are_offered_in_their_order(
    pem: Path, protocols: str, offered: list[str], chosen: str | None
) -> None:
    cfg = configure(certfile=pem / "first.crt", keyfile=pem / "first.key", http_protocols=protocols)
    context = build_ssl_context(cfg)
    assert context is not None
    client, _ = handshake(context, trusting_context(offered))
    assert client.selected_alpn_protocol() == chosen


def test_key_with_password_in_certfile_is_refused(pem: Path) -> None:
    path = pem / "both-encrypted.pem"
    message = refusal_of(configure(certfile=path))
    assert message.startswith(f"certfile {str(path)!r} has a key with a password")


def test_unknown_ciphers_are_refused(pem: Path) -> None:
    cfg = configure(certfile=pem / "first.crt", keyfile=pem / "first.key", ciphers="NO-SUCH-CIPHER")
    assert refusal_of(cfg).startswith("ciphers is 'NO-SUCH-CIPHER', but must be an OpenSSL cipher list")


# -- the ssl_context hook


def test_hook_makes_the_context(pem: Path) -> None:
    contexts = []

    def hook(cfg: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        context = default_ssl_context_factory()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        contexts.append((cfg, context))
        return context

    cfg = configure(certfile=pem / "first.crt", keyfile=pem / "first.key", ssl_context=hook)
    context = build_ssl_context(cfg)
    assert contexts == [(cfg, context)]
    assert context is not None
    client, _ = handshake(context, trusting_context(["http/1.1"]))
    assert client.selected_alpn_protocol() == "http/1.1"


def test_hook_may_give_the_password(pem: Path) -> None:
    def hook(cfg: Any, _: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cfg.certfile, cfg.keyfile, "secret")
        return context

    cfg = configure(certfile=pem / "first.crt", keyfile=pem / "encrypted.key", ssl_context=hook)
    assert isinstance(build_ssl_context(cfg), ssl.SSLContext)


def hook_without_return(_: Any, default_ssl_context_factory: Any) -> None:
    default_ssl_context_factory()


def test_hook_without_context_is_refused(pem: Path) -> None:
    cfg = configure(certfile=pem / "first.crt", keyfile=pem / "first.key", ssl_context=hook_without_return)
    assert refusal_of(cfg).startswith("the ssl_context hook returned None, but must return an ssl.SSLContext")


@pytest.mark.parametrize(
    "error", [OSError("vault is closed"), ssl.SSLError("vault is closed"), ValueError("vault is closed")]
)
def test_failing_hook_is_refused_with_its_reason(pem: Path, error: Exception) -> None:
    def hook(cfg: Any, default_ssl_context_factory: Any) -> None:  # noqa: ARG001  # gunicorn's arguments
        raise error

    cfg = configure(certfile=pem / "first.crt", keyfile=pem / "first.key", ssl_context=hook)
    message = refusal_of(cfg)
    assert message.startswith("TLS can't be set up with certfile ")
    assert "vault is closed" in message
