"""What asyncio's transports do not offer, by way of their sockets."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from contextlib import suppress
from typing import cast

# Stands in for the transport until there is one.
NOT_CONNECTED = asyncio.Transport()
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def is_readable(transport: asyncio.Transport) -> bool:
    """Whether bytes, or the end of them, have arrived that the loop has not read yet."""
    sock = cast("socket.socket", transport.get_extra_info("socket"))
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def reset(transport: asyncio.Transport) -> None:
    """Reset the connection: what is unsent is lost, in the kernel's buffers too."""
    if transport is NOT_CONNECTED:
        return
    sock = cast("socket.socket", transport.get_extra_info("socket"))
    with suppress(OSError):  # it is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
