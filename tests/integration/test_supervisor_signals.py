"""How a service is stopped, and what the signals do to it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from outrider_testing import releases
from outrider_testing.http_client import HTTPConnection, can_connect
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Supervise


def is_cut(connection: HTTPConnection) -> bool:
    """Tell whether the request ends without its answer; the server may still be able to say that it failed."""
    try:
        return connection.read_head().status >= 500
    except ConnectionError:
        return True


# stop


def test_stop_lets_requests_finish(supervise: Supervise) -> None:
    server = supervise()
    with server.hold("request") as connection:
        stop = server.begin("stop")
        server.until(lambda: not can_connect(server.address), what="the listener closed")
        server.release("request")
        assert connection.read_response().status == 200
    server.finish(stop).check()
    assert server.wait() == 0
    assert not Path(server.control_socket).exists()


def test_fast_stop_cuts_requests(supervise: Supervise) -> None:
    server = supervise()
    with server.hold("request") as connection:
        server.command("stop", "--fast").check()
        assert is_cut(connection)
    assert server.wait() == 0


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_stop_at_once(supervise: Supervise, number: signal.Signals) -> None:
    server = supervise()
    with server.hold("request") as connection:
        server.signal(number)
        assert is_cut(connection)
    assert server.wait() == 0


def test_second_term_stops_at_once(supervise: Supervise) -> None:
    server = supervise("--graceful-timeout", "600")
    with server.hold("request") as connection:
        server.signal(signal.SIGTERM)
        server.until_log("stopping: workers finish what they hold")
        server.signal(signal.SIGTERM)
        assert is_cut(connection)
    assert server.wait() == 0


def test_hup_reloads(changing: OutriderProcess) -> None:
    generation = changing.current()["number"]
    releases.deploy(changing.directory, releases.good(2))
    changing.signal(signal.SIGHUP)
    changing.wait_until_settled(2, generation + 1)
    assert changing.version() == "2"


def test_ttin_and_ttou_change_the_number_of_workers_one_by_one(changing: OutriderProcess) -> None:
    for number, workers in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
        changing.signal(number)
        changing.wait_until_settled(workers)
    changing.signal(signal.SIGTTOU)
    changing.until_log("scaling from 1 to 1 workers")
    changing.wait_until_settled(1)


def test_usr1_reopens_logs_of_everybody(supervise: Supervise) -> None:
    server = supervise("--error-logfile", "error.log", "--access-logfile", "access.log")
    for name in ("error.log", "access.log"):
        (server.directory / name).rename(server.directory / f"old-{name}")
    server.signal(signal.SIGUSR1)
    server.until_file("error.log", "log files reopened")
    # The worker gets to know after the supervisor, and opens a file when it has a line for it.
    server.until(lambda: server.get("/").status == 200 and (server.directory / "access.log").exists())
    server.get("/fail")
    server.until_file("error.log", "the probe fails on purpose")


def test_usr2_upgrades(changing: OutriderProcess) -> None:
    workers = changing.workers()
    before = changing.log_text().count("replaced in place")
    changing.signal(signal.SIGUSR2)
    changing.until(lambda: changing.log_text().count("replaced in place") > before)
    changing.wait_until_settled(2)
    assert changing.workers() == workers
