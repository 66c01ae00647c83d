"""The certificates of a worker: chosen by server name, and read anew when their files change.

Files are read when they have been the same for two looks and are not those that were read last: certbot and Kubernetes
replace several files or links one after the other. A pair that can't be used changes nothing but the log.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from outrider.errors import ConfigurationError
from outrider.tls import FILES, build_ssl_context, has_hook, read_regular_file
from outrider.tls_extension import presented_certificate
from outrider.x509 import Certificate, first_certificate, read_certificate

if TYPE_CHECKING:
    from outrider.runtime import Log
    from outrider.settings import OutriderSettings

LOOK_PERIOD = 1.0
"""Seconds between two looks at the files."""
RETRY_PERIOD = 10.0
"""Seconds until files are read again that could not be read for a reason that passes."""
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE}
_OUT_OF_SIGHT = ()
"""The stamp of a file in a directory that the worker may not enter."""

Stamp = tuple[tuple[int, ...] | None, ...]


class TLS:
    """What a listener needs for TLS: `context` is that of the next handshake. Connections keep the one they had.

    `fast` says that the fastest transport may be used.
    """

    def __init__(self, sources: Sequence[Source], log: Log, *, fast: bool) -> None:
        self.fast = fast
        self._sources = sources
        self._log = log
        self._look_again_at = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._presented: WeakKeyDictionary[ssl.SSLContext, str | None] = WeakKeyDictionary()
        self._loaded = {source: source.read() for source in sources}
        self._arrange()

    @classmethod
    def from_gunicorn(cls, cfg: Any, own: OutriderSettings, log: Log) -> TLS | None:
        """Read every certificate that the settings name; None without TLS.

        Raises:
            ConfigurationError: one of them can't be used.
        """
        pairs = own.sni_certificates
        if not cfg.is_ssl:
            if pairs:
                raise ConfigurationError(
                    f"sni_certificates is {list(pairs)!r}, but certfile is not set; "
                    "set it to the certificate for clients that name no server, or another one"
                )
            return None
        first = Source(cfg, own.keyfile_password, chooses=bool(pairs))
        others = [Source(_WithCertificate(cfg, pair), own.keyfile_password, is_chosen=True) for pair in pairs]
        return cls([first, *others], log, fast=own.fast_tls)

    @property
    def context(self) -> ssl.SSLContext:
        """The context for the next connection; where there are several certificates, it chooses among them."""
        return self._loaded[self._sources[0]].context

    def certificate_of(self, context: ssl.SSLContext) -> str | None:
        """PEM of the certificate that connections of this context show, if that can be known."""
        if context not in self._presented:
            self._presented[context] = presented_certificate(context)
        return self._presented[context]

    def look(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the tick: now and then see whether files have changed, and have a thread read those that have."""
        now = loop.time()
        if now < self._look_again_at or (self._reading is not None and not self._reading.done()):
            return
        self._look_again_at = now + LOOK_PERIOD
        changed = [source for source in self._sources if source.has_changed()]
        if changed:
            self._reading = loop.create_task(self._renew(loop, changed), name="read certificates")

    async def _renew(self, loop: asyncio.AbstractEventLoop, changed: Sequence[Source]) -> None:
        for source in changed:
            try:
                self._loaded[source] = await loop.run_in_executor(None, source.read)
            except Exception as error:  # noqa: BLE001  # a hook may raise anything
                self._report(source, error)
                if _will_pass(error.__cause__):
                    source.forget()
                    self._look_again_at = loop.time() + RETRY_PERIOD
            else:
                self._log.info("A changed certificate is now in use: %s", self._loaded[source].description)
        self._arrange()

    def _report(self, source: Source, error: Exception) -> None:
        description = self._loaded[source].description
        if source.is_out_of_sight:
            self._log.warning("A renewal will not be noticed: %s. In use: %s", _explain(error), description)
            return
        self._log.error(
            "A changed certificate can't be used: %s. The old one stays in use: %s",
            _explain(error),
            description,
            exc_info=None if isinstance(error, ConfigurationError) else error,
        )

    def _arrange(self) -> None:
        """Put the contexts under their names, and note what they show."""
        first, *others = self._loaded.values()
        for loaded in (first, *others):
            if loaded.is_ours and loaded.pem is not None:
                self._presented[loaded.context] = loaded.pem
        if others:
            everything = [(name, loaded.context) for loaded in (first, *others) for name in loaded.dns_names]
            self._by_name = dict(reversed(everything))  # of two with the same name, the first one counts
            first.context.sni_callback = self._choose

    def _choose(self, ssl_object: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> None:
        """OpenSSL: the client may have named the server (RFC 6066 §3). A full name counts before a wildcard."""
        name = (server_name or "").lower()
        context = self._by_name.get(name) or self._by_name.get(f"*.{name.partition('.')[2]}")
        if context is not None:
            ssl_object.context = context


class Loaded(NamedTuple):
    """A certificate in a context. `is_ours` says that no hook made the context: it shows what the file holds."""

    context: ssl.SSLContext
    is_ours: bool
    path: str
    pem: str | None
    certificate: Certificate | None

    @property
    def dns_names(self) -> tuple[str, ...]:
        """The names that it is for; none if the file could not be read, as a hook need not use it."""
        return self.certificate.dns_names if self.certificate else ()

    @property
    def description(self) -> str:
        """How a log names it."""
        if self.certificate is None:
            return f"certfile {self.path!r}"
        return f"certfile {self.path!r}, {self.certificate.subject}, valid until {self.certificate.last_day}"


class Source:
    """The files of one certificate.

    Where there are several, handshakes begin with the one that `chooses`, and may go on with one that `is_chosen`.
    """

    def __init__(self, cfg: Any, password: str, *, chooses: bool = False, is_chosen: bool = False) -> None:
        self._cfg = cfg
        self._password = password
        self._chooses = chooses
        self._is_chosen = is_chosen
        self._read: Stamp = ()
        self._seen: Stamp = ()

    def read(self) -> Loaded:
        """Make a context of what is in the files now.

        Raises:
            ConfigurationError: they can't be used.
            Exception: whatever an `ssl_context` hook raises.
        """
        self._read = self._stamp()
        if not self._is_chosen:
            return self._load()
        try:
            return self._load()
        except ConfigurationError as error:
            raise ConfigurationError(f"sni_certificates: {error}") from error.__cause__

    def _load(self) -> Loaded:
        context = build_ssl_context(self._cfg, self._password)
        assert context is not None  # noqa: S101  # is_ssl was asked before
        if self._chooses and context.sni_callback is not None:
            raise ConfigurationError(
                "sni_certificates is set, but the context of the ssl_context hook has an sni_callback; leave one of "
                "them out"
            )
        path = self._cfg.certfile
        certificate = _read_first(path)
        loaded = Loaded(
            context=context,
            is_ours=not has_hook(self._cfg),
            path=path,
            pem=ssl.DER_cert_to_PEM_cert(certificate) if certificate else None,
            certificate=read_certificate(certificate) if certificate else None,
        )
        if self._is_chosen and not loaded.dns_names:
            raise ConfigurationError(
                f"the certificate in {path!r} is for no DNS name, so that no client could ask for it; "
                "give one with subjectAltName"
            )
        return loaded

    @property
    def is_out_of_sight(self) -> bool:
        """Whether the files could not even be looked at when they were read last: nothing need have changed."""
        return _OUT_OF_SIGHT in self._read

    def forget(self) -> None:
        """Take the files for changed, although they are not: what kept them from being read was not their fault."""
        self._read = ()

    def has_changed(self) -> bool:
        """Whether there is something else in the files than what was read last, and no longer changing."""
        stamp = self._stamp()
        is_settled = stamp == self._seen
        self._seen = stamp
        return is_settled and stamp != self._read

    def _stamp(self) -> Stamp:
        return tuple(_stamp(getattr(self._cfg, name)) for name in FILES)


class _WithCertificate:
    """gunicorn's `Config` with another certificate: the ssl_context hook makes this one's context as well."""

    def __init__(self, cfg: Any, pair: tuple[str, str]) -> None:
        self._cfg = cfg
        self.certfile, self.keyfile = pair

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cfg, name)


def _read_first(path: str | None) -> bytes | None:
    if not path:
        return None
    try:
        certificate = first_certificate(read_regular_file(path).decode("ascii", "replace"))
        if certificate:
            # Nobody else may have read it: a hook need not use the file.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
    except (OSError, ValueError):
        return None
    return certificate


def _stamp(path: str | None) -> tuple[int, ...] | None:
    """What changes when a file does: it, the link to it, or a link on the way is replaced, or who may read it.

    Whatever changes st_mtime changes st_ctime as well, which nobody can set back.
    """
    if not path:
        return None
    try:
        status = Path(path).stat()
    except PermissionError:
        return _OUT_OF_SIGHT
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def _will_pass(cause: BaseException | None) -> bool:
    # The errno of an SSLError is a number of OpenSSL's.
    return isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno in _PASSING


def _explain(error: Exception) -> str:
    if not isinstance(error, ConfigurationError):
        return f"the ssl_context hook raised {error!r}"
    if isinstance(error.__cause__, PermissionError):
        return (
            f"{error}. This worker is uid {os.geteuid()} and has given up what it was at its start; let that user "
            "read the file, or have the workers replaced after each renewal (HUP)"
        )
    return str(error)
