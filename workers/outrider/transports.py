"""What asyncio's transports do not offer, by way of their sockets."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from contextlib import suppress
from typing import Any, cast

# Stands in for the transport until there is one.
NOT_CONNECTED = asyncio.Transport()
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_KEEPALIVE_PROBES = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


def is_readable(transport: asyncio.Transport) -> bool:
    """Whether bytes, or the end of them, have arrived that the loop has not read yet."""
    return _poll(transport, select.POLLIN)


def is_broken(transport: asyncio.Transport) -> bool:
    """Whether the connection has gone for good, which a transport that reads no more can't tell."""
    return _poll(transport, 0)  # an error and a hang-up are always reported


def read_nothing_ahead(transport: Any) -> None:
    """Have the loop's own TLS leave to the kernel what comes while reading is paused, as all others do.

    By default it reads on, up to 256 KiB; and when it reads the end of the connection, uvloop throws away what it has
    read ahead. This way it stops at the first bytes, and finds the end behind them when reading goes on.
    """
    transport.set_read_buffer_limits(high=1)


def send_probes(transport: asyncio.Transport) -> None:
    """Have TCP find out, within about a minute and a half, whether the client still exists. Nothing else can."""
    sock = cast("socket.socket", transport.get_extra_info("socket"))
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE_PROBES:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def end_now(transport: asyncio.Transport) -> None:
    """Have the client know, before this returns, that an idle connection ends. To be closed right after.

    `close()` leaves the socket open until the callbacks that are ready have run. A request that came meanwhile would be
    reset, and its client could not tell that nobody has begun with it. Over TLS, where `close()` sends the closure
    alert at once, this does nothing, nor where something is still to be sent.
    """
    if transport.can_write_eof() and not transport.get_write_buffer_size():
        sock = cast("socket.socket", transport.get_extra_info("socket"))
        with suppress(OSError), sock.dup() as own:  # uvloop lets nobody shut its own down
            own.shutdown(socket.SHUT_RDWR)


def reset(transport: asyncio.Transport) -> None:
    """Reset the connection: what is unsent is lost, in the kernel's buffers too."""
    if transport is NOT_CONNECTED:
        return
    sock = cast("socket.socket", transport.get_extra_info("socket"))
    with suppress(OSError):  # it is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


def _poll(transport: asyncio.Transport, events: int) -> bool:
    sock = cast("socket.socket", transport.get_extra_info("socket"))
    poll = select.poll()
    poll.register(sock.fileno(), events)
    return bool(poll.poll(0))
