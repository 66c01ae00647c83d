"""What several modules ask about the path of a unix socket: whose it is, and whether anybody listens behind it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from pathlib import Path

Identity = tuple[int, int]
"""Device and inode of a path: a path that somebody else has bound since has another one."""

MOST_PATH = 107
"""Bytes of the longest path (sun_path of unix(7) holds 108 with the NUL that ends it)."""
_CREDENTIALS = struct.Struct("3i")


class NotASocket(OSError):
    """The path exists and is something else."""


def identify(path: str | Path) -> Identity | None:
    """Device and inode of the socket at `path`, or None without one."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def unlink_if_same(path: str | Path, identity: Identity | None) -> None:
    """Remove the socket at `path` if it is still the one that `identify` saw. A failure leaves it: it is stale then."""
    if identity is not None and identify(path) == identity:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def remove_stale(path: str | Path) -> int | None:
    """Make room for a socket at `path`: a socket that nobody listens behind is removed.

    Returns None when the path is free, else the process id of the one that listens there (0 if it is not known).

    Raises:
        NotASocket: something else is there.
        OSError: we may not find out, or not remove it.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        raise NotASocket(errno.ENOTSOCK, "it exists and is no socket", str(path))
    listener = listener_behind(path)
    if listener is None:
        unlink_if_same(path, (found.st_dev, found.st_ino))
    return listener


def listener_behind(path: str | Path) -> int | None:
    """The process id of the one that listens at `path`, 0 if it is not known, None if nobody does.

    Raises:
        OSError: we may not connect.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except BlockingIOError:
            return 0  # its queue is full
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                return 0  # a datagram socket: somebody's all the same
            raise
        return peer_credentials(probe)[0]


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Process, user and group id of the other end; on the connecting side they are those of who called listen(2)."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return pid, uid, gid
