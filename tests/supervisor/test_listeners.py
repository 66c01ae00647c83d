"""The listeners of a service: opened once, kept, closed when nothing names them any more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor.listeners import START_PATIENCE, Listeners, describe
from outrider_supervisor.service import Address
from outrider_testing.listener_stage import (
    LOCAL,
    LOCAL6,
    ListenerStage,
    connects,
    descriptors,
    handed_over,
    service,
)


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A TCP listener of somebody else."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


# -- opening


def test_sockets_come_in_the_order_of_the_addresses(listening: ListenerStage, tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")
    abstract = f"\0outrider-listeners-{os.getpid()}"
    tcp, unix, tcp6, hidden = listening.open(LOCAL, path, LOCAL6, abstract)
    assert (tcp.family, unix.family, tcp6.family) == (socket.AF_INET, socket.AF_UNIX, socket.AF_INET6)
    assert unix.getsockname() == path
    assert hidden.getsockname() == abstract.encode()
    assert all(not each.get_inheritable() for each in (tcp, unix, tcp6, hidden))


def test_open_listeners_are_used_again(listening: ListenerStage) -> None:
    (first,) = listening.open(LOCAL)
    again, new = listening.open(LOCAL, LOCAL6)
    assert again is first
    assert new is not first


def test_sockets_of_a_service_are_found_as_long_as_they_are_open(listening: ListenerStage) -> None:
    opened = listening.open(LOCAL)
    listening.open(LOCAL6, LOCAL)
    assert listening.listeners.sockets(service(LOCAL)) == opened
    listening.listeners.keep_only(service(LOCAL6))
    with pytest.raises(ConfigurationError, match=r"bind: 127\.0\.0\.1:0 is not open"):
        listening.listeners.sockets(service(LOCAL))


def test_relative_path_is_one_below_the_services_directory(listening: ListenerStage, tmp_path: Path) -> None:
    (sock,) = listening.open("web.sock", directory=str(tmp_path))
    assert sock.getsockname() == f"{tmp_path}/web.sock"
    (tmp_path / "next").mkdir()
    (other,) = listening.open("web.sock", directory=f"{tmp_path}/next")
    assert other.getsockname() == f"{tmp_path}/next/web.sock"


def test_address_named_twice_is_refused(listening: ListenerStage) -> None:
    with pytest.raises(ConfigurationError, match=r"bind: 127\.0\.0\.1:0 is named twice"):
        listening.open(LOCAL, LOCAL)


def test_failure_leaves_everything_as_before(listening: ListenerStage, tmp_path: Path, taken: socket.socket) -> None:
    beside: Address = ("127.0.0.2", taken.getsockname()[1])
    (kept,) = listening.open(beside)
    path = tmp_path / "web.sock"
    before = descriptors()
    with pytest.raises(ConfigurationError, match="is in use"):
        listening.open(beside, str(path), taken.getsockname())
    assert not path.exists()
    assert descriptors() == before
    assert listening.open(beside) == [kept]
    assert listening.pauses == []


@pytest.mark.parametrize("now,wanted", [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")])
def test_reload_to_a_part_of_an_open_address_is_refused(listening: ListenerStage, now: str, wanted: str) -> None:
    port = listening.open((now, 0))[0].getsockname()[1]
    complaint = f"bind: {wanted}:{port} can't be opened while this service has {now}:{port}: restart it"
    with pytest.raises(ConfigurationError, match=complaint):
        listening.open((wanted, port))


def test_first_start_waits_for_an_address_in_use(listening: ListenerStage, taken: socket.socket) -> None:
    address = taken.getsockname()
    listening.during_pause = taken.close
    (sock,) = listening.open(address, patience=START_PATIENCE)
    assert sock.getsockname() == address
    assert len(listening.pauses) == 1
    assert len(listening.notes) == 1
    assert listening.notes[0].endswith("; waiting for it to be free")


def test_patience_ends(listening: ListenerStage, taken: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def later() -> None:
        nonlocal now
        now += 1.0

    listening.during_pause = later
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda _loop: now)
    with pytest.raises(ConfigurationError, match="is in use"):
        listening.open(taken.getsockname(), patience=START_PATIENCE)
    assert len(listening.pauses) == START_PATIENCE
    assert len(listening.notes) == 1


def test_descriptor_of_the_configuration_wins_over_addresses(listening: ListenerStage) -> None:
    descriptor = handed_over()
    (sock,) = listening.open(descriptor, LOCAL)
    assert sock.fileno() == descriptor
    assert listening.notes == [
        "bind: 127.0.0.1:0 not opened: the sockets that were handed over as descriptors are served instead"
    ]
    assert listening.open(descriptor, LOCAL) == [sock]
    assert len(listening.notes) == 1


def test_descriptor_that_is_named_first_by_a_reload_after_an_upgrade_is_refused(listening: ListenerStage) -> None:
    listening.open(LOCAL)
    listening.listeners.set_inheritable(True)
    state = json.loads(json.dumps(listening.listeners.to_state()))
    for each in state["open"]:
        each["descriptor"] = os.dup(each["descriptor"])  # as execve(2) would leave it
    successor = Listeners.from_state(state, listening.notes.append)
    descriptor = handed_over()
    with pytest.raises(ConfigurationError, match=f"fd://{descriptor} can't be opened by a reload"):
        asyncio.run(successor.open(service(descriptor)))
    os.close(descriptor)
    successor.close_all()


def test_descriptor_that_is_named_first_by_a_reload_is_refused(listening: ListenerStage) -> None:
    listening.open(LOCAL)
    descriptor = handed_over()
    with pytest.raises(ConfigurationError, match=f"fd://{descriptor} can't be opened by a reload"):
        listening.open(descriptor)
    os.close(descriptor)


# -- closing


def test_dropped_listener_stays_open_until_it_is_let_go(listening: ListenerStage, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    listening.open(LOCAL, str(path))
    listening.open(LOCAL)
    assert connects(str(path))
    listening.listeners.keep_only(service(LOCAL))
    assert not path.exists()
    assert len(listening.listeners.descriptions()) == 1


def test_path_that_somebody_else_has_bound_since_is_left(listening: ListenerStage, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    listening.open(str(path))
    path.rename(tmp_path / "old.sock")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        listening.listeners.keep_only(None)
        assert connects(str(path))


def test_path_that_was_removed_is_lost(listening: ListenerStage, tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")
    listening.open(LOCAL, path)
    assert listening.listeners.lost() == set()
    Path(path).unlink()
    assert listening.listeners.lost() == {f"unix:{path}"}


def test_paths_are_left_on_request(listening: ListenerStage, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    listening.open(str(path))
    listening.listeners.close_all(unlink=False)
    assert path.exists()


# -- looking


@pytest.mark.parametrize(
    "address, name",
    [
        (("0.0.0.0", 8000), "0.0.0.0:8000"),
        (("::", 8000), "[::]:8000"),
        (("::1", 8000, 0, 0), "[::1]:8000"),
        ("/run/web.sock", "unix:/run/web.sock"),
        ("\0web", "unix:@web"),
        (b"\0web", "unix:@web"),
        (7, "fd://7"),
    ],
)
def test_address_is_described_as_bind_would_take_it(address: Any, name: str) -> None:
    assert describe(address) == name


def test_open_listener_is_described_by_what_it_is_bound_to(listening: ListenerStage) -> None:
    descriptor = handed_over()
    (sock,) = listening.open(descriptor)
    bound = describe(sock.getsockname())
    assert listening.listeners.descriptions() == [f"fd://{descriptor} ({bound})"]
    assert listening.listeners.describe(LOCAL) == "127.0.0.1:0"
    other = ListenerStage()
    (tcp,) = other.open(LOCAL)
    assert other.listeners.describe(LOCAL) == describe(tcp.getsockname()) != "127.0.0.1:0"
    other.listeners.close_all()


def test_backlog_is_what_waits_at_all_open_listeners(listening: ListenerStage, tmp_path: Path) -> None:
    assert listening.listeners.backlog() is None
    listeners = listening.open(LOCAL, str(tmp_path / "web.sock"))
    assert listening.listeners.backlog() == 0
    with contextlib.ExitStack() as clients:
        for listener in listeners:
            clients.enter_context(socket.socket(listener.family)).connect(listener.getsockname())
        assert listening.listeners.backlog() == 2
