"""A process that the kernel ends when its parent dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from outrider.orphan import die_with_parent


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def run_child(child: Callable[[], object]) -> int:
    """Fork, run a callable in the child, and return its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_child_is_killed_with_its_parent(pipe: tuple[int, int]) -> None:
    reader, writer = pipe

    def parent() -> None:
        middle = os.getpid()
        if os.fork() == 0:
            die_with_parent(middle, signal.SIGKILL)
            os.write(writer, b"armed")
            while True:
                signal.pause()
        os.read(reader, 5)

    run_child(parent)
    os.close(writer)
    # The grandchild held the pipe's other end: end of file means that it is gone.
    assert os.read(reader, 1) == b""
    os.dup2(reader, writer)


def test_child_whose_parent_is_gone_already_is_killed() -> None:
    status = run_child(lambda: die_with_parent(os.getpid(), signal.SIGKILL))
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_child_may_outlive_its_parent_again(pipe: tuple[int, int]) -> None:
    reader, writer = pipe

    def parent() -> None:
        middle = os.getpid()
        if os.fork() == 0:
            die_with_parent(middle, signal.SIGKILL)
            die_with_parent(middle, None)
            os.write(writer, b"spare")
            while os.getppid() == middle:
                os.sched_yield()
            os.write(writer, b"alive")
            os._exit(0)
        os.read(reader, 5)

    run_child(parent)
    assert os.read(reader, 5) == b"alive"


def test_system_without_prctl_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    die_with_parent(0, signal.SIGKILL)
