"""A canary is judged by real traffic, also where every client keeps its connection open, as proxies do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from outrider_testing import releases
from outrider_testing.http_client import HTTPConnection
from outrider_testing.launchers import BUSY_MACHINE
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Supervise

CLIENTS = 6
# Far longer than it takes until the canary has got a connection and failed; it would pass without any request.
OPTIONS = ("--canary-seconds", "10", "--canary-requests", "1000000")
# No connection ends while a client that waits for the processor is about to ask on it.
PATIENT = ("--keep-alive", "60", "--drain-linger", "60")


@contextmanager
def clients_that_keep_their_connections(server: OutriderProcess) -> Iterator[None]:
    """Ask over and over; connect again only where the server has asked for it."""
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            with HTTPConnection(server.address) as connection:
                while not is_over.is_set():
                    if connection.request("GET", "/").field("connection") == "close":
                        break

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_canary_sees_the_requests_of_clients_that_stay_connected(supervise: Supervise) -> None:
    server = supervise(*OPTIONS, *PATIENT, workers=2, launcher=BUSY_MACHINE)
    before = server.workers(1)
    with clients_that_keep_their_connections(server):
        releases.deploy(server.directory, releases.faulty(2, "half fails"))
        output = server.reload().check(1)
    assert "were 5xx" in output
    assert server.workers(1) == before
