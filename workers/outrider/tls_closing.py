"""How far the output of a connection has got.

Only the kernel knows: the size of a TLS transport's buffer leaves out what is in that of the TCP transport below it.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import asyncio

SHUTDOWN_TIMEOUT = 3600.0
"""Seconds after `close()` in which a transport must be rid of what it holds. The write deadlines find a client that
takes nothing; one that takes it slowly shall have its time."""
LINGER = 2.0
"""Seconds for a client to answer a closure alert. It need not: RFC 8446 §6.1."""

# struct tcp_info of Linux: milliseconds since data was last sent, and bytes that were acknowledged (from 4.1 on).
_LAST_DATA_SENT = slice(44, 48)
_BYTES_ACKED = slice(120, 128)
_QUIET = 1000


def measure_backlog(transport: asyncio.Transport) -> int:
    """A number that becomes smaller by each byte that the client takes; only its changes mean something.

    Without TLS the transport can't tell either: the kernel's buffer, once grown, takes nothing until a third of it is
    free, and a client that reads slowly but steadily may need minutes for that.
    """
    if info := _tcp_info(transport):
        return -int.from_bytes(info[_BYTES_ACKED], sys.byteorder)
    return transport.get_write_buffer_size()


def is_flushed(transport: asyncio.Transport) -> bool:
    """Whether a TLS connection on which nothing more is written has nothing left to send, its closure alert included.

    If anything were left above a socket that has been quiet for so long, it would have been sent.
    """
    info = _tcp_info(transport)
    if int.from_bytes(info[_LAST_DATA_SENT], sys.byteorder) < _QUIET:  # also where there is no account
        return False
    unacknowledged = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return not any(unacknowledged)


def _tcp_info(transport: asyncio.Transport) -> bytes:
    """The kernel's account of a connection; empty where there is none: a unix socket, or another system than Linux."""
    sock = cast("socket.socket", transport.get_extra_info("socket"))
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
    except (AttributeError, OSError):
        return b""
    return info if len(info) == _BYTES_ACKED.stop else b""
