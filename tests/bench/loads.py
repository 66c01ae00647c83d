"""The catalogue of loads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import apps


class Page(Enum):
    """A page of the report: its file's name without the ending, and its title."""

    HTTP1 = ("benchmarks", "Benchmarks")
    WEBSOCKET = ("benchmarks-websocket", "Benchmarks: WebSocket")
    HTTP2 = ("benchmarks-http2", "Benchmarks: HTTP/2 and TLS")

    def __init__(self, stem: str, title: str) -> None:
        """Name the parts."""
        self.stem = stem
        self.title = title

    @property
    def key(self) -> str:
        """What chooses all its loads on the command line."""
        return self.name.lower()


class Tool(Enum):
    """What makes a load."""

    WRK = "wrk"
    H2LOAD = "h2load"
    UNIX_CLIENT = "unix client"
    WEBSOCKET_CLIENT = "websocket client"
    IDLE = "idle connections"


class Feature(Enum):
    """What a load needs of a server, and not every server can."""

    HTTP1 = "HTTP/1.1"
    HTTP2 = "HTTP/2"
    TLS = "TLS"
    WEBSOCKET = "WebSocket"
    DEFLATE = "permessage-deflate"
    METRICS = "metrics of its own"


@dataclass(frozen=True, slots=True)
class Load:
    """One load: the application served, the request sent and how many at once."""

    key: str
    title: str
    detail: str
    app: str
    expected: bytes
    """The response body, or the message sent back; a server that sends another is not measured."""
    path: str = "/"
    method: str = "GET"
    body: bytes = b""
    """The request body, or the message."""
    is_text: bool = False
    """Whether the message is sent as text; it is binary otherwise."""
    connections: int = 64
    pipeline: int = 1
    """Requests sent back to back on one connection before a response is read. Above 1, wrk's latencies
    mean nothing: its correction for coordinated omission takes them for those of single requests."""
    streams: int = 1
    """Requests at once on each HTTP/2 connection."""
    held: int = 0
    """Idle connections held open meanwhile: kept alive, or WebSockets."""
    access_log: bool = False
    tool: Tool = Tool.WRK
    needs: frozenset[Feature] = frozenset({Feature.HTTP1})
    page: Page = Page.HTTP1
    has_floor: bool = False
    """Whether the constant writer answers this load correctly."""

    @property
    def is_websocket(self) -> bool:
        """Whether messages are counted, and not requests."""
        return Feature.WEBSOCKET in self.needs

    @property
    def unit(self) -> str:
        """What is counted."""
        return "message" if self.is_websocket else "request"


_ECHO_BODY = b"0123456789abcdef" * 1024
_STREAMED = apps.STREAM_CHUNK * apps.STREAM_CHUNKS

_HTTP1 = (
    Load(
        "plaintext",
        "Plaintext",
        "13 bytes from a raw ASGI application, 64 connections",
        "apps:plaintext",
        apps.GREETING,
        has_floor=True,
    ),
    Load(
        "json",
        "FastAPI JSON",
        "one small object from a FastAPI route, 64 connections",
        "fastapi_app:app",
        b'{"message":"Hello, World!"}',
        path="/json",
    ),
    Load(
        "echo",
        "16 KB POST echo",
        "16 KiB up and down through a raw ASGI application, 64 connections",
        "apps:echo",
        _ECHO_BODY,
        method="POST",
        body=_ECHO_BODY,
    ),
    Load(
        "stream",
        "1 MB streamed download",
        "16 chunks of 64 KiB from a raw ASGI application, 16 connections",
        "apps:stream",
        _STREAMED,
        connections=16,
    ),
    Load(
        "pipelined",
        "64 pipelined",
        "plaintext, 8 connections that each send 64 requests at once (wrk's latencies are wrong there)",
        "apps:plaintext",
        apps.GREETING,
        connections=8,
        pipeline=64,
    ),
    Load(
        "access-log",
        "Access log on",
        "plaintext, each server with its own access log format into a file, 64 connections",
        "apps:plaintext",
        apps.GREETING,
        access_log=True,
    ),
    Load(
        "unix",
        "Unix socket",
        "plaintext over a Unix socket, 64 connections of a uvloop client (wrk speaks TCP only)",
        "apps:plaintext",
        apps.GREETING,
        tool=Tool.UNIX_CLIENT,
        has_floor=True,
    ),
    Load(
        "metrics",
        "Metrics on",
        "plaintext, 64 connections; the second one is supervised, and counts each request for its metrics",
        "apps:plaintext",
        apps.GREETING,
        needs=frozenset({Feature.HTTP1, Feature.METRICS}),
    ),
    Load(
        "held",
        "1 000 idle connections held",
        "plaintext, 64 connections, while 1 000 others that have made one request stay open",
        "apps:plaintext",
        apps.GREETING,
        held=1000,
        has_floor=True,
    ),
    Load(
        "idle",
        "10 000 idle connections",
        "each has made one request and stays open; memory (PSS) and CPU of the server's processes meanwhile",
        "apps:plaintext",
        apps.GREETING,
        held=10_000,
        tool=Tool.IDLE,
        has_floor=True,
    ),
)


def _websocket_echo(connections: int, size: str, message: bytes, *, is_text: bool, deflate: bool) -> Load:
    suffix = "-deflate" if deflate else ""
    compressed = ", permessage-deflate" if deflate else ""
    kind = "text" if is_text else "binary"
    count = f"{connections:,}".replace(",", " ")
    return Load(
        f"websocket-{size.lower().replace(' ', '')}-{connections}{suffix}",
        f"{size} echo, {count} connections{compressed}",
        f"{kind} messages through a raw ASGI application, one in flight on each connection{compressed}",
        "apps:websocket_echo",
        message,
        body=message,
        is_text=is_text,
        connections=connections,
        tool=Tool.WEBSOCKET_CLIENT,
        needs=frozenset({Feature.WEBSOCKET} | ({Feature.DEFLATE} if deflate else set())),
        page=Page.WEBSOCKET,
    )


_SHORT = b'{"id": 4711, "user": "ada", "text": "Hello, how are you today?"}'
_LONG = b"".join(b'{"id": %04d, "value": %08x}\n' % (n, n * 2654435761 % 2**32) for n in range(512))

_WEBSOCKET = (
    *(
        _websocket_echo(connections, size, message, is_text=is_text, deflate=deflate)
        for deflate in (False, True)
        for size, message, is_text in (("64 B", _SHORT, True), ("16 KB", _LONG, False))
        for connections in (32, 1000)
    ),
    Load(
        "websocket-idle",
        "10 000 idle WebSockets",
        "each has had one message echoed and stays open; memory (PSS) and CPU of the server's processes meanwhile",
        "apps:websocket_echo",
        _SHORT,
        body=_SHORT,
        is_text=True,
        held=10_000,
        tool=Tool.IDLE,
        needs=frozenset({Feature.WEBSOCKET}),
        page=Page.WEBSOCKET,
    ),
)


def _http2(key: str, title: str, app: str, expected: bytes, connections: int, streams: int) -> tuple[Load, Load]:
    """Return a load over cleartext and the same over TLS."""
    over_tls = Load(
        key,
        f"{title}, HTTP/2 over TLS",
        f"{connections} connections with {streams} requests at once on each",
        app,
        expected,
        connections=connections,
        streams=streams,
        tool=Tool.H2LOAD,
        needs=frozenset({Feature.HTTP2, Feature.TLS}),
        page=Page.HTTP2,
    )
    needs = frozenset({Feature.HTTP2})
    name, title = key.replace("h2", "h2c"), f"{title}, HTTP/2 in clear text"
    return replace(over_tls, key=name, title=title, needs=needs), over_tls


_HTTP2 = (
    Load(
        "tls-plaintext",
        "Plaintext, HTTP/1.1 over TLS",
        "13 bytes from a raw ASGI application, 64 connections that are kept alive",
        "apps:plaintext",
        apps.GREETING,
        needs=frozenset({Feature.HTTP1, Feature.TLS}),
        page=Page.HTTP2,
    ),
    *_http2("h2-plaintext", "Plaintext", "apps:plaintext", apps.GREETING, connections=16, streams=16),
    *_http2("h2-stream", "1 MB streamed download", "apps:stream", _STREAMED, connections=4, streams=4),
)

LOADS = {load.key: load for load in (*_HTTP1, *_WEBSOCKET, *_HTTP2)}
