"""SIGUSR2 to a worker: what it does at the moment is in the log, and it serves on."""

from __future__ import annotations

import signal

from outrider_testing.http_client import encode_request
from outrider_testing.serving import Serve


def test_dump_shows_where_the_application_waits(serve: Serve) -> None:
    server = serve()
    (worker,) = server.workers()
    with server.hold("request") as connection:
        server.signal(signal.SIGUSR2, worker)
        server.until_log(
            rf"\[WARNING\] Worker dump \(pid: {worker}\)\. Requests in flight:\nGET /gate/request from 127"
        )
        # The request's task, from the server's frame through the application's to the innermost.
        server.until_log(
            r"Task 'request', HTTPStream._run:\n(  .*\n)+  .*, in gate\n.*\n  .*, in wait_at_gate\n.*\n  .*, in sleep\n"
        )
        server.until_log(r"(?m)^Thread MainThread \(")
        assert "arbiter.py" not in server.log_text()  # gunicorn's way to the worker is left out
        server.release("request")
        assert connection.read_response().body == b"request"
    assert server.get("/pid").body == b"%d" % worker


def test_dump_of_a_blocked_loop_comes_while_it_is_blocked(serve: Serve) -> None:
    server = serve(env={"OUTRIDER_STALL_WARNING": "0"})
    (worker,) = server.workers()
    with server.connect(timeout=15.0) as connection:
        connection.send(encode_request("GET", "/block?gate=loop"))
        server.until_event(f"blocking {worker}")
        server.signal(signal.SIGUSR2, worker)
        server.until_log(r"in hold_loop_at_gate\n")
        server.release("loop")
        assert connection.read_response().body == b"done"
    assert server.workers() == [worker]


def test_dumps_in_a_row_do_not_disturb_requests(serve: Serve) -> None:
    server = serve()
    (worker,) = server.workers()
    for _ in range(50):
        with server.connect() as connection:
            connection.send(encode_request("GET", "/slow?seconds=0.01"))
            server.signal(signal.SIGUSR2, worker)
            assert connection.read_response().body == b"done"
    assert server.workers() == [worker]
    assert server.log_text().count("Worker dump") > 1
