"""The heartbeat, the watchdog that names who holds the loop, and the deadline of a drain."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable

import pytest

from outrider_testing.gunicorn_process import PROBE, GunicornProcess
from outrider_testing.http_client import HTTPConnection, encode_request
from outrider_testing.serving import Serve

PATIENCE = 8.0
"""Seconds to wait for the end of a worker: fewer than those of gunicorn.conf.py's graceful_timeout."""

KILLS = 3


def start_request(server: GunicornProcess, target: str) -> HTTPConnection:
    connection = server.connect(timeout=15.0)
    connection.send(encode_request("GET", target))
    return connection


# A loop that is held


@pytest.mark.parametrize(
    "target, culprit",
    [("/block?seconds=30", "hold_loop_in_system_call"), ("/spin", "spin_for_ever")],
)
def test_watchdog_names_culprit_before_gunicorn_kills_worker(serve: Serve, target: str, culprit: str) -> None:
    # Without the stall warning, what is logged comes from the timeout.
    server = serve(PROBE, "--timeout", "2", env={"OUTRIDER_STALL_WARNING": "0"})
    wanted = (culprit, f"GET {target.partition('?')[0]}")

    def names_culprit() -> bool:
        logged = len(server.log_text())
        (worker,) = server.workers()
        with start_request(server, target):
            server.until_event(f"blocking {worker}")
            server.wait_until_gone(worker, PATIENCE)
        server.until(lambda: server.get("/pid").status == 200, what="the next worker's answer")
        log = server.log_text()[logged:]
        killed = log.index("WORKER TIMEOUT")
        return all(words in log[:killed] for words in wanted)

    # For a worker that gets no processor meanwhile, the master does not wait.
    assert any(names_culprit() for _ in range(KILLS)), "stack and request in flight come too late"


def test_stall_warning_names_culprit_and_worker_goes_on(serve: Serve) -> None:
    server = serve()
    (worker,) = server.workers()
    with start_request(server, "/block?gate=loop") as connection:
        server.until_log(r"\[WARNING\].*(loop|stall|held|block)")
        server.until_log("Requests in flight:\n.*/block")
        server.release("loop")
        assert connection.read_response().body == b"done"
    assert "hold_loop_at_gate" in server.log_text()
    assert server.workers() == [worker]


def test_stall_warning_period_is_setting(serve: Serve) -> None:
    server = serve(env={"OUTRIDER_STALL_WARNING": "0.2"})

    def is_told() -> bool:
        # Each is too short for the default. One in which the worker got no processor is forgiven.
        assert server.get("/block?seconds=0.6").body == b"done"
        return "hold_loop_in_system_call" in server.log_text()

    server.until(is_told, what="a warning")


def test_quick_requests_cause_no_warning(serve: Serve) -> None:
    server = serve()
    for _ in range(20):
        assert server.get("/slow?seconds=0.01").status == 200
    assert "[WARNING]" not in server.log_text()


def test_idle_worker_outlives_timeout(serve: Serve) -> None:
    server = serve(PROBE, "--timeout", "3")
    (worker,) = server.workers()
    with start_request(server, "/slow?seconds=6") as connection:
        assert connection.read_response().body == b"done"
    assert server.workers() == [worker]
    assert "WORKER TIMEOUT" not in server.log_text()


def test_timeout_zero_switches_heartbeat_off(serve: Serve) -> None:
    server = serve(PROBE, "--timeout", "0")
    with start_request(server, "/block?seconds=1.2") as connection:
        assert connection.read_response().body == b"done"
    assert len(server.booted_workers()) == 1


def test_what_waits_to_be_accepted_is_left_to_next_worker(serve: Serve) -> None:
    server = serve()
    (worker,) = server.workers()
    with contextlib.ExitStack() as stack:
        stack.enter_context(start_request(server, "/block?gate=loop"))
        server.until_event(f"blocking {worker}")
        waiting = [stack.enter_context(start_request(server, "/pid")) for _ in range(4)]
        server.signal(signal.SIGABRT, worker)
        assert worker not in {int(connection.read_response().body) for connection in waiting}


# Drain


def signal_master(server: GunicornProcess) -> None:
    server.signal(signal.SIGTERM)


def signal_worker(server: GunicornProcess) -> None:
    server.signal(signal.SIGTERM, server.workers()[0])


def test_drain_longer_than_timeout_completes(serve: Serve) -> None:
    """The two ways to drain pass their four seconds side by side."""
    acts: tuple[Callable[[GunicornProcess], None], ...] = (signal_master, signal_worker)
    servers = [serve(PROBE, "--timeout", "2") for _ in acts]
    connections = [start_request(server, "/slow?seconds=4") for server in servers]
    for server, act in zip(servers, acts, strict=True):
        server.until_event("slow")
        act(server)
    for server, connection in zip(servers, connections, strict=True):
        with connection:
            assert connection.read_response().body == b"done"
        assert "WORKER TIMEOUT" not in server.log_text()


def test_graceful_timeout_is_deadline_of_worker(serve: Serve) -> None:
    server = serve(PROBE, "--graceful-timeout", "1")
    (worker,) = server.workers()
    with server.hold("request"):
        start = time.monotonic()
        server.signal(signal.SIGTERM, worker)
        server.wait_until_gone(worker, PATIENCE)
        assert time.monotonic() - start > 0.7
    # Who did not finish in time is in the log.
    assert "/gate/request" in server.log_text()


def test_graceful_timeout_bounds_lifespan_shutdown(serve: Serve) -> None:
    server = serve("outrider_testing.apps.broken:shutdown_hangs", "--graceful-timeout", "1")
    (worker,) = server.workers()
    server.signal(signal.SIGTERM, worker)
    server.wait_until_gone(worker, PATIENCE)


def test_second_signal_ends_drain_at_once(serve: Serve) -> None:
    server = serve()
    (worker,) = server.workers()
    with server.hold("request"):
        server.signal(signal.SIGTERM, worker)
        server.signal(signal.SIGQUIT, worker)
        server.wait_until_gone(worker, PATIENCE)
    assert "cancelled request" in server.events()


# Recycling


def test_worker_is_recycled_after_max_requests(serve: Serve) -> None:
    server = serve(PROBE, "--max-requests", "5")
    pids = [int(server.get("/pid", timeout=15.0).body) for _ in range(16)]
    # A connection that comes in while the worker stops accepting may still be served by it.
    assert max(pids.count(pid) for pid in pids) <= 7
    assert len(set(pids)) >= 3


def test_recycled_worker_finishes_request_in_flight(serve: Serve) -> None:
    server = serve(PROBE, "--max-requests", "4")
    (worker,) = server.workers()
    with server.hold("request") as connection:
        answers: list[bytes] = []
        asking = threading.Thread(target=lambda: answers.extend(server.get("/pid").body for _ in range(6)))
        asking.start()
        server.until(lambda: len(answers) >= 2, what="the requests before the limit")
        server.release("request")
        assert connection.read_response().body == b"request"
        asking.join(10.0)
    assert len(answers) == 6
    server.wait_until_gone(worker)
    assert int(answers[-1]) != worker


# Development reload


def test_worker_is_replaced_when_file_changes(serve: Serve) -> None:
    source = "from outrider_testing.apps.probe import make\napp = make({greeting!r})\n"
    server = serve("changing:app", "--reload", files={"changing.py": source.format(greeting="old")})
    assert server.get("/").body == b"old"

    def is_new_after_change() -> bool:
        # gunicorn's reloader misses a change that comes before its first look at the file.
        new = server.directory / "changing.new"
        new.write_text(source.format(greeting="new"))
        new.replace(server.directory / "changing.py")  # at one blow: a worker may import it at any moment
        return server.get("/").body == b"new"

    server.until(is_new_after_change, what="the new application")
