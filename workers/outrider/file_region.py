"""Part of an open file that a response sends: read, or sent by the kernel, without the loop waiting for a disk."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import asyncio

# One read, and what the kernel is asked to send in one go: the loop's other work waits for no more than this.
MOST_READ = 131072
MOST_SENT = 1 << 20

# Linux: read only what is in memory. Where a C library lacks it, every read is made in a thread.
_NO_WAIT = getattr(os, "RWF_NOWAIT", None)


class FileRegion:
    """`left` bytes from `offset` of a file, on a descriptor of its own: closing the file elsewhere does no harm.

    A context manager, which closes the descriptor. Methods that take bytes out of it move `offset` and `left`.
    """

    __slots__ = ("_ahead", "_fd", "left", "offset")

    def __init__(self, fd: int, offset: int, count: int | None) -> None:
        """Own `fd`.

        Args:
            fd: descriptor of a regular file, which the region closes; also where it raises.
            offset: of the first byte.
            count: most bytes; None for all up to the end of the file, which is where the region ends in any case.

        Raises:
            ValueError: it is no regular file, or a number is negative.
        """
        self._fd = fd
        self._ahead = b""
        self.offset = offset
        try:
            self.left = _measure(fd, offset, count)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, path: str) -> FileRegion:
        """All of the file at `path`. It may wait for a disk: to be called in a thread, which reads a small one as well.

        Raises:
            OSError: it can't be opened or read.
            ValueError: it is no regular file.
        """
        # Without O_NONBLOCK, the opening of a named pipe waits for somebody to write to it.
        region = cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), 0, None)
        if region.left <= MOST_READ:
            try:
                region._ahead = os.pread(region._fd, region.left, 0)
            except OSError:
                os.close(region._fd)
                raise
        return region

    @classmethod
    def of(cls, file: Any, offset: int | None, count: int | None) -> FileRegion:
        """Part of an open file; without `offset`, from the file's position, which moves behind what is sent.

        Raises:
            OSError: it has no descriptor, or the descriptor is closed.
            ValueError: as of the constructor.
        """
        start = file.tell() if offset is None else offset
        region = cls(os.dup(file.fileno()), start, count)
        if offset is None:
            file.seek(region.offset + region.left)
        return region

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    async def read(self, loop: asyncio.AbstractEventLoop, most: int = MOST_READ) -> bytes:
        """Take the next bytes, at most `most`; from a thread if they are not in memory.

        Raises:
            OSError: the file can't be read.
            EOFError: the file has become shorter.
        """
        size = min(self.left, most)
        if self._ahead:
            data, self._ahead = self._ahead, b""
        elif self._is_in_memory(size):
            data = os.pread(self._fd, size, self.offset)
        else:
            data = await loop.run_in_executor(None, os.pread, self._fd, size, self.offset)
        self._advance(len(data))
        return data

    async def send(self, loop: asyncio.AbstractEventLoop, socket_fd: int) -> int:
        """Have the kernel send the next bytes, at most `MOST_SENT`; returns how many. In a thread, as `read`.

        Raises:
            BlockingIOError: the socket takes none now.
            OSError: the connection is broken, or the file can't be read.
            EOFError: the file has become shorter.
        """
        size = min(self.left, MOST_SENT)
        if self._is_in_memory(size):
            return self._advance(os.sendfile(socket_fd, self._fd, self.offset, size))
        # Both descriptors may be closed, and others have their numbers, before the thread has done its work.
        own = _duplicate(socket_fd, self._fd)
        try:
            return self._advance(await loop.run_in_executor(None, _send_and_close, own, self.offset, size))
        finally:
            _close(own)  # unless a thread has: one that was cancelled while it waited for a thread gets none

    def _is_in_memory(self, size: int) -> bool:
        """Whether the next `size` bytes seem to be in the page cache: the first and the last of them are."""
        if _NO_WAIT is None:
            return False
        byte = bytearray(1)
        try:
            for position in (self.offset, self.offset + size - 1):
                os.preadv(self._fd, [byte], position, _NO_WAIT)
        except OSError:  # it would wait, or the file system can't tell, as overlayfs and tmpfs can't
            return False
        return True

    def _advance(self, size: int) -> int:
        if not size:
            raise EOFError("the file has become shorter while it was sent")
        self.offset += size
        self.left -= size
        return size


def _measure(fd: int, offset: int, count: int | None) -> int:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if offset < 0 or (count is not None and count < 0):
        raise ValueError("offset and count must not be negative")
    rest = max(0, status.st_size - offset)
    return rest if count is None else min(count, rest)


def _duplicate(socket_fd: int, file_fd: int) -> list[tuple[int, int]]:
    """Copies of two descriptors, in a list: who takes them out has to close them."""
    own_socket = os.dup(socket_fd)
    try:
        return [(own_socket, os.dup(file_fd))]
    except OSError:
        os.close(own_socket)
        raise


def _send_and_close(own: list[tuple[int, int]], offset: int, size: int) -> int:
    try:
        taken = own.pop()
    except IndexError:  # the send was cancelled a moment ago
        return 0
    try:
        return os.sendfile(*taken, offset, size)
    finally:
        _close([taken])


def _close(own: list[tuple[int, int]]) -> None:
    with suppress(IndexError):
        for fd in own.pop():
            os.close(fd)
