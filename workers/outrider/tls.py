"""One TLS context from gunicorn's settings, or one line that names what is wrong. Never plaintext instead."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any

from outrider.errors import ConfigurationError

# What `http_protocols` calls a protocol, and what ALPN does (RFC 7301 §6, RFC 9113 §11.1).
ALPN_NAMES = {"h1": "http/1.1", "h2": "h2"}


# The settings that name files.
FILES = ("certfile", "keyfile", "ca_certs")


def build_ssl_context(cfg: Any, password: str = "") -> ssl.SSLContext | None:
    """Build the server's context the way gunicorn does, `ssl_context` hook included; None without TLS.

    Args:
        cfg: gunicorn's `Config`.
        password: of the key, where it is encrypted.

    Raises:
        ConfigurationError: a file is missing, unreadable, malformed or needs another password, certificate and key
            do not match, the ciphers are unknown, or the hook returned no context.
    """
    if not cfg.is_ssl:
        return None
    if not has_hook(cfg):
        _require_certificate(cfg)
        _require_authorities(cfg)
        if not password:
            _refuse_encrypted_key(cfg)
    try:
        context = cfg.ssl_context(cfg, partial(_default_context, cfg, password))
    except (OSError, ValueError) as error:
        raise ConfigurationError(_diagnose(cfg, password, error)) from error
    if not isinstance(context, ssl.SSLContext):
        raise ConfigurationError(
            f"the ssl_context hook returned {context!r}, but must return an ssl.SSLContext "
            "(such as the one that its argument default_ssl_context_factory makes)"
        )
    # Whatever a hook offers, http_protocols is what is spoken; a context can't be asked what it offers.
    _offer_protocols(cfg, context)
    return context


def has_hook(cfg: Any) -> bool:
    """Whether the user has an `ssl_context` hook: what it makes of the settings, only it knows."""
    return cfg.ssl_context is not cfg.settings["ssl_context"].default


def read_regular_file(path: str) -> bytes:
    """Read a file that does not keep its reader waiting, as a named pipe would.

    Raises:
        OSError: it can't be read.
        ValueError: it is not a regular file.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a regular file")
        return file.read()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _default_context(cfg: Any, password: str) -> ssl.SSLContext:
    for path in filter(None, (getattr(cfg, name) for name in FILES)):
        read_regular_file(path)  # which OpenSSL would not refuse to wait for
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cfg.ca_certs)
    # Given a function, OpenSSL never asks for a password at the terminal.
    context.load_cert_chain(cfg.certfile, cfg.keyfile, lambda: password)
    context.verify_mode = cfg.cert_reqs
    context.options |= ssl.OP_NO_RENEGOTIATION  # RFC 9113 §9.2.1; OpenSSL 3 lets no client begin one anyway
    if cfg.ciphers:
        context.set_ciphers(cfg.ciphers)
    _offer_protocols(cfg, context)  # for the contexts that a hook chooses in an sni_callback of its own
    return context


def _offer_protocols(cfg: Any, context: ssl.SSLContext) -> None:
    context.set_alpn_protocols([ALPN_NAMES[protocol] for protocol in cfg.http_protocols])


def _require_certificate(cfg: Any) -> None:
    if not cfg.certfile:
        raise ConfigurationError(
            f"keyfile is {cfg.keyfile!r}, but certfile is not set; set it to the certificate of that key"
        )


def _require_authorities(cfg: Any) -> None:
    if cfg.cert_reqs == ssl.CERT_REQUIRED and not cfg.ca_certs:
        raise ConfigurationError(
            "cert_reqs is CERT_REQUIRED, but ca_certs is not set, so that every client would be refused; "
            "set ca_certs to the certificates of the authorities that sign those of the clients"
        )


def _refuse_encrypted_key(cfg: Any) -> None:
    name = "keyfile" if cfg.keyfile else "certfile"
    path = getattr(cfg, name)
    try:
        text = read_regular_file(path)
    except (OSError, ValueError):
        return  # _diagnose() says so
    # RFC 7468 §11, and the older header of RFC 1421 §4.6.1.1
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in text or b"Proc-Type: 4,ENCRYPTED" in text:
        raise ConfigurationError(
            f"{name} {path!r} has a key with a password; set keyfile_password, store the key without one, "
            "or load it in the ssl_context hook"
        )


def _diagnose(cfg: Any, password: str, error: Exception) -> str:
    """Find the file or the setting that is at fault."""
    for name in FILES:
        path = getattr(cfg, name)
        if path:
            try:
                read_regular_file(path)
            except (OSError, ValueError) as unreadable:
                return f"{name} {path!r} can't be read ({unreadable}); give a PEM file that this user may read"
    if isinstance(error, ssl.SSLError):
        fault = _diagnose_content(cfg, password, error)
        if fault:
            return f"{fault} ({error})"
    files = ", ".join(f"{name} {getattr(cfg, name)!r}" for name in FILES)
    return f"TLS can't be set up with {files}: {error}"


def _diagnose_content(cfg: Any, password: str, error: ssl.SSLError) -> str:
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
    if not _succeeds(methodcaller("load_cert_chain", cfg.certfile, cfg.keyfile, lambda: password)):
        with_password = " with this keyfile_password" if password else ""
        if not cfg.keyfile:
            return f"certfile {cfg.certfile!r} has no private key that can be used{with_password}; keyfile is not set"
        return f"keyfile {cfg.keyfile!r} has no private key that can be used{with_password or '; give a PEM file'}"
    return ""


def _succeeds(attempt: Callable[[ssl.SSLContext], object]) -> bool:
    try:
        attempt(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except ssl.SSLError:
        return False
    return True
