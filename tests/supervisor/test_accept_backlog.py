"""How many connections wait at a listener."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from outrider_supervisor import accept_backlog
from outrider_supervisor.accept_backlog import count_waiting
from outrider_testing.waiting import until

FAMILIES = [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def listen(stack: ExitStack, family: socket.AddressFamily, directory: Path) -> socket.socket:
    listener = stack.enter_context(socket.socket(family))
    address = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}
    listener.bind(address.get(family, str(directory / "listener")))
    listener.listen(16)
    return listener


def connect(stack: ExitStack, listener: socket.socket, count: int) -> None:
    for _ in range(count):
        client = stack.enter_context(socket.socket(listener.family))
        client.connect(listener.getsockname())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_waits_is_counted_until_it_is_accepted(
    family: socket.AddressFamily, stack: ExitStack, tmp_path: Path
) -> None:
    listener = listen(stack, family, tmp_path)
    assert count_waiting([listener]) == 0
    connect(stack, listener, 3)
    until(lambda: count_waiting([listener]) == 3)
    stack.enter_context(listener.accept()[0])
    until(lambda: count_waiting([listener]) == 2)


def test_all_listeners_count(stack: ExitStack, tmp_path: Path) -> None:
    listeners = [listen(stack, family, tmp_path) for family in FAMILIES]
    for number, listener in enumerate(listeners, 1):
        connect(stack, listener, number)
    until(lambda: count_waiting(listeners) == 6)


def test_nothing_is_known_without_a_listener() -> None:
    assert count_waiting([]) is None


def test_listener_that_is_gone_is_not_known(stack: ExitStack, tmp_path: Path) -> None:
    listener = listen(stack, socket.AF_UNIX, tmp_path)
    listener.close()
    assert count_waiting([listener]) is None


def test_socket_the_kernel_does_not_know_is_not_known() -> None:
    assert accept_backlog._unix_queue(1) is None


def test_kernel_that_refuses_says_nothing(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_inode: int) -> int:
        raise PermissionError(errno.EPERM, "not permitted")

    unix, tcp = listen(stack, socket.AF_UNIX, tmp_path), listen(stack, socket.AF_INET, tmp_path)
    connect(stack, tcp, 2)
    monkeypatch.setattr(accept_backlog, "_unix_queue", refuse)
    assert count_waiting([unix]) is None
    until(lambda: count_waiting([unix, tcp]) == 2)
