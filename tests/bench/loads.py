"""The catalogue of loads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import apps


class Tool(Enum):
    """What makes a load."""

    WRK = "wrk"
    UNIX_CLIENT = "unix client"
    IDLE = "idle connections"


@dataclass(frozen=True, slots=True)
class Load:
    """One load: the application served, the request sent and how many at once."""

    key: str
    title: str
    detail: str
    app: str
    expected: bytes
    """The response body; a server that sends another is not measured."""
    path: str = "/"
    method: str = "GET"
    body: bytes = b""
    connections: int = 64
    pipeline: int = 1
    """Requests sent back to back on one connection before a response is read. Above 1, wrk's latencies
    mean nothing: its correction for coordinated omission takes them for those of single requests."""
    held: int = 0
    """Idle keep-alive connections held open meanwhile."""
    access_log: bool = False
    tool: Tool = Tool.WRK
    has_floor: bool = False
    """Whether the constant writer answers this load correctly."""


_ECHO_BODY = b"0123456789abcdef" * 1024

_ALL = (
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
        apps.STREAM_CHUNK * apps.STREAM_CHUNKS,
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

LOADS = {load.key: load for load in _ALL}
