"""Configuration and runtime with plain defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from outrider.config import HTTP2Config, ServerConfig, WebSocketConfig
from outrider.forwarded import TrustedPeers
from outrider.http1_encoding import DefaultHeaders
from outrider.http1_head import FORWARDED_FOR, NOTABLE
from outrider.runtime import ConnectionContext, Runtime
from outrider_testing.fakes.log import FakeLog
from outrider_testing.fakes.loop import ManualLoop

if TYPE_CHECKING:
    from outrider.runtime import Address, ASGIApp, Endpoint

CLIENT = ("192.0.2.7", 54321)
SERVER = ("192.0.2.1", 8000)
HTTP2 = HTTP2Config(
    cleartext=False,
    max_concurrent_streams=100,
    initial_window_size=65535,
    max_frame_size=16384,
    max_header_list_size=65536,
)
WEBSOCKET = WebSocketConfig(
    max_message_size=16 << 20,
    max_queue=32,
    ping_interval=20.0,
    ping_timeout=20.0,
    handshake_timeout=30.0,
    close_timeout=10.0,
    per_message_deflate=True,
)
LOCAL = TrustedPeers.parse(["127.0.0.1", "::1"])


def make_config(**overrides: Any) -> ServerConfig:
    """Gunicorn's and Outrider's defaults, except where overridden, with HTTP/2 served.

    What is in `http2` and `websocket` can be overridden by the name of its setting as well: `http2_max_frame_size`.
    """
    groups: dict[str, Any] = {"http2": HTTP2, "websocket": WEBSOCKET}
    for prefix, group in groups.items():
        names = [name for name in overrides if name.startswith(f"{prefix}_")]
        groups[prefix] = replace(group, **{name.removeprefix(f"{prefix}_"): overrides.pop(name) for name in names})
    settings: dict[str, Any] = {
        "keepalive": 2.0,
        "worker_connections": 1000,
        "graceful_timeout": 30.0,
        "disconnect_grace": 3.0,
        "limit_request_line": 4094,
        "limit_request_fields": 100,
        "limit_request_field_size": 8190,
        "root_path": "",
        "trusted_proxies": LOCAL,
        "secure_scheme_headers": {b"x-forwarded-proto": b"https", b"x-forwarded-ssl": b"on"},
        "forwarder_headers": frozenset((b"script_name", b"path_info")),
        "header_map": "drop",
        "proxy_protocol": "off",
        "proxy_allowed": LOCAL,
        "header_timeout": 10.0,
        "body_timeout": 30.0,
        "min_body_rate": 240,
        "write_timeout": 30.0,
        "drain_linger": 2.0,
        "limit_concurrency": 0,
        "accept_gate": True,
        "reset_contextvars": False,
        "debug_extension": False,
    }
    return ServerConfig(**settings | groups | overrides)


def make_runtime(loop: ManualLoop, app: ASGIApp, **config: Any) -> Runtime:
    """A runtime at the loop's time, without Server and Date headers, that logs into a `FakeLog`."""
    default_headers = DefaultHeaders(server=False, date=False, extra=())
    runtime = Runtime(loop, app, make_config(**config), FakeLog(), default_headers)
    runtime.now = loop.time()
    if isinstance(loop, ManualLoop):
        loop.kept.append(runtime)
    return runtime


def make_context(
    runtime: Runtime,
    *,
    client: Address | None = CLIENT,
    server: Endpoint = SERVER,
    scheme: str = "http",
    trusted_proxy: bool = False,
) -> ConnectionContext:
    """The facts of a connection, as the listener would make them."""
    notable = NOTABLE
    if trusted_proxy:
        notable |= {FORWARDED_FOR} | runtime.config.secure_scheme_headers.keys()
    return ConnectionContext(runtime, client, server, scheme, trusted_proxy, notable)
