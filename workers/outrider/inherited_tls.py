"""What a worker does for TLS that is started while the files can't be used, such as halfway through a renewal.

gunicorn ends the service when a worker can't boot. Those that are there keep the certificate that they have; one that
takes a place among them begins with what the master read before its first fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outrider.errors import ConfigurationError
from outrider.tls import FILES
from outrider.tls_certificates import TLS

if TYPE_CHECKING:
    from outrider.runtime import Log
    from outrider.settings import OutriderSettings


class InheritedTLS:
    """TLS as the master has read it; a fork takes the contexts along."""

    def __init__(self, cfg: Any, own: OutriderSettings, log: Log) -> None:
        """Read every certificate that the settings name.

        Raises:
            ConfigurationError: one of them can't be used.
        """
        self._settings = _settings_of(cfg, own)
        self._tls = TLS.from_gunicorn(cfg, own, log)

    def from_gunicorn(self, cfg: Any, own: OutriderSettings, log: Log) -> TLS | None:
        """Read the files as they are now, or use what they held for the master, which is renewed as any other.

        Raises:
            ConfigurationError: they can't be used, and other settings are in force than those of the master's start.
        """
        try:
            return TLS.from_gunicorn(cfg, own, log)
        except ConfigurationError as error:
            if self._tls is None or self._settings != _settings_of(cfg, own):
                raise
            reason = str(error)
        log.error("%s. This worker begins with what could be read when its master started", reason)
        return self._tls


def _settings_of(cfg: Any, own: OutriderSettings) -> tuple[object, ...]:
    names = (*FILES, "cert_reqs", "ciphers", "http_protocols", "ssl_context")
    return *(getattr(cfg, name) for name in names), own.sni_certificates, own.keyfile_password, own.fast_tls
