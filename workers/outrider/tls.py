"""TLS from gunicorn's settings: a context, or one line that names what is wrong. Never plaintext instead."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from operator import methodcaller
from pathlib import Path
from typing import Any

from gunicorn import sock

from outrider.errors import ConfigurationError


def build_ssl_context(cfg: Any) -> ssl.SSLContext | None:
    """Build the server's context the way gunicorn does, `ssl_context` hook included; None without TLS.

    Args:
        cfg: gunicorn's `Config`.

    Raises:
        ConfigurationError: a file is missing, unreadable, malformed or needs a password, certificate and key
            do not match, the ciphers are unknown, or the hook returned no context.
    """
    if not cfg.is_ssl:
        return None
    if cfg.ssl_context is cfg.settings["ssl_context"].default:
        _require_certificate(cfg)
        _refuse_encrypted_key(cfg)
    try:
        context = sock.ssl_context(cfg)
    except (OSError, ValueError) as error:
        raise ConfigurationError(_diagnose(cfg, error)) from error
    if not isinstance(context, ssl.SSLContext):
        raise ConfigurationError(
            f"the ssl_context hook returned {context!r}, but must return an ssl.SSLContext "
            "(such as the one that its argument default_ssl_context_factory makes)"
        )
    # Whatever a hook offers, HTTP/1.1 is what is spoken; a context can't be asked what it offers.
    context.set_alpn_protocols(["http/1.1"])
    return context


def _require_certificate(cfg: Any) -> None:
    if not cfg.certfile:
        raise ConfigurationError(
            f"keyfile is {cfg.keyfile!r}, but certfile is not set; set it to the certificate of that key"
        )


def _refuse_encrypted_key(cfg: Any) -> None:
    """Refuse a key with a password: OpenSSL would ask for it at the terminal, and wait."""
    name = "keyfile" if cfg.keyfile else "certfile"
    path = Path(getattr(cfg, name))
    try:
        text = path.read_bytes()
    except OSError:
        return  # _diagnose() says so
    # RFC 7468 §11, and the older header of RFC 1421 §4.6.1.1
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in text or b"Proc-Type: 4,ENCRYPTED" in text:
        raise ConfigurationError(
            f"{name} {str(path)!r} has a key with a password, which gunicorn has no setting for; "
            "store the key without one, or load it in the ssl_context hook"
        )


def _diagnose(cfg: Any, error: Exception) -> str:
    """Find the file or the setting that is at fault."""
    for name in ("certfile", "keyfile", "ca_certs"):
        path = getattr(cfg, name)
        if path:
            try:
                Path(path).read_bytes()
            except (OSError, ValueError) as unreadable:
                return f"{name} {path!r} can't be read ({unreadable}); give a PEM file that this user may read"
    if isinstance(error, ssl.SSLError):
        fault = _diagnose_content(cfg, error)
        if fault:
            return f"{fault} ({error})"
    files = ", ".join(f"{name} {getattr(cfg, name)!r}" for name in ("certfile", "keyfile", "ca_certs"))
    return f"TLS can't be set up with {files}: {error}"


def _diagnose_content(cfg: Any, error: ssl.SSLError) -> str:
    """Find the fault in files that can be read."""
    for name in ("certfile", "ca_certs"):
        path = getattr(cfg, name)
        if path and not _succeeds(methodcaller("load_verify_locations", path)):
            return f"{name} {path!r} has no certificate that can be read; give a PEM file"
    if cfg.ciphers and not _succeeds(methodcaller("set_ciphers", cfg.ciphers)):
        return f"ciphers is {cfg.ciphers!r}, but must be an OpenSSL cipher list that selects a cipher"
    # The error of an unknown cipher list has no reason.
    if getattr(error, "reason", None) in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return f"keyfile {cfg.keyfile!r} is not the key of the certificate in certfile {cfg.certfile!r}"
    # A password that fails, or OpenSSL would ask for one.
    if not _succeeds(methodcaller("load_cert_chain", cfg.certfile, cfg.keyfile, lambda: "")):
        name = "keyfile" if cfg.keyfile else "certfile"
        return f"{name} {getattr(cfg, name)!r} has no private key that can be used; give a PEM file"
    return ""


def _succeeds(attempt: Callable[[ssl.SSLContext], object]) -> bool:
    try:
        attempt(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except ssl.SSLError:
        return False
    return True
