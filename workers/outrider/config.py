"""The frozen figures that the server, its connections and its streams read: gunicorn's settings and Outrider's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from outrider.forwarded import TrustedPeers, secure_schemes

if TYPE_CHECKING:
    from outrider.proxy_protocol import ProxyMode
    from outrider.settings import OutriderSettings

# An "unlimited" line or field still ends somewhere: nothing a client sends is kept without a bound.
UNLIMITED_HEAD = 1 << 20
MOST_FIELDS = 32768


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Times are seconds, sizes bytes; 0 switches a limit off where gunicorn says so."""

    keepalive: float
    worker_connections: int
    graceful_timeout: float
    disconnect_grace: float
    limit_request_line: int
    limit_request_fields: int
    limit_request_field_size: int
    root_path: str
    trusted_proxies: TrustedPeers
    secure_scheme_headers: dict[bytes, bytes]
    forwarder_headers: frozenset[bytes]
    header_map: str
    proxy_protocol: ProxyMode
    proxy_allowed: TrustedPeers
    header_timeout: float
    body_timeout: float
    min_body_rate: int
    write_timeout: float
    drain_linger: float
    limit_concurrency: int
    accept_gate: bool
    reset_contextvars: bool

    short_head: int = field(init=False)
    """Bytes of head in which no line can be over its limit."""

    def __post_init__(self) -> None:
        """Derive what the hot path would otherwise compute."""
        lines = (self.limit_request_line or UNLIMITED_HEAD, self.limit_request_field_size or UNLIMITED_HEAD)
        object.__setattr__(self, "short_head", min(lines))

    @property
    def largest_head(self) -> int:
        """Bytes of request line and fields a connection may hold before they are complete."""
        fields = self.limit_request_fields * ((self.limit_request_field_size or UNLIMITED_HEAD) + 2)
        return min((self.limit_request_line or UNLIMITED_HEAD) + fields + 4, 8 * UNLIMITED_HEAD)

    @classmethod
    def from_gunicorn(cls, cfg: Any, own: OutriderSettings) -> ServerConfig:
        """Take what the server needs from a gunicorn `Config` and Outrider's settings."""
        return cls(
            keepalive=cfg.keepalive,
            worker_connections=cfg.worker_connections,
            graceful_timeout=cfg.graceful_timeout,
            disconnect_grace=cfg.asgi_disconnect_grace_period,
            limit_request_line=cfg.limit_request_line,
            limit_request_fields=min(cfg.limit_request_fields or MOST_FIELDS, MOST_FIELDS),
            limit_request_field_size=cfg.limit_request_field_size,
            root_path=cfg.root_path,
            trusted_proxies=TrustedPeers.parse(cfg.forwarded_allow_ips),
            secure_scheme_headers=secure_schemes(cfg.secure_scheme_headers),
            forwarder_headers=frozenset(name.lower().encode("latin-1") for name in cfg.forwarder_headers),
            header_map=cfg.header_map,
            proxy_protocol=cfg.proxy_protocol,
            proxy_allowed=TrustedPeers.parse(cfg.proxy_allow_ips, "proxy_allow_ips"),
            header_timeout=own.header_timeout,
            body_timeout=own.body_timeout,
            min_body_rate=own.min_body_rate,
            write_timeout=own.write_timeout,
            drain_linger=own.drain_linger,
            limit_concurrency=own.limit_concurrency,
            accept_gate=own.accept_gate,
            reset_contextvars=own.reset_contextvars,
        )
