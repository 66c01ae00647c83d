"""How many connections wait at a listener to be accepted. Asks the kernel; no worker is woken."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable

# tcp(7): for a listener, tcpi_unacked of struct tcp_info is the length of its queue.
_TCP_UNACKED = struct.Struct("=24xI")
# sock_diag(7), <linux/sock_diag.h>, <linux/unix_diag.h>
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_UDIAG_SHOW_RQLEN = 0x10
_UNIX_DIAG_RQLEN = 4
_ANY_COOKIE = 0xFFFFFFFF
_MESSAGE = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_RESPONSE = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HH")
_QUEUE = struct.Struct("=II")
_LARGEST_ANSWER = 4096


def count_waiting(listeners: Iterable[socket.socket]) -> int | None:
    """All that wait at these listeners; None if the kernel does not say so of any of them."""
    known = [waiting for waiting in map(_waiting_at, listeners) if waiting is not None]
    return sum(known) if known else None


def _waiting_at(listener: socket.socket) -> int | None:
    try:
        if listener.family == socket.AF_UNIX:
            return _unix_queue(os.fstat(listener.fileno()).st_ino)
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_UNACKED.size)
        return int(_TCP_UNACKED.unpack(info)[0])
    except (OSError, struct.error):  # no such option, no such protocol, a namespace that forbids it
        return None


def _unix_queue(inode: int) -> int | None:
    """Ask sock_diag(7) for the queue of the listening socket with this inode."""
    request = _REQUEST.pack(
        socket.AF_UNIX, 0, 0, _ANY_COOKIE, inode, _UDIAG_SHOW_RQLEN, _ANY_COOKIE, _ANY_COOKIE
    )  # family, protocol, padding, states, inode, what to show, cookie
    header = _MESSAGE.pack(_MESSAGE.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK  # the kernel answers within the call
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as diagnosis:
        diagnosis.sendto(header + request, (0, 0))
        answer = diagnosis.recv(_LARGEST_ANSWER)
    _, message_type, *_ = _MESSAGE.unpack_from(answer)
    if message_type != _SOCK_DIAG_BY_FAMILY:  # an error: there is no such socket (any more)
        return None
    at = _MESSAGE.size + _RESPONSE.size
    while at + _ATTRIBUTE.size <= len(answer):
        length, attribute = _ATTRIBUTE.unpack_from(answer, at)
        if attribute == _UNIX_DIAG_RQLEN:
            return int(_QUEUE.unpack_from(answer, at + _ATTRIBUTE.size)[0])
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)  # aligned to 4
    return None
