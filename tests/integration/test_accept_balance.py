"""The accept gate: connections spread evenly over workers that share a socket, one by one and in a burst."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from outrider_testing.gunicorn_process import PROBE, GunicornProcess
from outrider_testing.http_client import HTTPConnection, encode_request
from outrider_testing.load_clients import open_connection
from outrider_testing.serving import Serve

WORKERS = 4
CONNECTIONS = 400
MOST_ABOVE_MEAN = 1.15
ROUNDS = 3
"""A worker that got no processor for a moment has left its share to the others, as it should: then once more."""

pytestmark = pytest.mark.usefixtures("many_descriptors")


@pytest.fixture
def server(serve: Serve) -> GunicornProcess:
    """Four workers that accept from one socket, keep idle connections, and have all answered once."""
    server = serve(PROBE, "--keep-alive", "60", workers=WORKERS)
    _, port = server.tcp_address
    assert listening_sockets(port) == 1, "SO_REUSEPORT would make one for each worker"
    wait_until_all_answer(server)
    return server


def listening_sockets(port: int) -> int:
    """Count the sockets that listen on a TCP port (proc_net_tcp(5): local address, state 0A)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def wait_until_all_answer(server: GunicornProcess) -> None:
    seen: set[int] = set()

    def all_have_answered() -> bool:
        with contextlib.ExitStack() as stack:
            # Held together, for a worker with none of them to be the least loaded.
            for _ in range(WORKERS):
                seen.add(int(ask_pid(stack.enter_context(server.connect()))))
        workers = set(server.workers())
        return len(workers) == WORKERS and workers <= seen

    server.until(all_have_answered, 10.0, "answers of all workers")


def ask_pid(connection: HTTPConnection) -> bytes:
    return connection.request("GET", "/pid").body


def check_balance(connect: Callable[[], Iterable[bytes]]) -> None:
    """`connect` gives who has answered on each of the connections, which were open together."""
    seen = []
    for _ in range(ROUNDS):
        shares = Counter(connect())
        assert shares.total() == CONNECTIONS
        if len(shares) == WORKERS and max(shares.values()) <= MOST_ABOVE_MEAN * CONNECTIONS / WORKERS:
            return
        seen.append(shares)
    raise AssertionError(seen)


def connect_one_by_one(server: GunicornProcess) -> list[bytes]:
    with contextlib.ExitStack() as stack:
        return [ask_pid(stack.enter_context(server.connect())) for _ in range(CONNECTIONS)]


def test_connections_opened_one_by_one_spread_evenly(server: GunicornProcess) -> None:
    check_balance(lambda: connect_one_by_one(server))


def test_connections_opened_in_a_burst_spread_evenly(server: GunicornProcess) -> None:
    async def ask_all() -> list[bytes]:
        everybody_connected = asyncio.Barrier(CONNECTIONS)
        everybody_served = asyncio.Barrier(CONNECTIONS)

        async def ask() -> bytes:
            async with open_connection(server.address) as connection:
                await everybody_connected.wait()
                connection.send(encode_request("GET", "/pid"))
                answer = await connection.read_response()
                await everybody_served.wait()
                return answer.body

        async with asyncio.timeout(20):
            return await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))

    check_balance(lambda: asyncio.run(ask_all()))


def test_connections_stay_balanced_after_a_worker_died(server: GunicornProcess) -> None:
    """The dead worker's row must not go on counting, nor its replacement start with that count."""
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            ask_pid(stack.enter_context(server.connect()))
        server.signal(signal.SIGKILL, server.workers()[0])
        server.until(lambda: len(server.booted_workers()) == WORKERS + 1, what="a new worker")
    wait_until_all_answer(server)
    check_balance(lambda: connect_one_by_one(server))
