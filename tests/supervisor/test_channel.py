from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from outrider.errors import ConfigurationError
from outrider.supervised import Supervision
from outrider_supervisor.channel import Channel, Surroundings
from outrider_supervisor.messages import MOST_BYTES, MasterBooted, MasterFailed, SetTarget, WorkerReady, decode, encode

ENVIRON = {
    "OUTRIDER_SUPERVISOR_PID": "7",
    "OUTRIDER_SUPERVISOR_GENERATION": "3",
    "OUTRIDER_SUPERVISOR_WORKERS": "4",
    "OUTRIDER_SUPERVISOR_CHANNEL_FD": "10",
    "OUTRIDER_SUPERVISOR_REPORTS_FD": "11",
    "OUTRIDER_SCOREBOARD_FD": "12",
}


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(theirs.detach())
    yield ours, channel
    ours.close()
    channel.close()


def test_surroundings_are_read_from_the_environment() -> None:
    assert Surroundings.from_environ(ENVIRON) == Surroundings(Supervision(7, 3), 4, 10, 11, 12)


@pytest.mark.parametrize("missing", ENVIRON)
def test_master_without_a_supervisor_is_refused(missing: str) -> None:
    environ = {name: value for name, value in ENVIRON.items() if name != missing}
    with pytest.raises(ConfigurationError):
        Surroundings.from_environ(environ)


def test_master_on_its_own_is_told_what_to_use() -> None:
    with pytest.raises(ConfigurationError, match="use `outrider run`"):
        Surroundings.from_environ({})


def test_descriptors_are_kept_from_programs() -> None:
    descriptors = [os.dup(0) for _ in range(3)]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    Surroundings(Supervision(1, 1), 1, *descriptors).keep_private()
    assert not any(map(os.get_inheritable, descriptors))
    for descriptor in descriptors:
        os.close(descriptor)


def test_channel_sends_and_receives(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends
    channel.send(WorkerReady(5))
    assert decode(ours.recv(MOST_BYTES)) == WorkerReady(5)
    ours.send(encode(SetTarget(3)))
    assert channel.receive() == SetTarget(3)


def test_channel_notices_the_end_while_reading(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends
    ours.close()
    assert channel.receive() is None
    assert not channel.is_open


def test_channel_notices_the_end_while_writing(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends
    ours.close()
    channel.send(MasterBooted())
    assert not channel.is_open
    channel.send(MasterBooted())


def test_channel_gives_up_on_a_supervisor_that_does_not_read(ends: tuple[socket.socket, Channel]) -> None:
    _ours, channel = ends
    channel._sock.settimeout(0.01)
    for _ in range(1000):
        channel.send(MasterFailed("", "x" * 1000))
    assert not channel.is_open


def test_channel_refuses_what_is_no_message(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends
    ours.send(b"hello")
    with pytest.raises(ValueError, match="not a message"):
        channel.receive()
    assert channel.is_open
