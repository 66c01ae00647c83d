"""The catalogue of servers: one worker process each, keep-alive without a practical limit, else defaults."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from address import Address

HERE = Path(__file__).resolve().parent

_KEEP_ALIVE_SECONDS = "600"
_CONNECTIONS = "30000"  # the defaults (1000; Granian 1024) are below the loads that hold idle connections


@dataclass(frozen=True, slots=True)
class Launch:
    """What a server is started with."""

    app: str
    address: Address
    access_log: Path | None = None
    """Where to log requests. Servers that know no such file log to their output, which is the same file."""

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
    is_floor: bool = False


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _gunicorn(launch: Launch, *worker: str) -> list[str]:
    logging = ["--access-logfile", str(launch.access_log)] if launch.access_log else []
    limits = ["--keep-alive", _KEEP_ALIVE_SECONDS, "--worker-connections", _CONNECTIONS]
    return _module("gunicorn", launch.app, "-w", "1", "--bind", launch.bind, *limits, *logging, *worker)


def _outrider(launch: Launch) -> list[str]:
    return _gunicorn(launch, "-k", "outrider.UvicornWorker")


def _uvicorn_worker(launch: Launch) -> list[str]:
    return _gunicorn(launch, "-k", "uvicorn_worker.UvicornWorker")


def _gunicorn_asgi(launch: Launch) -> list[str]:
    return _gunicorn(launch, "-k", "asgi", "--asgi-loop", "uvloop", "--http-parser", "fast")


def _host_and_port(launch: Launch) -> list[str]:
    if launch.address.uds is not None:
        return ["--uds", str(launch.address.uds)]
    return ["--host", launch.address.host, "--port", str(launch.address.port)]


def _access_log_flag(launch: Launch) -> str:
    return "--access-log" if launch.access_log else "--no-access-log"


def _uvicorn(launch: Launch, parser: str) -> list[str]:
    stack = ["--loop", "uvloop", "--http", parser, "--timeout-keep-alive", _KEEP_ALIVE_SECONDS]
    return _module("uvicorn", launch.app, *_host_and_port(launch), *stack, _access_log_flag(launch))


def _uvicorn_httptools(launch: Launch) -> list[str]:
    return _uvicorn(launch, "httptools")


def _uvicorn_zttp(launch: Launch) -> list[str]:
    return _uvicorn(launch, "zttp")


def _granian(launch: Launch) -> list[str]:
    stack = ["--interface", "asgi", "--workers", "1", "--loop", "uvloop", "--backpressure", _CONNECTIONS]
    return _module("granian", launch.app, *_host_and_port(launch), *stack, _access_log_flag(launch))


def _granian_without_websockets(launch: Launch) -> list[str]:
    return [*_granian(launch), "--no-ws"]


def _h2corn(launch: Launch) -> list[str]:
    stack = ["--workers", "1", "--loop", "uvloop", "--timeout-keep-alive", _KEEP_ALIVE_SECONDS]
    return _module("h2corn", launch.app, "--bind", launch.bind, *stack, _access_log_flag(launch))


def _hypercorn(launch: Launch) -> list[str]:
    logging = ["--access-logfile", str(launch.access_log)] if launch.access_log else []
    stack = ["-k", "uvloop", "-w", "1", "--keep-alive", _KEEP_ALIVE_SECONDS]
    stack += ["--config", str(HERE / "hypercorn.toml")]
    return _module("hypercorn", launch.app, "--bind", launch.bind, *stack, *logging)


def _floor(launch: Launch) -> list[str]:
    return [sys.executable, str(HERE / "floor.py"), launch.bind]


OUTRIDER = "outrider"
FLOOR = "floor"

_ALL = (
    Server(OUTRIDER, "Outrider (gunicorn)", ("outrider", "gunicorn", "uvloop", "httptools"), _outrider),
    Server(
        "uvicorn-worker",
        "gunicorn + uvicorn-worker",
        ("uvicorn-worker", "uvicorn", "gunicorn", "uvloop", "httptools"),
        _uvicorn_worker,
    ),
    Server("gunicorn-asgi", "gunicorn asgi (C parser)", ("gunicorn", "gunicorn_h1c", "uvloop"), _gunicorn_asgi),
    Server("uvicorn", "uvicorn (httptools)", ("uvicorn", "uvloop", "httptools"), _uvicorn_httptools),
    Server("uvicorn-zttp", "uvicorn (zttp)", ("uvicorn", "uvloop", "zttp"), _uvicorn_zttp),
    Server("granian", "Granian", ("granian", "uvloop"), _granian),
    Server("granian-no-ws", "Granian --no-ws", ("granian", "uvloop"), _granian_without_websockets),
    Server("h2corn", "h2corn", ("h2corn", "uvloop"), _h2corn),
    Server("hypercorn", "Hypercorn (uvloop)", ("hypercorn", "uvloop"), _hypercorn),
    Server(FLOOR, "raw uvloop constant (floor)", ("uvloop",), _floor, is_floor=True),
)

SERVERS = {server.key: server for server in _ALL}
