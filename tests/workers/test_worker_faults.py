"""What an application, or a hook, does wrong in a worker costs that worker at most, and no connection that goes on."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from outrider_testing.forked_worker import read_all
from outrider_testing.http_client import encode_request
from outrider_testing.waiting import until
from outrider_testing.worker_fakes import Fork

LOOPS = pytest.mark.parametrize("asgi_loop", ["uvloop", "asyncio"])
GET = encode_request("GET", "/")
LAST_GET = encode_request("GET", "/", [("Connection", "close")])


async def answer(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


# How it ends


@LOOPS
def test_abort_that_the_application_swallows_ends_the_worker(fork: Fork, tmp_path: Path, asgi_loop: str) -> None:
    held = tmp_path / "held"

    async def holding(_scope: Any, _receive: Any, send: Any) -> None:
        held.touch()
        with contextlib.suppress(BaseException):
            threading.Event().wait(60.0)
        await answer(send)

    worker = fork(lambda: holding, asgi_loop=asgi_loop, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(GET)
        until(held.exists)
        worker.signal(signal.SIGABRT)
        assert worker.wait() == 1


@LOOPS
@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_what_ends_the_loop_does_not_reach_the_arbiter(fork: Fork, asgi_loop: str, error: type[BaseException]) -> None:
    """It would take a KeyboardInterrupt for Ctrl-C, and stop the other workers from within this one."""

    def interrupt() -> None:
        for task in asyncio.all_tasks():
            task.cancel()
        if error is KeyboardInterrupt:
            raise error

    async def interrupted(_scope: Any, _receive: Any, _send: Any) -> None:
        asyncio.get_running_loop().call_soon(interrupt)
        await asyncio.Event().wait()

    worker = fork(lambda: interrupted, asgi_loop=asgi_loop, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(GET)
        assert worker.wait() == 1
    assert f"The worker ends: the application raised {error.__name__}() outside of a request" in worker.log()


def test_interrupt_in_the_import_is_a_failed_boot(fork: Fork) -> None:
    def load() -> Any:
        raise KeyboardInterrupt

    assert fork(load, wait=False).wait() == 3


def test_exit_of_a_task_that_is_cancelled_at_the_end_ends_the_worker_alone(fork: Fork) -> None:
    async def exit_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            sys.exit(3)  # the master would halt everything for it

    tasks = []

    async def starting(_scope: Any, _receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(exit_when_cancelled()))
        await answer(send)

    worker = fork(lambda: starting, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(LAST_GET)
        assert read_all(client).endswith(b"ok")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 1


def test_signal_to_reopen_the_log_that_comes_late_does_not_kill(fork: Fork, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"

    async def starting(_scope: Any, _receive: Any, send: Any) -> None:
        threading.Thread(target=until, args=(go_on.exists, 30.0)).start()
        await answer(send)

    worker = fork(lambda: starting, asgi_lifespan="off", asgi_loop="asyncio", graceful_timeout=30)
    with worker.connect() as client:
        client.sendall(LAST_GET)
        assert read_all(client).endswith(b"ok")
    worker.signal(signal.SIGTERM)
    until(lambda: "Worker exiting" in worker.log())
    worker.signal(signal.SIGUSR1)
    go_on.touch()
    assert worker.wait() == 0


def test_process_that_the_application_forks_takes_signals_as_python_does(fork: Fork) -> None:
    """As early as they come."""

    async def forking(_scope: Any, _receive: Any, send: Any) -> None:
        child = multiprocessing.get_context("fork").Process(target=signal.pause)
        child.start()
        child.terminate()
        await asyncio.to_thread(child.join)
        assert child.exitcode == -signal.SIGTERM
        await answer(send)

    worker = fork(lambda: forking, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(LAST_GET)
        assert read_all(client).endswith(b"ok")


def test_process_that_the_application_forks_keeps_the_handlers_of_the_application(fork: Fork, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def work() -> None:
        begun.touch()
        signal.pause()

    async def forking(_scope: Any, _receive: Any, send: Any) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        await asyncio.to_thread(until, begun.exists)
        child.terminate()
        await asyncio.to_thread(child.join)
        assert child.exitcode == 7
        await answer(send)

    worker = fork(lambda: forking, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(LAST_GET)
        assert read_all(client).endswith(b"ok")


# What goes on


@pytest.mark.parametrize("raw_path", [None, "/changed"])
def test_request_whose_raw_path_was_changed_is_answered(fork: Fork, raw_path: Any) -> None:
    async def failing(scope: Any, _receive: Any, _send: Any) -> None:
        scope["raw_path"] = raw_path
        raise ValueError("broken")

    worker = fork(lambda: failing, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(encode_request("GET", "/%C3%A4"))
        assert read_all(client).startswith(b"HTTP/1.1 500 ")
    until(lambda: "Exception in ASGI application: GET /%C3%A4" in worker.log())


def test_response_with_a_header_in_a_memoryview_survives_the_drain(fork: Fork, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"

    async def streaming(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(memoryview(b"content-type"), memoryview(b"text/plain"))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await asyncio.to_thread(until, go_on.exists)
        await send({"type": "http.response.body", "body": b"ended"})

    worker = fork(lambda: streaming, asgi_lifespan="off", graceful_timeout=30)
    with worker.connect() as client:
        client.sendall(GET)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        worker.signal(signal.SIGTERM)
        until(lambda: worker.state.name == "DRAINING")
        go_on.touch()
        assert b"ended" in read_all(client)
    assert worker.wait() == 0


def test_connection_goes_on_after_a_hook_that_exits(fork: Fork) -> None:
    def post_request(_worker: Any, _request: Any, _environ: Any, _response: Any) -> None:
        raise SystemExit(3)

    async def answering(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send)

    worker = fork(lambda: answering, asgi_lifespan="off", post_request=post_request)
    with worker.connect() as client:
        for _ in range(2):
            client.sendall(GET)
            assert client.recv(4096).endswith(b"ok")
