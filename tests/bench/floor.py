"""The floor: a uvloop protocol that reads nothing and writes a constant response.

No HTTP server on this event loop can cost less. Run as a script with ``HOST:PORT`` or ``unix:PATH``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\nserver: floor\r\n"
    b"date: Sat, 21 Nov 2026 08:00:00 GMT\r\n\r\nHello, World!"
)


class Constant(asyncio.Protocol):
    """Writes the response once for each segment that arrives (no pipelining, no parsing)."""

    __slots__ = ("_transport",)

    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to write to."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer, whatever was sent."""
        self._transport.write(RESPONSE)


async def serve(bind: str) -> None:
    """Serve on ``HOST:PORT`` or ``unix:PATH`` until cancelled."""
    loop = asyncio.get_running_loop()
    server: asyncio.AbstractServer
    if bind.startswith("unix:"):
        server = await loop.create_unix_server(Constant, bind.removeprefix("unix:"))
    else:
        host, _, port = bind.rpartition(":")
        server = await loop.create_server(Constant, host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
