"""What the tests of the worker class share: fakes of what is around it, an application, and helpers to look at it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, cast

from gunicorn.config import Config

from outrider.server import Server, Stop
from outrider.watchdog import Watchdog
from outrider.worker import UvicornWorker
from outrider_testing.forked_worker import ForkedWorker

MakeWorker = Callable[..., UvicornWorker]
Fork = Callable[..., ForkedWorker]


class WorkerLog:
    """The part of gunicorn's logger that the worker uses itself."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.setups = 0
        self.error_log = self.access_log = logging.getLogger("outrider.test")

    def setup(self, cfg: Any) -> None:
        self.setups += 1

    def info(self, message: str, *args: object, **_: object) -> None:
        self.lines.append(message % args)

    debug = warning = error = exception = critical = info


class FakeWatchdog:
    """Keeps what it was asked to do at a deadline."""

    def __init__(self) -> None:
        self.beats = self.stalls = 0
        self.expiries: list[tuple[float, Callable[[], object]]] = []

    def beat(self) -> None:
        self.beats += 1

    def expire_at(self, deadline: float, action: Callable[[], object]) -> None:
        self.expiries.append((deadline, action))


class FakeServer:
    """Keeps how it was told to stop."""

    def __init__(self) -> None:
        self.stops: list[Stop] = []

    def stop(self, how: Stop, asked_at: float | None) -> None:
        assert asked_at is None
        self.stops.append(how)


def with_watchdog(worker: UvicornWorker) -> FakeWatchdog:
    """Give a worker a fake watchdog; that."""
    watchdog = FakeWatchdog()
    worker._watchdog = cast("Watchdog", watchdog)
    return watchdog


def with_server(worker: UvicornWorker) -> list[Stop]:
    """Give a worker a fake server; what that is told."""
    server = FakeServer()
    worker._server = cast("Server", server)
    return server.stops


def lines_of(worker: UvicornWorker) -> list[str]:
    """What a worker has logged."""
    return cast("WorkerLog", worker.log).lines


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the name of the thread that runs it."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = threading.current_thread().name.encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def raising(error: BaseException) -> Callable[[], Any]:
    """An import that fails."""

    def load() -> Any:
        raise error

    return load


def check_config(
    worker_class: type[UvicornWorker] = UvicornWorker, setting: str = "bind", value: str = ":0"
) -> list[str]:
    """Run check_config; what it logs."""
    cfg, log = Config(), WorkerLog()
    cfg.set(setting, value)
    worker_class.check_config(cfg, log)
    assert log.setups == ("log_level" in worker_class.CONFIG_KWARGS)
    return log.lines
