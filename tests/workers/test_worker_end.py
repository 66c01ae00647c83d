"""The end of a worker's process: its exit code, and what may not keep it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from gunicorn import util
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from outrider_testing.forked_worker import read_all
from outrider_testing.waiting import until
from outrider_testing.worker_fakes import Fork, app, raising

# -- exit codes


async def failing_lifespan(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


@pytest.mark.parametrize(
    "load, settings, status, line",
    [
        (lambda: failing_lifespan, {}, 3, "Application startup failed: no database"),
        (lambda: app, {"protocol": "uwsgi"}, 3, "protocol is 'uwsgi', but outrider.UvicornWorker allows only"),
        (lambda: app, {"certfile": "missing.pem"}, 3, "certfile 'missing.pem'"),
        (raising(ValueError("broken")), {}, 4, "ValueError: broken"),
    ],
)
def test_worker_that_can_not_boot_has_its_exit_code(
    fork: Fork, load: Callable[[], Any], settings: dict[str, Any], status: int, line: str
) -> None:
    worker = fork(load, wait=False, **settings)
    assert worker.wait() == status
    assert line in worker.log()
    assert ("Traceback" in worker.log()) == (status == 4)


def test_failed_probe_is_a_failed_boot(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unhealthy(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body"})

    monkeypatch.setenv("OUTRIDER_PROBE_PATH", "/health")
    worker = fork(lambda: unhealthy, wait=False, asgi_lifespan="off")
    assert worker.wait() == 3
    assert "probe_path /health: the application answered 503, a 2xx is needed" in worker.log()


def test_exception_in_the_probe_is_told_alone(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        logging.getLogger("gunicorn.error").error("pool closed")

    async def health(_request: Request) -> Response:
        raise ValueError("no such column")

    monkeypatch.setenv("OUTRIDER_PROBE_PATH", "/health")
    worker = fork(lambda: Starlette(lifespan=lifespan, routes=[Route("/health", health)]), wait=False)
    assert worker.wait() == 3
    assert 'raise ValueError("no such column")' in worker.log()
    assert "pool closed" in worker.log()
    assert "CancelledError" not in worker.log()


def test_user_that_may_not_be_changed_to_is_a_failed_boot(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_owner_process(*_: object, **__: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(util, "set_owner_process", set_owner_process)
    worker = fork(wait=False)
    assert worker.wait() == 3
    assert "this process may not become uid" in worker.log()
    assert "Traceback" not in worker.log()


def test_other_permission_errors_are_not_blamed_on_the_user(fork: Fork) -> None:
    def post_worker_init(_: Any) -> None:
        raise PermissionError("not yours")

    worker = fork(wait=False, post_worker_init=post_worker_init)
    assert worker.wait() == 3
    assert "PermissionError: not yours" in worker.log()
    assert "may not become" not in worker.log()


@pytest.mark.parametrize("asgi_loop", ["uvloop", "asyncio"])
def test_exit_in_a_request_does_not_end_the_service(fork: Fork, asgi_loop: str) -> None:
    async def leaving(_scope: Any, _receive: Any, _send: Any) -> None:
        sys.exit(3)  # the master would halt everything for it

    worker = fork(lambda: leaving, asgi_loop=asgi_loop, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 500 ")
    until(lambda: "SystemExit: 3" in worker.log())
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.mark.parametrize("asgi_loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("code, status", [(3, 1), (4, 1), (7, 7), (0, 1)])
def test_exit_in_the_background_ends_the_worker_alone(fork: Fork, asgi_loop: str, code: int, status: int) -> None:
    async def leaving(_scope: Any, _receive: Any, _send: Any) -> None:
        asyncio.get_running_loop().call_soon(sys.exit, code)  # for a 3 or 4 the master would halt everything
        await asyncio.Event().wait()

    worker = fork(lambda: leaving, asgi_loop=asgi_loop, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert worker.wait() == status
    assert f"The worker ends: the application called sys.exit({code}) outside of a request" in worker.log()


def test_exit_in_the_boot_keeps_its_code(fork: Fork) -> None:
    async def leaving(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        asyncio.get_running_loop().call_soon(sys.exit, 4)
        await asyncio.Event().wait()

    worker = fork(lambda: leaving, wait=False)
    assert worker.wait() == 4


def _raise(_worker: Any) -> None:
    raise ZeroDivisionError("the hook is wrong")


def test_abort_hook_that_raises_does_not_keep_the_worker(fork: Fork) -> None:
    worker = fork(worker_abort=_raise)
    worker.signal(signal.SIGABRT)
    assert worker.wait() == 1


def test_int_hook_that_raises_does_not_delay_the_end(fork: Fork) -> None:
    worker = fork(worker_int=_raise)
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0
    assert "Exception in worker_int hook" in worker.log()


# -- the end


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signal_after_the_end_does_not_disturb_it(fork: Fork, sig: int) -> None:
    worker = fork(worker_exit=lambda _arbiter, _worker: os.kill(os.getpid(), sig))
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_quick_stop_leaves_stuck_threads_behind(fork: Fork, tmp_path: Path) -> None:
    def hang() -> None:
        (tmp_path / "started").touch()
        threading.Event().wait()

    async def threaded(_scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.to_thread(hang)

    worker = fork(lambda: threaded, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        until((tmp_path / "started").exists)
        asked = time.monotonic()
        worker.signal(signal.SIGQUIT)
        assert worker.wait() == 0
    assert time.monotonic() - asked < 5
    assert "Exiting although threads of the application still run" in worker.log()
