"""The catalogue of servers: one worker process each, keep-alive without a practical limit, else defaults."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from address import Address
from certificate import Certificate
from loads import Feature, Load

HERE = Path(__file__).resolve().parent

_KEEP_ALIVE_SECONDS = "600"
_CONNECTIONS = "30000"  # the defaults (1000; Granian 1024) are below the loads that hold idle connections


_COMMON = frozenset(Feature) - {Feature.METRICS}


@dataclass(frozen=True, slots=True)
class Launch:
    """What a server is started with."""

    app: str
    address: Address
    access_log: Path | None = None
    """Where to log requests. Servers that know no such file log to their output, which is the same file."""
    certificate: Certificate | None = None
    """What to serve TLS with."""
    uses_http2: bool = False

    @property
    def bind(self) -> str:
        """The address as gunicorn writes it."""
        if self.address.uds is not None:
            return f"unix:{self.address.uds}"
        return f"{self.address.host}:{self.address.port}"


@dataclass(frozen=True, slots=True)
class Server:
    """One row of the tables."""

    key: str
    label: str
    packages: tuple[str, ...]
    command: Callable[[Launch], list[str]]
    features: frozenset[Feature] = _COMMON
    only_for: Feature | None = None
    """The one feature in which it differs from the row above, where it does in one alone."""
    is_floor: bool = False

    def can_take(self, load: Load) -> bool:
        """Tell whether it speaks what ``load`` needs, and says something that the row above does not."""
        is_told = self.only_for is None or self.only_for in load.needs
        return is_told and load.needs <= self.features and (load.has_floor or not self.is_floor)


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _gunicorn(launch: Launch, *worker: str) -> list[str]:
    return _module("gunicorn", *_gunicorn_options(launch), *worker)


def _gunicorn_options(launch: Launch) -> list[str]:
    logging = ["--access-logfile", str(launch.access_log)] if launch.access_log else []
    limits = ["--keep-alive", _KEEP_ALIVE_SECONDS, "--worker-connections", _CONNECTIONS]
    limits += _tls_files(launch, "--certfile", "--keyfile")
    return [launch.app, "-w", "1", "--bind", launch.bind, *limits, *logging]


def _tls_files(launch: Launch, chain: str, key: str) -> list[str]:
    used = launch.certificate
    return [chain, str(used.chain), key, str(used.key)] if used else []


def _gunicorn_http2(launch: Launch) -> list[str]:
    if not launch.uses_http2:
        return []
    return ["--http-protocols", "h2,h1", *([] if launch.certificate else ["--http2-cleartext", "prior-knowledge"])]


def _outrider(launch: Launch) -> list[str]:
    return _gunicorn(launch, *_gunicorn_http2(launch), "-k", "outrider.UvicornWorker")


def _outrider_loop_tls(launch: Launch) -> list[str]:
    return ["env", "OUTRIDER_FAST_TLS=false", *_outrider(launch)]


def _outrider_metrics(launch: Launch) -> list[str]:
    options = ["--admin-bind", "127.0.0.1:0", "--name", f"bench-{os.getpid()}"]
    return _module("outrider_supervisor.cli", "run", *_gunicorn_options(launch), *options, *_gunicorn_http2(launch))


def _uvicorn_worker(launch: Launch) -> list[str]:
    return _gunicorn(launch, "-k", "uvicorn_worker.UvicornWorker")


def _gunicorn_asgi(launch: Launch) -> list[str]:
    stack = ["-k", "asgi", "--asgi-loop", "uvloop", "--http-parser", "fast"]
    return _gunicorn(launch, *_gunicorn_http2(launch), *stack)


def _host_and_port(launch: Launch) -> list[str]:
    if launch.address.uds is not None:
        return ["--uds", str(launch.address.uds)]
    return ["--host", launch.address.host, "--port", str(launch.address.port)]


def _access_log_flag(launch: Launch) -> str:
    return "--access-log" if launch.access_log else "--no-access-log"


def _uvicorn(launch: Launch, parser: str) -> list[str]:
    stack = ["--loop", "uvloop", "--http", parser, "--ws", "websockets-sansio"]
    stack += ["--timeout-keep-alive", _KEEP_ALIVE_SECONDS]
    stack += _tls_files(launch, "--ssl-certfile", "--ssl-keyfile")
    stack += ["--http2"] if launch.uses_http2 else []
    return _module("uvicorn", launch.app, *_host_and_port(launch), *stack, _access_log_flag(launch))


def _uvicorn_httptools(launch: Launch) -> list[str]:
    return _uvicorn(launch, "httptools")


def _uvicorn_zttp(launch: Launch) -> list[str]:
    return _uvicorn(launch, "zttp")


def _granian(launch: Launch) -> list[str]:
    stack = ["--interface", "asgi", "--workers", "1", "--loop", "uvloop", "--backpressure", _CONNECTIONS]
    stack += _tls_files(launch, "--ssl-certificate", "--ssl-keyfile")
    return _module("granian", launch.app, *_host_and_port(launch), *stack, _access_log_flag(launch))


def _granian_without_websockets(launch: Launch) -> list[str]:
    return [*_granian(launch), "--no-ws"]


def _h2corn(launch: Launch) -> list[str]:
    stack = ["--workers", "1", "--loop", "uvloop", "--timeout-keep-alive", _KEEP_ALIVE_SECONDS]
    stack += _tls_files(launch, "--certfile", "--keyfile")
    return _module("h2corn", launch.app, "--bind", launch.bind, *stack, _access_log_flag(launch))


def _hypercorn(launch: Launch) -> list[str]:
    logging = ["--access-logfile", str(launch.access_log)] if launch.access_log else []
    stack = ["-k", "uvloop", "-w", "1", "--keep-alive", _KEEP_ALIVE_SECONDS]
    stack += ["--config", str(HERE / "hypercorn.toml"), *_tls_files(launch, "--certfile", "--keyfile")]
    return _module("hypercorn", launch.app, "--bind", launch.bind, *stack, *logging)


def _floor(launch: Launch) -> list[str]:
    return [sys.executable, str(HERE / "floor.py"), launch.bind]


OUTRIDER = "outrider"
METRICS = "outrider-metrics"
FLOOR = "floor"

_WITHOUT_DEFLATE = _COMMON - {Feature.DEFLATE}
_HTTP1_ALONE = frozenset({Feature.HTTP1, Feature.TLS})

_WITHOUT_HTTP2 = _COMMON - {Feature.HTTP2}

_ALL = (
    Server(
        OUTRIDER,
        "Outrider (gunicorn)",
        ("outrider", "gunicorn", "uvloop", "httptools", "ngh2", "aiofastnet"),
        _outrider,
        frozenset(Feature),
    ),
    Server(
        METRICS,
        "Outrider (supervised, metrics on)",
        ("outrider", "gunicorn", "uvloop", "httptools"),
        _outrider_metrics,
        frozenset(Feature),
        only_for=Feature.METRICS,
    ),
    Server(
        "outrider-loop-tls",
        "Outrider, TLS of uvloop",
        ("outrider", "gunicorn", "uvloop", "httptools", "ngh2"),
        _outrider_loop_tls,
        only_for=Feature.TLS,
    ),
    Server(
        "uvicorn-worker",
        "gunicorn + uvicorn-worker",
        ("uvicorn-worker", "uvicorn", "gunicorn", "uvloop", "httptools", "websockets"),
        _uvicorn_worker,
        _WITHOUT_HTTP2,
    ),
    Server(
        "gunicorn-asgi",
        "gunicorn asgi (C parser)",
        ("gunicorn", "gunicorn_h1c", "uvloop", "h2"),
        _gunicorn_asgi,
        _WITHOUT_DEFLATE,
    ),
    Server(
        "uvicorn",
        "uvicorn (httptools)",
        ("uvicorn", "uvloop", "httptools", "websockets"),
        _uvicorn_httptools,
        _WITHOUT_HTTP2,
    ),
    Server(
        "uvicorn-zttp",
        "uvicorn (zttp)",
        ("uvicorn", "uvloop", "zttp"),
        _uvicorn_zttp,
        _HTTP1_ALONE | {Feature.HTTP2},  # its WebSockets are those of the row above
    ),
    Server("granian", "Granian", ("granian", "uvloop"), _granian, _WITHOUT_DEFLATE),
    Server("granian-no-ws", "Granian --no-ws", ("granian", "uvloop"), _granian_without_websockets, _HTTP1_ALONE),
    Server("h2corn", "h2corn", ("h2corn", "uvloop"), _h2corn),
    Server("hypercorn", "Hypercorn (uvloop)", ("hypercorn", "uvloop", "wsproto", "h2"), _hypercorn),
    Server(FLOOR, "raw uvloop constant (floor)", ("uvloop",), _floor, frozenset({Feature.HTTP1}), is_floor=True),
)

SERVERS = {server.key: server for server in _ALL}
