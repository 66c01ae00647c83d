"""Part of a file: what belongs to it, how it is read and sent, and whose descriptor it is."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from outrider import file_region
from outrider.file_region import MOST_READ, MOST_SENT, FileRegion
from outrider_testing.fakes import ManualLoop
from outrider_testing.server_fakes import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


def read(loop: ManualLoop, region: FileRegion, *most: int) -> bytes:
    task = loop.create_task(region.read(loop, *most))
    eventually(loop, task.done)
    return task.result()


def read_all(loop: ManualLoop, region: FileRegion) -> bytes:
    with region:
        parts = []
        while region.left:
            parts.append(read(loop, region))
        return b"".join(parts)


# -- what belongs to it


def opened(path: Path) -> FileRegion:
    with path.open("rb") as file:
        return FileRegion.of(file, 0, None)


def test_region_of_a_path_is_the_whole_file(loop: ManualLoop, path: Path) -> None:
    assert read_all(loop, FileRegion.open(str(path))) == b"0123456789"


@pytest.mark.parametrize(
    "offset, count, part",
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (3, 0, b""),
        (8, 100, b"89"),
        (10, None, b""),
        (100, 5, b""),
    ],
)
def test_region_ends_with_its_count_or_the_file(
    loop: ManualLoop, path: Path, offset: int, count: int | None, part: bytes
) -> None:
    with path.open("rb") as file:
        region = FileRegion.of(file, offset, count)
        assert region.left == len(part)
        assert file.tell() == 0
    assert read_all(loop, region) == part


def test_region_without_offset_begins_at_the_position_and_moves_it(loop: ManualLoop, path: Path) -> None:
    with path.open("rb") as file:
        file.read(2)
        first = FileRegion.of(file, None, 3)
        second = FileRegion.of(file, None, None)
        assert file.tell() == 10
    assert (read_all(loop, first), read_all(loop, second)) == (b"234", b"56789")


@pytest.mark.parametrize("offset, count", [(-1, None), (0, -1)])
def test_negative_number_is_refused(path: Path, offset: int, count: int | None) -> None:
    with path.open("rb") as file, pytest.raises(ValueError, match="must not be negative"):
        FileRegion.of(file, offset, count)


def test_what_is_no_regular_file_is_refused_without_a_wait(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match="not a regular file"):
            FileRegion.open(str(path))


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileRegion.open(str(tmp_path / "missing"))


# -- its descriptor


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_region_closes_its_own_descriptor_only(path: Path) -> None:
    before = descriptors()
    with path.open("rb") as file:
        with FileRegion.of(file, 0, None):
            assert descriptors() == before + 2
        assert os.read(file.fileno(), 1) == b"0"
    assert descriptors() == before


def test_refused_file_leaves_no_descriptor(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(ValueError, match="not a regular file"):
        FileRegion.open(str(tmp_path))
    assert descriptors() == before


def test_file_without_a_position_leaves_no_descriptor() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as file, os.fdopen(writer, "wb"):
        before = descriptors()
        with pytest.raises(OSError, match="seek"):
            FileRegion.of(file, None, None)
        assert descriptors() == before


def test_file_that_is_closed_meanwhile_is_still_read(loop: ManualLoop, path: Path) -> None:
    with path.open("rb") as file:
        region = FileRegion.of(file, 0, None)
    assert read_all(loop, region) == b"0123456789"


# -- reading


def test_read_takes_no_more_than_asked(loop: ManualLoop, path: Path) -> None:
    with opened(path) as region:
        assert read(loop, region, 4) == b"0123"
        assert (region.offset, region.left) == (4, 6)


@pytest.mark.parametrize("size, calls", [(10, 0), (MOST_READ, 0), (MOST_READ + 1, 2)])
def test_small_file_is_read_when_it_is_opened(
    loop: ManualLoop, path: Path, monkeypatch: pytest.MonkeyPatch, size: int, calls: int
) -> None:
    content = os.urandom(size)
    path.write_bytes(content)
    threads = Threads(loop, monkeypatch)
    monkeypatch.setattr(FileRegion, "_is_in_memory", lambda *_: False)
    assert read_all(loop, FileRegion.open(str(path))) == content
    assert threads.calls == calls


def test_small_file_that_cannot_be_read_leaves_no_descriptor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(*_: int) -> bytes:
        raise OSError(errno.EIO, "the disk is broken")

    before = descriptors()
    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(OSError, match="broken"):
        FileRegion.open(str(path))
    assert descriptors() == before


def test_large_file_is_read_in_pieces(loop: ManualLoop, path: Path) -> None:
    path.write_bytes(os.urandom(3 * MOST_READ // 2))
    with FileRegion.open(str(path)) as region:
        assert len(read(loop, region)) == MOST_READ
        assert len(read(loop, region)) == MOST_READ // 2
        assert not region.left


def test_file_that_becomes_shorter_is_an_error(loop: ManualLoop, path: Path) -> None:
    with opened(path) as region:
        os.truncate(path, 4)
        assert read(loop, region) == b"0123"
        with pytest.raises(EOFError, match="shorter"):
            read(loop, region)


class Threads:
    """Counts what a loop gives to threads."""

    def __init__(self, loop: ManualLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self._run = loop.run_in_executor
        monkeypatch.setattr(loop, "run_in_executor", self.run)

    def run(self, *args: Any) -> asyncio.Future[Any]:
        self.calls += 1
        return self._run(*args)


def test_what_is_in_memory_is_read_at_once(loop: ManualLoop, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    positions: list[int] = []

    def preadv(_fd: int, _buffers: list[bytearray], position: int, _flags: int) -> int:
        positions.append(position)
        return 1

    threads = Threads(loop, monkeypatch)
    monkeypatch.setattr(os, "preadv", preadv)
    with opened(path) as region:
        assert [read(loop, region, 4) for _ in range(3)] == [b"0123", b"4567", b"89"]
    assert threads.calls == 0
    assert positions == [0, 3, 4, 7, 8, 9], "the first and the last byte of each read"


@pytest.mark.parametrize("error", [BlockingIOError(), OSError(95, "not supported by the file system")])
def test_what_is_not_in_memory_is_read_by_a_thread(
    loop: ManualLoop, path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def preadv(_fd: int, _buffers: list[bytearray], position: int, _flags: int) -> int:
        if position:
            raise error
        return 1

    threads = Threads(loop, monkeypatch)
    monkeypatch.setattr(os, "preadv", preadv)
    assert read_all(loop, opened(path)) == b"0123456789"
    assert threads.calls == 1


def test_system_that_cannot_tell_reads_by_a_thread(
    loop: ManualLoop, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(loop, monkeypatch)
    monkeypatch.setattr(file_region, "_NO_WAIT", None)
    assert read_all(loop, opened(path)) == b"0123456789"
    assert threads.calls == 1


# -- sending


def send(loop: ManualLoop, region: FileRegion, sock: socket.socket) -> int:
    task = loop.create_task(region.send(loop, sock.fileno()))
    eventually(loop, task.done)
    return task.result()


@pytest.mark.parametrize("is_in_memory", [True, False])
def test_kernel_sends_until_the_socket_is_full(
    loop: ManualLoop, path: Path, monkeypatch: pytest.MonkeyPatch, is_in_memory: bool
) -> None:
    threads = Threads(loop, monkeypatch)
    monkeypatch.setattr(FileRegion, "_is_in_memory", lambda *_: is_in_memory)
    path.write_bytes(os.urandom(4 << 20))
    before = descriptors()
    ours, theirs = socket.socketpair()
    with ours, theirs, FileRegion.open(str(path)) as region:
        ours.setblocking(False)
        sent = send(loop, region, ours)
        assert 0 < sent == region.offset
        with suppress(BlockingIOError):
            while region.left:
                send(loop, region, ours)
        assert region.left
        assert region.offset + region.left == 4 << 20
        assert path.read_bytes().startswith(theirs.recv(sent))
    assert (threads.calls > 0) is not is_in_memory
    assert descriptors() == before


@pytest.mark.parametrize("is_in_memory", [True, False])
def test_kernel_is_asked_for_no_more_than_the_loop_may_wait_for(
    loop: ManualLoop, path: Path, monkeypatch: pytest.MonkeyPatch, is_in_memory: bool
) -> None:
    asked: list[tuple[int, int]] = []

    def sendfile(_socket: int, _file: int, offset: int, count: int) -> int:
        asked.append((offset, count))
        return count

    monkeypatch.setattr(os, "sendfile", sendfile)
    monkeypatch.setattr(FileRegion, "_is_in_memory", lambda *_: is_in_memory)
    os.truncate(path, MOST_SENT + 7)
    ours, theirs = socket.socketpair()
    with ours, theirs, opened(path) as region:
        assert [send(loop, region, ours) for _ in range(2)] == [MOST_SENT, 7]
        assert region.left == 0
    assert asked == [(0, MOST_SENT), (MOST_SENT, 7)]


def test_thread_that_sends_uses_descriptors_that_nobody_else_closes(
    loop: ManualLoop, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = threading.Event(), threading.Event()
    sendfile = os.sendfile

    def wait_and_send(*args: int) -> int:
        begun.set()
        gate.wait(10)
        return sendfile(*args)

    monkeypatch.setattr(os, "sendfile", wait_and_send)
    monkeypatch.setattr(FileRegion, "_is_in_memory", lambda *_: False)
    path.write_bytes(bytes(2 * MOST_READ))
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        with ours, FileRegion.open(str(path)) as region:
            task = loop.create_task(region.send(loop, ours.fileno()))
            loop.run_ready()
            assert begun.wait(10)
            task.cancel()
            loop.run_ready()
        gate.set()
        assert eventually(loop, lambda: receive(theirs))
    assert task.cancelled()


def test_send_that_no_thread_has_begun_leaves_no_descriptor(
    loop: ManualLoop, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "run_in_executor", lambda *_: loop.create_future())
    monkeypatch.setattr(FileRegion, "_is_in_memory", lambda *_: False)
    ours, theirs = socket.socketpair()
    with ours, theirs, opened(path) as region:
        before = descriptors()
        task = loop.create_task(region.send(loop, ours.fileno()))
        loop.run_ready()
        assert descriptors() == before + 2
        task.cancel()
        loop.run_ready()
        assert task.cancelled()
        assert descriptors() == before


def test_thread_that_comes_too_late_sends_nothing(
    loop: ManualLoop, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued: list[Any] = []

    def queue(_executor: None, *work: Any) -> asyncio.Future[int]:
        queued.append(work)
        return loop.create_future()

    monkeypatch.setattr(loop, "run_in_executor", queue)
    monkeypatch.setattr(FileRegion, "_is_in_memory", lambda *_: False)
    ours, theirs = socket.socketpair()
    with ours, theirs, opened(path) as region:
        task = loop.create_task(region.send(loop, ours.fileno()))
        loop.run_ready()
        task.cancel()
        loop.run_ready()
        ((work, *arguments),) = queued
        assert work(*arguments) == 0
        theirs.setblocking(False)
        assert receive(theirs) == b""


def test_send_without_descriptors_leaves_none(loop: ManualLoop, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileRegion, "_is_in_memory", lambda *_: False)
    ours, theirs = socket.socketpair()
    with ours, theirs, opened(path) as region:
        before = descriptors()
        answers = iter([os.dup(ours.fileno())])
        monkeypatch.setattr(os, "dup", lambda _: _next_or_refuse(answers))
        with pytest.raises(OSError, match="too many"):
            send(loop, region, ours)
        assert descriptors() == before


def _next_or_refuse(answers: Iterator[int]) -> int:
    for answer in answers:
        return answer
    raise OSError(errno.EMFILE, "too many open files")


def receive(sock: socket.socket) -> bytes:
    with suppress(BlockingIOError):
        return sock.recv(1)
    return b""


def test_send_of_a_file_that_became_shorter_is_an_error(loop: ManualLoop, path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, opened(path) as region:
        os.truncate(path, 0)
        with pytest.raises(EOFError, match="shorter"):
            send(loop, region, ours)
