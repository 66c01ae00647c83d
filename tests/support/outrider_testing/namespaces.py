"""What the machines of the tests have in common: how /dev is made, and how this process gets into their network."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

MAKE_DEV = """\
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for each in null zero full random urandom tty; do
    : > "$root/dev/$each"; mount --bind "/dev/$each" "$root/dev/$each"
done
mkdir -m 1777 "$root/dev/shm"; mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mkdir "$root/dev/pts"; mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
"""
"""Lines of a shell script that runs in a mount namespace of its own: the /dev of a container, below $root."""

_CLONE_NEWNET = 0x40000000  # setns(2)


@contextlib.contextmanager
def in_network_of(pid: int) -> Iterator[None]:
    """Have this thread, and those it starts meanwhile, use the network of a process; open sockets stay where they are.

    Raises:
        OSError: there is no such process, or this is not root.
    """
    with _opened("/proc/thread-self/ns/net") as before:
        with _opened(f"/proc/{pid}/ns/net") as theirs:
            _enter(theirs)
        try:
            yield
        finally:
            _enter(before)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns is there from Python 3.12 on
    if libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
