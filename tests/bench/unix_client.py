"""A load generator for Unix sockets, in place of wrk.

Run as a script, by `run`; it prints what wrk's script prints.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import cast

from address import Address, request_bytes
from loads import LOADS, Load
from tally import Tally
from wrk import Result, parse, run_pinned


class Connection(asyncio.Protocol):
    """Sends a request, waits for as many bytes as a response has, and sends the next."""

    __slots__ = ("_got", "_request", "_sent_at", "_size", "_tally", "_transport")

    _transport: asyncio.Transport

    def __init__(self, request: bytes, size: int, tally: Tally) -> None:
        """Send ``request`` again and again and count responses of ``size`` bytes into ``tally``."""
        self._request = request
        self._size = size
        self._tally = tally
        self._got = 0
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count a complete response and send the next request."""
        tally = self._tally
        if not self._got and not data.startswith(b"HTTP/1.1 200"):
            tally.errors["status"] += 1
        self._got += len(data)
        if self._got < self._size or not tally.running:
            return
        if self._got > self._size:
            tally.errors["read"] += 1
        tally.latencies.append(time.perf_counter() - self._sent_at)
        self._got = 0
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection that the server closed."""
        self._tally.errors["read"] += self._tally.running

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)


def response_size(load: Load, address: Address) -> int:
    """Return the size in bytes of the server's response: constant, as its body has an announced length."""
    with address.connect() as connection:
        connection.sendall(request_bytes(load))
        response = b""
        while not response.endswith(load.expected):
            received = connection.recv(65536)
            if not received:
                raise ConnectionError("the server closed the connection")
            response += received
    return len(response)


async def generate(load: Load, path: Path, seconds: int) -> str:
    """Send ``load`` to the socket at ``path`` for ``seconds`` and return the result line."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    size = response_size(load, Address(0, path))
    request = request_bytes(load)
    started = time.perf_counter()
    for _ in range(load.connections):
        await loop.create_unix_connection(lambda: Connection(request, size, tally), str(path))
    await asyncio.sleep(seconds - (time.perf_counter() - started))
    tally.running = False
    return tally.as_line(time.perf_counter() - started)


def run(load: Load, path: Path, seconds: int, core: int) -> Result:
    """Run this client, pinned to ``core``, against the socket at ``path`` for ``seconds``.

    Raises:
        LoadError: it failed, hung or printed no result.

    """
    return parse(run_pinned([sys.executable, __file__, load.key, str(path), str(seconds)], core, seconds))


if __name__ == "__main__":
    import uvloop

    sys.stdout.write(uvloop.run(generate(LOADS[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3]))) + "\n")
