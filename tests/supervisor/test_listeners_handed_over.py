"""Listeners that were open before: handed over by a service manager, or by the program before an execve."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor.listeners import Listeners
from outrider_testing.listener_stage import (
    LOCAL,
    LOCAL6,
    ListenerStage,
    connects,
    descriptors,
    environment,
    handed_over,
    service,
)

# -- by a service manager


def test_sockets_of_the_service_manager_win(listening: ListenerStage) -> None:
    descriptor = handed_over()
    os.set_inheritable(descriptor, True)
    environ = environment(1)
    assert listening.listeners.adopt(environ, 77, descriptor) == []
    assert environ == {"KEY": "value"}
    (sock,) = listening.open(("127.0.0.1", 8000))
    assert sock.fileno() == descriptor
    assert not sock.get_inheritable()
    assert listening.notes == []  # that address is gunicorn's default: nobody has asked for it
    listening.open(LOCAL)
    assert len(listening.notes) == 1


def test_sockets_for_another_process_are_left_alone(listening: ListenerStage) -> None:
    environ = environment(1)
    assert listening.listeners.adopt(environ, 78) == []
    assert environ == environment(1)
    assert listening.listeners.adopt({}) == []
    assert listening.listeners.descriptions() == []


@pytest.mark.parametrize("count", ["two", "-1", "9" * 11, "9" * 5000])
def test_number_of_sockets_must_be_one(listening: ListenerStage, count: str) -> None:
    with pytest.raises(ConfigurationError, match=f"LISTEN_FDS={count}: it must be the number of sockets"):
        listening.listeners.adopt({"LISTEN_FDS": count, "LISTEN_PID": str(os.getpid())})


def test_socket_that_cannot_listen_is_refused(listening: ListenerStage) -> None:
    descriptor = handed_over(kind=socket.SOCK_DGRAM)
    with pytest.raises(ConfigurationError, match=f"LISTEN_FDS, descriptor {descriptor}: it is no stream socket"):
        listening.listeners.adopt(environment(1), 77, descriptor)
    os.close(descriptor)


def test_adopted_path_is_kept_by_every_reload_and_never_removed(listening: ListenerStage, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    theirs = socket.socket(socket.AF_UNIX)
    theirs.bind(str(path))
    theirs.listen()
    listening.listeners.adopt(environment(1), 77, theirs.detach())
    listening.open(LOCAL)
    listening.listeners.keep_only(service(LOCAL6))
    assert connects(str(path))
    listening.listeners.close_all()
    assert path.exists()
    assert not connects(str(path))


def test_listeners_that_were_stored_are_the_binds_they_were(listening: ListenerStage, tmp_path: Path) -> None:
    path = tmp_path / "läden.sock"
    first = ListenerStage()
    tcp, unix = first.open(LOCAL, str(path))
    names = list(first.listeners.stored())
    assert all(len(name) < 256 and name.isascii() and ":" not in name for name in names)
    # The kernel gives two descriptors in a row.
    start = max(descriptors()) + 10
    for offset, sock in enumerate((tcp, unix)):
        os.dup2(sock.fileno(), start + offset)
    first.listeners.close_all(unlink=False)
    assert listening.listeners.adopt(environment(2, ":".join(names)), 77, start) == []
    again, unix_again, new = listening.open(LOCAL, str(path), LOCAL6)
    assert (again.fileno(), unix_again.fileno()) == (start, start + 1)
    assert connects(str(path))
    assert listening.notes == []
    listening.listeners.keep_only(service(LOCAL6))
    assert not path.exists()
    assert new.fileno() >= 0


def test_listener_with_a_name_that_is_too_long_for_the_manager_is_not_stored(listening: ListenerStage) -> None:
    listening.open("\0" + f"outrider-{os.getpid()}" + 50 * "\1")
    assert listening.listeners.stored() == {}


def test_stored_listener_that_nobody_can_reach_is_given_up(listening: ListenerStage, tmp_path: Path) -> None:
    first = ListenerStage()
    (unix,) = first.open(f"{tmp_path}/web.sock")
    (name,) = first.listeners.stored()
    descriptor = os.dup(unix.fileno())
    first.listeners.close_all()
    assert listening.listeners.adopt(environment(1, name), 77, descriptor) == [name]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("name", ["web", "outrider.%%%", "outrider.bm90IGpzb24", ""])
def test_other_names_are_those_of_socket_units(listening: ListenerStage, name: str) -> None:
    descriptor = handed_over()
    listening.listeners.adopt(environment(1, name), 77, descriptor)
    assert [each.fileno() for each in listening.open(LOCAL)] == [descriptor]


# -- over an execve


def test_listeners_survive_as_plain_data(listening: ListenerStage, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    listening.listeners.adopt(environment(1, pid=77), 77, handed_over())
    listeners = listening.listeners
    listening.open(LOCAL)
    state = json.loads(json.dumps(listeners.to_state()))
    listeners.set_inheritable(True)
    after = ListenerStage()
    # The new program has the same descriptors; here they are taken from under the old one.
    taken_over = [each["descriptor"] for each in state["open"]]
    assert all(os.get_inheritable(each) for each in taken_over)
    for listener in listeners._open.values():
        listener.sock.detach()
    after.listeners = Listeners.from_state(state, after.notes.append)
    assert not any(os.get_inheritable(each) for each in taken_over)
    assert [each.fileno() for each in after.open(LOCAL)] == taken_over
    after.listeners.close_all()

    first = ListenerStage()
    sockets = first.open(LOCAL, str(path))
    state = json.loads(json.dumps(first.listeners.to_state()))
    for listener in first.listeners._open.values():
        listener.sock.detach()
    after.listeners = Listeners.from_state(state, after.notes.append)
    assert len(after.open(LOCAL, str(path))) == len(sockets)
    with pytest.raises(ConfigurationError, match="can't be opened by a reload"):
        after.open(7)
    after.listeners.close_all()
    assert not path.exists()
