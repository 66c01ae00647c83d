"""A worker in a process of its own: signals during its boot and its service, and what it tells when asked."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from outrider.scoreboard import Field, WorkerState
from outrider.worker import UvicornWorker
from outrider_testing.forked_worker import PATIENCE, read_all
from outrider_testing.waiting import until
from outrider_testing.worker_fakes import Fork, app

# -- what it does at the moment


@pytest.mark.parametrize("asgi_loop", ["uvloop", "asyncio"])
def test_usr2_logs_what_waits_and_the_worker_serves_on(fork: Fork, tmp_path: Path, asgi_loop: str) -> None:
    async def waiting(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            (tmp_path / "waiting").touch()
            await asyncio.get_running_loop().create_future()
        await app(scope, _receive, send)

    worker = fork(lambda: waiting, asgi_loop=asgi_loop, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        until((tmp_path / "waiting").exists)
        for count in (1, 2):
            worker.signal(signal.SIGUSR2)
            until(lambda count=count: worker.log().count("Worker dump (pid: ") == count)  # type: ignore[misc]  # a lambda has no types
        assert "[WARNING] Worker dump" in worker.log()
        assert "Requests in flight:\nGET /wait from 127.0.0.1:" in worker.log()
        assert "in waiting\n    await asyncio.get_running_loop().create_future()" in worker.log()
        assert "Thread outrider-watchdog (" in worker.log()
        assert b"200 OK" in worker.get()
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0


def test_usr2_tells_where_a_blocked_loop_is(fork: Fork, tmp_path: Path) -> None:
    async def blocking(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/block":
            (tmp_path / "blocked").touch()
            while not (tmp_path / "release").exists():
                pass
        await app(scope, _receive, send)

    worker = fork(lambda: blocking, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET /block HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        until((tmp_path / "blocked").exists)
        worker.signal(signal.SIGUSR2)
        until(lambda: "Worker dump (pid: " in worker.log())
        (tmp_path / "release").touch()
        assert b"200 OK" in read_all(client)
    thread = worker.log().partition("Thread MainThread (")[2].partition("Thread ")[0]
    assert "in blocking\n" in thread
    assert "runs, see the stack of its thread\n" in worker.log()


# -- signals during the boot


def test_usr2_during_the_import_tells_where_it_is(fork: Fork) -> None:
    def load() -> Any:
        os.kill(os.getpid(), signal.SIGUSR2)
        return app

    worker = fork(load)
    assert "in load\n    os.kill(os.getpid(), signal.SIGUSR2)\n" in worker.log()
    assert b"200 OK" in worker.get()


def test_usr2_between_fork_and_handlers_is_survived(fork: Fork) -> None:
    def post_fork(arbiter: Any, _: Any) -> None:
        signal.signal(signal.SIGUSR2, arbiter.signal)  # as gunicorn's master has it when it forks
        os.kill(os.getpid(), signal.SIGUSR2)

    worker = fork(post_fork=post_fork)
    assert signal.SIGUSR2 not in UvicornWorker.SIGNALS, "gunicorn would reset it to its default, which kills"
    assert b"200 OK" in worker.get()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signal_between_fork_and_handlers_is_not_lost(fork: Fork, tmp_path: Path, sig: int) -> None:
    def post_fork(arbiter: Any, _: Any) -> None:
        # gunicorn's master handles these signals when it forks.
        signal.signal(sig, arbiter.signal)
        signal.signal(signal.SIGTERM, arbiter.signal)
        os.kill(os.getpid(), sig)
        os.kill(os.getpid(), signal.SIGUSR1)

    def load() -> Any:
        (tmp_path / "imported").touch()

    signal.signal(signal.SIGUSR1, lambda *_: None)
    worker = fork(load, wait=False, post_fork=post_fork)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert worker.wait() == 0
    assert not (tmp_path / "imported").exists()


def test_log_is_reopened_also_if_the_signal_comes_between_fork_and_handlers(fork: Fork, tmp_path: Path) -> None:
    log = tmp_path / "reopened.log"

    def post_fork(arbiter: Any, _: Any) -> None:
        logging.getLogger("gunicorn.error").addHandler(logging.FileHandler(log))
        log.unlink()
        for sig in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(sig, arbiter.signal)
        os.kill(os.getpid(), signal.SIGUSR1)

    assert b"200 OK" in fork(post_fork=post_fork).get()
    assert log.exists()


def test_term_during_the_import_ends_it(fork: Fork) -> None:
    def load() -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return threading.Event().wait()

    assert fork(load, wait=False).wait() == 0


@pytest.mark.parametrize("sig", [signal.SIGUSR1, signal.SIGHUP, signal.SIGWINCH])
def test_signal_that_means_nothing_during_the_boot_is_survived(fork: Fork, sig: int) -> None:
    def load() -> Any:
        os.kill(os.getpid(), sig)
        return app

    worker = fork(load)
    assert b"200 OK" in worker.get()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


# -- running


def hooks(directory: Path) -> dict[str, Any]:
    """Every hook of the worker, each of which writes its name into a file."""

    def note(name: str) -> None:
        with (directory / "hooks").open("a") as file:
            file.write(f"{name} ")

    return {
        "post_fork": lambda _arbiter, _worker: note("post_fork"),
        "post_worker_init": lambda _worker: note("post_worker_init"),
        "pre_request": lambda _worker, _request: note("pre_request"),
        "post_request": lambda _worker, _request: note("post_request"),
        "worker_int": lambda _worker: note("worker_int"),
        "worker_exit": lambda _arbiter, _worker: note("worker_exit"),
    }


@pytest.mark.parametrize("asgi_loop", ["auto", "asyncio"])
@pytest.mark.parametrize(
    "sig, interrupted", [(signal.SIGTERM, ""), (signal.SIGINT, "worker_int "), (signal.SIGQUIT, "worker_int ")]
)
def test_worker_serves_and_stops(fork: Fork, tmp_path: Path, asgi_loop: str, sig: int, interrupted: str) -> None:
    worker = fork(asgi_loop=asgi_loop, **hooks(tmp_path))
    answer = worker.get()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nserver: outrider\r\n" in answer.lower()
    until(lambda: worker.row[Field.REQUESTS] == 1)
    assert worker.row[Field.PID] == worker.pid
    worker.signal(sig)
    assert worker.wait() == 0
    assert worker.state is WorkerState.EXITED
    expected = f"post_fork post_worker_init pre_request post_request {interrupted}worker_exit "
    assert (tmp_path / "hooks").read_text() == expected


@pytest.mark.parametrize("asgi_loop", ["uvloop", "asyncio"])
def test_signals_that_mean_nothing_change_nothing(fork: Fork, asgi_loop: str) -> None:
    worker = fork(asgi_loop=asgi_loop, loglevel="debug")
    worker.signal(signal.SIGHUP)
    worker.signal(signal.SIGWINCH)
    until(lambda: "worker: SIGHUP ignored" in worker.log() and "worker: SIGWINCH ignored" in worker.log())
    assert b"200 OK" in worker.get()


def test_usr1_reopens_the_logs(fork: Fork) -> None:
    worker = fork()
    worker.log_path.rename(worker.log_path.with_suffix(".1"))
    worker.signal(signal.SIGUSR1)
    until(worker.log_path.exists)


@pytest.mark.parametrize("asgi_loop", ["uvloop", "asyncio"])
def test_abort_of_a_blocked_loop_names_the_request(fork: Fork, tmp_path: Path, asgi_loop: str) -> None:
    async def blocking(scope: Any, _receive: Any, _send: Any) -> None:
        if scope["type"] == "http":
            (tmp_path / "blocked").touch()
            threading.Event().wait()

    worker = fork(lambda: blocking, asgi_loop=asgi_loop, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        until((tmp_path / "blocked").exists)
        worker.signal(signal.SIGABRT)
        assert worker.wait() == 1
    assert "GET /slow from 127.0.0.1:" in worker.log()
    assert "in blocking\n" in worker.log()


@pytest.mark.parametrize(
    "sig, settings", [(signal.SIGINT, {}), (signal.SIGQUIT, {}), (signal.SIGTERM, {"graceful_timeout": 1})]
)
def test_stop_of_a_blocked_loop_has_its_deadline_too(
    fork: Fork, tmp_path: Path, sig: int, settings: dict[str, Any]
) -> None:
    async def blocking(_scope: Any, _receive: Any, _send: Any) -> None:
        (tmp_path / "blocked").touch()
        threading.Event().wait()

    worker = fork(lambda: blocking, asgi_lifespan="off", **settings)
    with worker.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        until((tmp_path / "blocked").exists)
        worker.signal(sig)
        assert worker.wait() == 1
    assert "Requests in flight:\nGET /slow from 127.0.0.1:" in worker.log()
    assert "in blocking\n" in worker.log()


def test_worker_without_its_parent_ends(fork: Fork) -> None:
    def leave_parent(worker: Any) -> None:
        worker.ppid = 1

    worker = fork(wait=False, post_worker_init=leave_parent)
    assert worker.wait() == 0
    assert "Parent changed, shutting down" in worker.log()


def test_max_requests_ends_the_worker(fork: Fork) -> None:
    worker = fork(max_requests=2)
    worker.get()
    worker.get()
    assert worker.wait() == 0
    assert "Autorestarting worker after 2 requests." in worker.log()


def test_threads_size_the_default_executor(fork: Fork) -> None:
    def name_of_thread() -> str:
        barrier.wait(PATIENCE)
        return threading.current_thread().name

    async def threaded(_scope: Any, _receive: Any, send: Any) -> None:
        names = await asyncio.gather(*(asyncio.to_thread(name_of_thread) for _ in range(3)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": " ".join(sorted(names)).encode()})

    barrier = threading.Barrier(3)
    worker = fork(lambda: threaded, threads=3, asgi_lifespan="off")
    assert b"outrider_0 outrider_1 outrider_2" in worker.get()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_fresh_worker_waits_for_its_application_when_drained(fork: Fork) -> None:
    async def slow(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        await asyncio.get_running_loop().create_future()

    worker = fork(lambda: slow, wait=False)
    until(lambda: worker.state is WorkerState.BOOTING)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
