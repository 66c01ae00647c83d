"""The listeners of a service: opened once, kept, closed when nothing names them any more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor.listeners import START_PATIENCE, Listeners, describe
from outrider_supervisor.service import Address, Service
from outrider_testing.services import make_service

LOCAL: Address = ("127.0.0.1", 0)
LOCAL6: Address = ("::1", 0)


class Stage:
    """Listeners, and what they say."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.pauses: list[float] = []
        self.during_pause: Callable[[], object] = lambda: None
        self.listeners = Listeners(self.notes.append, self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.during_pause()

    def open(self, *addresses: Address, patience: float = 0.0, **fields: Any) -> list[socket.socket]:
        service = make_service(addresses=addresses, **fields)
        return asyncio.run(self.listeners.open(service, patience=patience))


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.listeners.close_all()


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A TCP listener of somebody else."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def service(*addresses: Address) -> Service:
    return make_service(addresses=addresses)


def handed_over(*, kind: int = socket.SOCK_STREAM) -> int:
    """A listening socket that belongs to its descriptor alone."""
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        sock.listen(5)
    return sock.detach()


def descriptors() -> list[int]:
    gc.collect()  # what earlier tests have left would be closed in between
    return sorted(int(each.name) for each in Path("/proc/self/fd").iterdir())


def connects(address: Any) -> bool:
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family) as client:
        return client.connect_ex(address) == 0


# -- opening


def test_sockets_come_in_the_order_of_the_addresses(stage: Stage, tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")
    abstract = f"\0outrider-listeners-{os.getpid()}"
    tcp, unix, tcp6, hidden = stage.open(LOCAL, path, LOCAL6, abstract)
    assert (tcp.family, unix.family, tcp6.family) == (socket.AF_INET, socket.AF_UNIX, socket.AF_INET6)
    assert unix.getsockname() == path
    assert hidden.getsockname() == abstract.encode()
    assert all(not each.get_inheritable() for each in (tcp, unix, tcp6, hidden))


def test_open_listeners_are_used_again(stage: Stage) -> None:
    (first,) = stage.open(LOCAL)
    again, new = stage.open(LOCAL, LOCAL6)
    assert again is first
    assert new is not first


def test_sockets_of_a_service_are_found_as_long_as_they_are_open(stage: Stage) -> None:
    opened = stage.open(LOCAL)
    stage.open(LOCAL6, LOCAL)
    assert stage.listeners.sockets(service(LOCAL)) == opened
    stage.listeners.keep_only(service(LOCAL6))
    with pytest.raises(ConfigurationError, match=r"bind: 127\.0\.0\.1:0 is not open"):
        stage.listeners.sockets(service(LOCAL))


def test_relative_path_is_one_below_the_services_directory(stage: Stage, tmp_path: Path) -> None:
    (sock,) = stage.open("web.sock", directory=str(tmp_path))
    assert sock.getsockname() == f"{tmp_path}/web.sock"
    (tmp_path / "next").mkdir()
    (other,) = stage.open("web.sock", directory=f"{tmp_path}/next")
    assert other.getsockname() == f"{tmp_path}/next/web.sock"


def test_address_named_twice_is_refused(stage: Stage) -> None:
    with pytest.raises(ConfigurationError, match=r"bind: 127\.0\.0\.1:0 is named twice"):
        stage.open(LOCAL, LOCAL)


def test_failure_leaves_everything_as_before(stage: Stage, tmp_path: Path, taken: socket.socket) -> None:
    beside: Address = ("127.0.0.2", taken.getsockname()[1])
    (kept,) = stage.open(beside)
    path = tmp_path / "web.sock"
    before = descriptors()
    with pytest.raises(ConfigurationError, match="is in use"):
        stage.open(beside, str(path), taken.getsockname())
    assert not path.exists()
    assert descriptors() == before
    assert stage.open(beside) == [kept]
    assert stage.pauses == []


@pytest.mark.parametrize("now,wanted", [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")])
def test_reload_to_a_part_of_an_open_address_is_refused(stage: Stage, now: str, wanted: str) -> None:
    port = stage.open((now, 0))[0].getsockname()[1]
    complaint = f"bind: {wanted}:{port} can't be opened while this service has {now}:{port}: restart it"
    with pytest.raises(ConfigurationError, match=complaint):
        stage.open((wanted, port))


def test_first_start_waits_for_an_address_in_use(stage: Stage, taken: socket.socket) -> None:
    address = taken.getsockname()
    stage.during_pause = taken.close
    (sock,) = stage.open(address, patience=START_PATIENCE)
    assert sock.getsockname() == address
    assert len(stage.pauses) == 1
    assert len(stage.notes) == 1
    assert stage.notes[0].endswith("; waiting for it to be free")


def test_patience_ends(stage: Stage, taken: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def later() -> None:
        nonlocal now
        now += 1.0

    stage.during_pause = later
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda _loop: now)
    with pytest.raises(ConfigurationError, match="is in use"):
        stage.open(taken.getsockname(), patience=START_PATIENCE)
    assert len(stage.pauses) == START_PATIENCE
    assert len(stage.notes) == 1


def test_descriptor_of_the_configuration_wins_over_addresses(stage: Stage) -> None:
    descriptor = handed_over()
    (sock,) = stage.open(descriptor, LOCAL)
    assert sock.fileno() == descriptor
    assert stage.notes == [
        "bind: 127.0.0.1:0 not opened: the sockets that were handed over as descriptors are served instead"
    ]
    assert stage.open(descriptor, LOCAL) == [sock]
    assert len(stage.notes) == 1


def test_descriptor_that_is_named_first_by_a_reload_after_an_upgrade_is_refused(stage: Stage) -> None:
    stage.open(LOCAL)
    stage.listeners.set_inheritable(True)
    state = json.loads(json.dumps(stage.listeners.to_state()))
    for each in state["open"]:
        each["descriptor"] = os.dup(each["descriptor"])  # as execve(2) would leave it
    successor = Listeners.from_state(state, stage.notes.append)
    descriptor = handed_over()
    with pytest.raises(ConfigurationError, match=f"fd://{descriptor} can't be opened by a reload"):
        asyncio.run(successor.open(service(descriptor)))
    os.close(descriptor)
    successor.close_all()


def test_descriptor_that_is_named_first_by_a_reload_is_refused(stage: Stage) -> None:
    stage.open(LOCAL)
    descriptor = handed_over()
    with pytest.raises(ConfigurationError, match=f"fd://{descriptor} can't be opened by a reload"):
        stage.open(descriptor)
    os.close(descriptor)


# -- handed over by a service manager


def environment(count: int, names: str = "", pid: int = 77) -> dict[str, str]:
    return {"LISTEN_FDS": str(count), "LISTEN_PID": str(pid), "LISTEN_FDNAMES": names, "KEY": "value"}


def test_sockets_of_the_service_manager_win(stage: Stage) -> None:
    descriptor = handed_over()
    os.set_inheritable(descriptor, True)
    environ = environment(1)
    assert stage.listeners.adopt(environ, 77, descriptor) == []
    assert environ == {"KEY": "value"}
    (sock,) = stage.open(("127.0.0.1", 8000))
    assert sock.fileno() == descriptor
    assert not sock.get_inheritable()
    assert stage.notes == []  # that address is gunicorn's default: nobody has asked for it
    stage.open(LOCAL)
    assert len(stage.notes) == 1


def test_sockets_for_another_process_are_left_alone(stage: Stage) -> None:
    environ = environment(1)
    assert stage.listeners.adopt(environ, 78) == []
    assert environ == environment(1)
    assert stage.listeners.adopt({}) == []
    assert stage.listeners.descriptions() == []


def test_number_of_sockets_must_be_one(stage: Stage) -> None:
    with pytest.raises(ConfigurationError, match="LISTEN_FDS=two: it must be the number of sockets"):
        stage.listeners.adopt({"LISTEN_FDS": "two", "LISTEN_PID": str(os.getpid())})


def test_socket_that_cannot_listen_is_refused(stage: Stage) -> None:
    descriptor = handed_over(kind=socket.SOCK_DGRAM)
    with pytest.raises(ConfigurationError, match=f"LISTEN_FDS, descriptor {descriptor}: it is no stream socket"):
        stage.listeners.adopt(environment(1), 77, descriptor)
    os.close(descriptor)


def test_adopted_path_is_kept_by_every_reload_and_never_removed(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    theirs = socket.socket(socket.AF_UNIX)
    theirs.bind(str(path))
    theirs.listen()
    stage.listeners.adopt(environment(1), 77, theirs.detach())
    stage.open(LOCAL)
    stage.listeners.keep_only(service(LOCAL6))
    assert connects(str(path))
    stage.listeners.close_all()
    assert path.exists()
    assert not connects(str(path))


def test_listeners_that_were_stored_are_the_binds_they_were(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "läden.sock"
    first = Stage()
    tcp, unix = first.open(LOCAL, str(path))
    names = list(first.listeners.stored())
    assert all(len(name) < 256 and name.isascii() and ":" not in name for name in names)
    # The kernel gives two descriptors in a row.
    start = max(descriptors()) + 10
    for offset, sock in enumerate((tcp, unix)):
        os.dup2(sock.fileno(), start + offset)
    first.listeners.close_all(unlink=False)
    assert stage.listeners.adopt(environment(2, ":".join(names)), 77, start) == []
    again, unix_again, new = stage.open(LOCAL, str(path), LOCAL6)
    assert (again.fileno(), unix_again.fileno()) == (start, start + 1)
    assert connects(str(path))
    assert stage.notes == []
    stage.listeners.keep_only(service(LOCAL6))
    assert not path.exists()
    assert new.fileno() >= 0


def test_listener_with_a_name_that_is_too_long_for_the_manager_is_not_stored(stage: Stage) -> None:
    stage.open("\0" + f"outrider-{os.getpid()}" + 50 * "\1")
    assert stage.listeners.stored() == {}


def test_stored_listener_that_nobody_can_reach_is_given_up(stage: Stage, tmp_path: Path) -> None:
    first = Stage()
    (unix,) = first.open(f"{tmp_path}/web.sock")
    (name,) = first.listeners.stored()
    descriptor = os.dup(unix.fileno())
    first.listeners.close_all()
    assert stage.listeners.adopt(environment(1, name), 77, descriptor) == [name]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("name", ["web", "outrider.%%%", "outrider.bm90IGpzb24", ""])
def test_other_names_are_those_of_socket_units(stage: Stage, name: str) -> None:
    descriptor = handed_over()
    stage.listeners.adopt(environment(1, name), 77, descriptor)
    assert [each.fileno() for each in stage.open(LOCAL)] == [descriptor]


# -- closing


def test_dropped_listener_stays_open_until_it_is_let_go(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    stage.open(LOCAL, str(path))
    stage.open(LOCAL)
    assert connects(str(path))
    stage.listeners.keep_only(service(LOCAL))
    assert not path.exists()
    assert len(stage.listeners.descriptions()) == 1


def test_path_that_somebody_else_has_bound_since_is_left(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    stage.open(str(path))
    path.rename(tmp_path / "old.sock")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        stage.listeners.keep_only(None)
        assert connects(str(path))


def test_paths_are_left_on_request(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    stage.open(str(path))
    stage.listeners.close_all(unlink=False)
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


def test_open_listener_is_described_by_what_it_is_bound_to(stage: Stage) -> None:
    descriptor = handed_over()
    (sock,) = stage.open(descriptor)
    bound = describe(sock.getsockname())
    assert stage.listeners.descriptions() == [f"fd://{descriptor} ({bound})"]
    assert stage.listeners.describe(LOCAL) == "127.0.0.1:0"
    other = Stage()
    (tcp,) = other.open(LOCAL)
    assert other.listeners.describe(LOCAL) == describe(tcp.getsockname()) != "127.0.0.1:0"
    other.listeners.close_all()


# -- over an execve


def test_listeners_survive_as_plain_data(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    stage.listeners.adopt(environment(1, pid=77), 77, handed_over())
    listeners = stage.listeners
    stage.open(LOCAL)
    state = json.loads(json.dumps(listeners.to_state()))
    listeners.set_inheritable(True)
    after = Stage()
    # The new program has the same descriptors; here they are taken from under the old one.
    taken_over = [each["descriptor"] for each in state["open"]]
    assert all(os.get_inheritable(each) for each in taken_over)
    for listener in listeners._open.values():
        listener.sock.detach()
    after.listeners = Listeners.from_state(state, after.notes.append)
    assert not any(os.get_inheritable(each) for each in taken_over)
    assert [each.fileno() for each in after.open(LOCAL)] == taken_over
    after.listeners.close_all()

    first = Stage()
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


def test_backlog_is_what_waits_at_all_open_listeners(stage: Stage, tmp_path: Path) -> None:
    assert stage.listeners.backlog() is None
    listeners = stage.open(LOCAL, str(tmp_path / "web.sock"))
    assert stage.listeners.backlog() == 0
    with contextlib.ExitStack() as clients:
        for listener in listeners:
            clients.enter_context(socket.socket(listener.family)).connect(listener.getsockname())
        assert stage.listeners.backlog() == 2
