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
# An unlimited header list of HTTP/2, likewise.
MOST_HEADER_LIST = 1 << 23
# Names of the pseudo-fields and values that are not in the count; what a line has beside its name and value.
PSEUDO_FIELDS = 64
LINE_OVERHEAD = 4


@dataclass(frozen=True, slots=True)
class HTTP2Config:
    """What an HTTP/2 connection tells its client, and whether there is HTTP/2 without TLS; 0 is no limit."""

    cleartext: bool
    max_concurrent_streams: int
    initial_window_size: int
    max_frame_size: int
    max_header_list_size: int

    @classmethod
    def from_gunicorn(cls, cfg: Any) -> HTTP2Config | None:
        """Take what HTTP/2 needs from a gunicorn `Config`; None where it is not served."""
        if "h2" not in cfg.http_protocols:
            return None
        return cls(
            cleartext=cfg.http2_cleartext == "prior-knowledge",
            max_concurrent_streams=cfg.http2_max_concurrent_streams,
            initial_window_size=cfg.http2_initial_window_size,
            max_frame_size=cfg.http2_max_frame_size,
            max_header_list_size=cfg.http2_max_header_list_size,
        )


@dataclass(frozen=True, slots=True)
class WebSocketConfig:
    """What WebSockets are held to. Times are seconds, sizes bytes; 0 switches a limit off."""

    max_message_size: int
    max_queue: int
    ping_interval: float
    ping_timeout: float
    handshake_timeout: float
    close_timeout: float
    per_message_deflate: bool

    @classmethod
    def from_gunicorn(cls, cfg: Any, own: OutriderSettings) -> WebSocketConfig | None:
        """Take what WebSockets need from a gunicorn `Config` and Outrider's settings; None if they are not served."""
        if not own.websocket:
            return None
        return cls(
            max_message_size=cfg.websocket_max_message_size,
            max_queue=own.websocket_max_queue,
            ping_interval=own.websocket_ping_interval,
            ping_timeout=own.websocket_ping_timeout,
            handshake_timeout=own.websocket_handshake_timeout,
            close_timeout=own.websocket_close_timeout,
            per_message_deflate=own.websocket_per_message_deflate,
        )


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Times are seconds, sizes bytes; 0 switches a limit off where gunicorn says so.

    `http2` and `websocket` are None where they are not served.
    """

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
    debug_extension: bool
    http2: HTTP2Config | None
    websocket: WebSocketConfig | None

    short_head: int = field(init=False)
    """Bytes of head in which no line can be over its limit."""
    short_header_list: int = field(init=False)
    """Bytes of names and values in an HTTP/2 request in which nothing can be over its limit."""

    def __post_init__(self) -> None:
        """Derive what the hot path would otherwise compute."""
        lines = (self.limit_request_line or UNLIMITED_HEAD, self.limit_request_field_size or UNLIMITED_HEAD)
        object.__setattr__(self, "short_head", min(lines))
        # RFC 9113 §6.5.2 counts 32 bytes with each field, and the pseudo-fields are fields as well.
        overhead = 32 * (self.limit_request_fields + 8) + PSEUDO_FIELDS
        header_list = (self.http2 and self.http2.max_header_list_size) or MOST_HEADER_LIST
        object.__setattr__(self, "short_header_list", min(*lines, header_list - overhead) - LINE_OVERHEAD)

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
            debug_extension=cfg.reload,
            http2=HTTP2Config.from_gunicorn(cfg),
            websocket=WebSocketConfig.from_gunicorn(cfg, own),
        )
