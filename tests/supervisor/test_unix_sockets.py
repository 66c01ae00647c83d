"""The path of a unix socket: whose it is, and whether anybody listens behind it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_supervisor.unix_sockets import (
    NotASocket,
    identify,
    listener_behind,
    peer_credentials,
    remove_stale,
    unlink_if_same,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "web.sock"


@pytest.fixture
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen(1)
        yield sock


def test_identity_is_none_without_a_socket(path: Path) -> None:
    assert identify(path) is None
    path.write_text("a file")
    assert identify(path) is None


@pytest.mark.usefixtures("listening")
def test_unlink_removes_the_socket_that_was_identified(path: Path) -> None:
    unlink_if_same(path, identify(path))
    assert not path.exists()


@pytest.mark.usefixtures("listening")
def test_unlink_leaves_a_socket_that_somebody_else_has_bound_since(path: Path) -> None:
    ours = identify(path)
    kept = path.rename(path.with_suffix(".old"))  # so that its inode is not used again
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as theirs:
        theirs.bind(str(path))
        unlink_if_same(path, ours)
    assert path.exists()
    assert kept.exists()


@pytest.mark.usefixtures("listening")
def test_unlink_leaves_everything_without_an_identity(path: Path) -> None:
    unlink_if_same(path, None)
    assert path.exists()


@pytest.mark.usefixtures("listening")
def test_listener_is_known_by_its_process(path: Path) -> None:
    assert listener_behind(path) == os.getpid()


def test_nobody_is_behind_a_path_that_is_missing_or_was_left(path: Path, listening: socket.socket) -> None:
    listening.close()
    assert listener_behind(path) is None
    path.unlink()
    assert listener_behind(path) is None


def test_listener_with_a_full_queue_counts_as_living(path: Path, listening: socket.socket) -> None:
    listening.listen(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting:
        waiting.connect(str(path))
        assert listener_behind(path) == 0


def test_datagram_socket_counts_as_living(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        assert listener_behind(path) == 0


def test_path_that_cannot_be_connected_to_is_an_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        listener_behind(loop)


def test_stale_socket_is_removed(path: Path, listening: socket.socket) -> None:
    assert remove_stale(path) == os.getpid()
    assert path.exists()
    listening.close()
    assert remove_stale(path) is None
    assert not path.exists()
    assert remove_stale(path) is None


def test_file_is_not_removed(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(NotASocket):
        remove_stale(path)
    assert path.read_text() == "precious"


def test_credentials_are_those_of_the_other_end() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_credentials(one) == (os.getpid(), os.getuid(), os.getgid())
