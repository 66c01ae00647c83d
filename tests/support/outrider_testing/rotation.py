"""Certificates for several names, and a worker's TLS whose files change."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from outrider.tls_certificates import LOOK_PERIOD, TLS
from outrider_testing.certificates import Authority, Pair, serial_of
from outrider_testing.fakes import FakeLog, ManualLoop
from outrider_testing.server_fakes import configure_tls, eventually

_NAMES = {
    "main": ["main.example"],
    "next": ["main.example"],
    "one": ["one.example", "uno.example"],
    "wild": ["*.example", "*.deep.example"],
    "address": ["192.0.2.1"],
}


def write_pairs(authority: Authority, directory: Path) -> dict[str, Pair]:
    """Certificates for various names."""
    return {name: authority.write_pair(directory, name, *hosts) for name, hosts in _NAMES.items()}


def use(pair: Pair, directory: Path, name: str = "live") -> Pair:
    """Put a certificate and its key where the server finds them, as certbot does: each file replaced at once."""
    paths = (str(directory / f"{name}.crt"), str(directory / f"{name}.key"))
    for source, path in zip(pair, paths, strict=True):
        shutil.copyfile(source, f"{path}.new")
        Path(f"{path}.new").replace(path)
    return paths


def serial(pair: Pair) -> int:
    """The serial number of a certificate in a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return serial_of(context)


def text(pair: Pair) -> str:
    """A certificate as PEM."""
    return Path(pair[0]).read_text(encoding="ascii")


def encrypt(pair: Pair, directory: Path) -> Pair:
    """The same certificate, its key with the password "secret"."""
    key = load_pem_private_key(Path(pair[1]).read_bytes(), None)
    path = directory / f"{Path(pair[1]).name}.encrypted"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    return pair[0], str(path)


def make(pair: Pair, *others: Pair, log: FakeLog | None = None, **settings: Any) -> TLS:
    """TLS with a certificate, and others for those who name their server."""
    return configure_tls(log, certfile=pair[0], keyfile=pair[1], sni_certificates=others, **settings)


def hook_with(pair: Pair) -> Callable[..., ssl.SSLContext]:
    """An `ssl_context` hook that has its certificate from somewhere else than the settings."""

    def hook(_: Any, default_ssl_context_factory: object) -> ssl.SSLContext:
        assert callable(default_ssl_context_factory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        return context

    return hook


class Rotation:
    """A TLS whose files change, and the tick that looks at them."""

    def __init__(self, loop: ManualLoop, directory: Path, pair: Pair, *others: Pair, **settings: Any) -> None:
        self.loop = loop
        self.log = FakeLog()
        self.directory = directory
        self.tls = make(use(pair, directory), *others, log=self.log, **settings)
        self.look()

    def look(self, times: int = 1) -> None:
        """Let so many looks at the files pass, and what they begin come to its end."""
        for _ in range(times):
            self.loop.clock += LOOK_PERIOD
            self.tls.look(self.loop)
            eventually(self.loop, self._has_read)

    @property
    def errors(self) -> list[str]:
        """What was logged as an error."""
        return self.log.messages("error")

    def _has_read(self) -> bool:
        return self.tls._reading is None or self.tls._reading.done()
