"""What a worker does with each signal, with its master's death and at its end; and which hooks run then."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from outrider_testing.gunicorn_process import PROBE, GunicornProcess, parse_listener
from outrider_testing.http_client import can_connect, encode_request
from outrider_testing.processes import is_running, session_members
from outrider_testing.serving import Serve

FAST = 5.0  # seconds that INT and QUIT may take; a drain would take the graceful_timeout, which is 10

PATIENT_DRAIN = {"OUTRIDER_DRAIN_LINGER": "60"}  # the test may be slower than the two seconds by default

HOOKS = """
def post_fork(server, worker): record("post_fork", worker.pid)
def post_worker_init(worker): record("post_worker_init", worker.pid)
def worker_int(worker): record("worker_int", worker.pid)
def worker_abort(worker): record("worker_abort", worker.pid)
def worker_exit(server, worker): record("worker_exit", worker.pid)
def pre_request(worker, req): record("pre_request", worker.pid, req.method, req.path)
def post_request(worker, req, environ, resp): record("post_request", worker.pid, req.path, resp.status)
"""


def only_worker(server: GunicornProcess) -> int:
    (pid,) = server.workers()
    return pid


# TERM


def test_term_lets_request_in_flight_finish(serve: Serve) -> None:
    server = serve()
    with server.hold("request") as connection:
        server.signal(signal.SIGTERM)
        server.until(lambda: not can_connect(server.address), what="the listener closed")
        server.release("request")
        assert connection.read_response().body == b"request"
    assert server.wait() == 0
    assert "cancelled request" not in server.events()
    assert any(event.startswith("shutdown ") for event in server.events())


def test_term_to_worker_finishes_request_and_master_replaces_worker(serve: Serve) -> None:
    server = serve()
    old = only_worker(server)
    with server.hold("request") as connection:
        server.signal(signal.SIGTERM, old)
        server.release("request")
        assert connection.read_response().body == b"request"
    server.wait_until_gone(old)
    server.until(lambda: int(server.get("/pid").body) != old, what="an answer of the new worker")


def test_term_answers_last_request_with_connection_close(serve: Serve) -> None:
    server = serve(env=PATIENT_DRAIN)
    with server.hold("request") as connection:
        server.signal(signal.SIGTERM)
        server.until(lambda: not can_connect(server.address), what="the listener closed")
        server.release("request")
        assert connection.read_response().field("connection").lower() == "close"
        assert connection.is_closed_by_peer(8.0)


def test_term_serves_connection_that_was_silent_so_far(serve: Serve) -> None:
    server = serve(env=PATIENT_DRAIN)
    with server.connect() as silent, server.hold("request") as connection:
        server.signal(signal.SIGTERM)
        server.until(lambda: not can_connect(server.address), what="the listener closed")
        assert silent.request("GET", "/").body == b"hello"
        server.release("request")
        connection.read_response()


# INT and QUIT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_worker_leaves_fast_and_cancels_request(serve: Serve, number: signal.Signals) -> None:
    server = serve(config=HOOKS)
    worker = only_worker(server)
    with server.hold("request") as connection:
        server.signal(number, worker)
        server.wait_until_gone(worker, FAST)
        with contextlib.suppress(ConnectionError):
            assert connection.read_response().status >= 500
    assert "cancelled request" in server.events()
    assert f"worker_int {worker}" in server.events()
    assert f"worker_exit {worker}" in server.events()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_master_stops_fast(serve: Serve, number: signal.Signals) -> None:
    server = serve(workers=2)
    with server.hold("request"):
        start = time.monotonic()
        server.signal(number)
        assert server.wait() == 0
        assert time.monotonic() - start < FAST
    assert "cancelled request" in server.events()
    assert not session_members(server.pid)


# ABRT


def test_abrt_dumps_stacks_and_requests_then_exits(serve: Serve) -> None:
    server = serve(config=HOOKS)
    worker = only_worker(server)
    server.get("/thread")
    with server.hold("request"):
        server.signal(signal.SIGABRT, worker)
        server.wait_until_gone(worker)
    server.until_event(f"worker_abort {worker}")
    server.until_event(f"worker_exit {worker}")
    log = server.log_text()
    assert "idle_in_helper_thread" in log
    assert "/gate/request" in log
    server.until(lambda: server.workers() not in ([], [worker]), what="a new worker")


# USR1, HUP, WINCH


@pytest.mark.parametrize("target", ["master", "worker"])
def test_usr1_reopens_logs(serve: Serve, target: str) -> None:
    server = serve(PROBE, "--access-logfile", "access.log", "--error-logfile", "error.log", workers=0)
    listening = server.until_file("error.log", r"Listening at: (\S+)")
    server.address = parse_listener(listening[1])
    server.until_file("error.log", "Booting worker")
    server.get("/before")
    server.until_file("access.log", "/before")
    access_log = server.directory / "access.log"
    access_log.rename(server.directory / "access.log.1")
    server.signal(signal.SIGUSR1, None if target == "master" else only_worker(server))
    server.until(access_log.exists, what="the new access log")
    # The master opens its own copy first; the worker's lines move when its turn comes.
    server.until(lambda: server.get("/after").status and "/after" in access_log.read_text())
    assert "/before" not in access_log.read_text()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGWINCH])
def test_worker_ignores_signal(serve: Serve, number: signal.Signals) -> None:
    server = serve()
    worker = only_worker(server)
    with server.hold("request") as connection:
        server.signal(number, worker)
        server.release("request")
        assert connection.read_response().body == b"request"
        assert int(connection.request("GET", "/pid").body) == worker
    assert server.booted_workers() == [worker]


# The master's death


def test_workers_leave_when_master_is_killed(serve: Serve) -> None:
    server = serve(workers=2)
    workers = server.workers()
    server.signal(signal.SIGKILL)
    server.wait()
    for worker in workers:
        server.wait_until_gone(worker)
    assert not session_members(server.pid)
    assert not can_connect(server.address)


def test_worker_with_request_leaves_when_master_is_killed(serve: Serve) -> None:
    server = serve()
    worker = only_worker(server)
    with server.hold("request") as connection:
        server.signal(signal.SIGKILL)
        server.wait()
        server.until(lambda: not can_connect(server.address), what="the listener closed")
        assert is_running(worker)
        server.release("request")
        assert connection.read_response().body == b"request"
    server.wait_until_gone(worker)


def test_worker_with_held_loop_leaves_when_master_is_killed(serve: Serve) -> None:
    """Nobody is left who would kill it for its missing heartbeat."""
    server = serve(PROBE, "--timeout", "2")
    worker = only_worker(server)
    with server.connect() as connection:
        connection.send(encode_request("GET", "/spin"))
        server.until_event(f"blocking {worker}")
        server.signal(signal.SIGKILL)
        server.wait()
        server.wait_until_gone(worker, 8.0)


# Hooks


def test_hooks_run_around_worker_and_request(serve: Serve) -> None:
    server = serve(config=HOOKS)
    worker = only_worker(server)
    with server.connect() as connection:
        assert connection.request("GET", "/pid?query=1").status == 200
        assert connection.request("POST", "/missing", body=b"body").status == 404
        assert connection.request("GET", "/fail").status == 500
    server.stop()
    events = [event for event in server.events() if not event.endswith((" /", " / 200 OK", " / 200"))]
    requests = [event.removesuffix(" OK") for event in events if "_request " in event]
    assert [event.split()[:4] for event in requests] == [
        ["pre_request", str(worker), "GET", "/pid"],
        ["post_request", str(worker), "/pid", "200"],
        ["pre_request", str(worker), "POST", "/missing"],
        ["post_request", str(worker), "/missing", "404"],
        ["pre_request", str(worker), "GET", "/fail"],
        ["post_request", str(worker), "/fail", "500"],
    ]
    life = [event for event in events if "_request " not in event]
    assert life == [
        f"post_fork {worker}",
        f"post_worker_init {worker}",
        f"startup {worker}",
        f"shutdown {worker}",
        f"worker_exit {worker}",
    ]


def test_failing_hook_neither_loses_request_nor_ends_worker(serve: Serve) -> None:
    server = serve(config="def pre_request(worker, req): raise RuntimeError('the hook fails on purpose')\n")
    worker = only_worker(server)
    assert server.get("/missing").status in {404, 500}
    server.until_log("the hook fails on purpose")
    assert server.workers() == [worker]


def test_preloaded_application_is_loaded_once_before_workers(serve: Serve) -> None:
    server = serve(PROBE, "--preload", workers=2, config=HOOKS)
    assert server.get("/pid").status == 200
    assert sorted(server.workers()) == sorted(set(server.booted_workers()))

    def count(event: str) -> int:
        return sum(line.startswith(f"{event} ") for line in server.events())

    server.until(lambda: count("startup") == 2, what="both workers")
    server.stop()
    assert server.process.returncode == 0
    assert count("shutdown") == 2
