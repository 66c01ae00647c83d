"""The datagrams of sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from outrider_supervisor.notify import MOST_WAITING, Notifier


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address)
        self.sock.setblocking(False)

    def read(self) -> str:
        return self.sock.recv(4096).decode()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.sock.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    notifier = Notifier(manager.sock.getsockname(), clock=lambda: 5_000_007_000)
    yield notifier
    notifier.close()


def test_notifier_tells_each_state_in_one_datagram(manager: Manager, notifier: Notifier) -> None:
    assert notifier.ready("4 workers")
    assert manager.read() == "READY=1\nSTATUS=4 workers"
    assert notifier.ready()
    assert manager.read() == "READY=1"
    assert notifier.reloading()
    assert manager.read() == "RELOADING=1\nMONOTONIC_USEC=5000007"
    assert notifier.stopping()
    assert manager.read() == "STOPPING=1"
    assert notifier.keep_alive()
    assert manager.read() == "WATCHDOG=1"


def test_status_stays_one_line(manager: Manager, notifier: Notifier) -> None:
    assert notifier.status("degraded:\nREADY=1")
    assert manager.read() == "STATUS=degraded: READY=1"


def test_descriptor_is_stored_and_forgotten_by_name(manager: Manager, notifier: Notifier) -> None:
    with socket.socket() as kept:
        assert notifier.store("web", kept.fileno())
        message, descriptors, _, _ = socket.recv_fds(manager.sock, 4096, 4)
        assert message == b"FDSTORE=1\nFDNAME=web\nFDPOLL=0"
        assert os.fstat(descriptors[0]).st_ino == os.fstat(kept.fileno()).st_ino
        os.close(descriptors[0])
    assert notifier.forget("web")
    assert manager.read() == "FDSTOREREMOVE=1\nFDNAME=web"


def test_abstract_address_begins_with_an_at_sign() -> None:
    name = f"outrider-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    environ = {"NOTIFY_SOCKET": f"@{name}"}
    notifier = Notifier.from_environment(environ)
    assert notifier.ready()
    assert manager.read() == "READY=1"
    assert environ == {"NOTIFY_SOCKET": f"@{name}"}
    manager.sock.close()
    notifier.close()


def test_nobody_is_told_without_a_socket() -> None:
    notifier = Notifier.from_environment({})
    assert not notifier.ready()
    assert notifier.watchdog is None


@pytest.mark.parametrize("address", ["/nonexistent/notify", "relative", "/nul\0byte", "@" + "x" * 200])
def test_address_that_is_no_use_does_no_harm(address: str) -> None:
    notifier = Notifier(address)
    assert not notifier.ready()
    notifier.close()


def test_full_queue_does_not_block(notifier: Notifier) -> None:
    sent = 0
    while notifier.status("x" * 1000):
        sent += 1
        assert sent < 100_000
    assert sent > 0


def fill(notifier: Notifier) -> None:
    while notifier.status("x" * 1000):
        pass


def read_all(manager: Manager) -> list[str]:
    """What waits to be read, but for what `fill` sent."""
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(manager.read())
    return [each for each in found if not each.startswith("STATUS=x")]


def test_what_the_manager_waits_for_is_told_when_there_is_room(manager: Manager, notifier: Notifier) -> None:
    fill(notifier)
    assert not notifier.reloading()
    assert not notifier.ready()
    assert not notifier.stopping()
    assert not notifier.forget("web")
    assert not notifier.keep_alive()
    assert read_all(manager) == []
    notifier.flush()
    assert read_all(manager) == [
        "RELOADING=1\nMONOTONIC_USEC=5000007",
        "READY=1",
        "STOPPING=1",
        "FDSTOREREMOVE=1\nFDNAME=web",
    ]


def test_what_waits_for_a_manager_that_has_gone_holds_nothing_up(
    manager: Manager, notifier: Notifier, tmp_path: Path
) -> None:
    fill(notifier)
    notifier.ready()
    manager.sock.close()
    (tmp_path / "notify").unlink()
    notifier.flush()
    with closing(Manager(str(tmp_path / "notify")).sock) as sock:
        assert notifier.keep_alive()
        assert sock.recv(4096) == b"WATCHDOG=1"


def test_what_waits_is_told_at_the_end(manager: Manager, notifier: Notifier) -> None:
    fill(notifier)
    notifier.stopping()
    read_all(manager)
    notifier.close()
    assert read_all(manager) == ["STOPPING=1"]


def test_only_so_much_waits(manager: Manager, notifier: Notifier) -> None:
    fill(notifier)
    for number in range(MOST_WAITING + 1):
        notifier.forget(str(number))
    told: list[str] = []
    while len(told) < MOST_WAITING:
        told += read_all(manager)
        notifier.flush()
    assert told[0] == "FDSTOREREMOVE=1\nFDNAME=1"


def test_nothing_overtakes_what_waits(manager: Manager, notifier: Notifier) -> None:
    fill(notifier)
    notifier.forget("web")
    manager.read()
    with socket.socket() as kept:
        is_stored = notifier.store("web", kept.fileno())
    assert read_all(manager) == ["FDSTOREREMOVE=1\nFDNAME=web", *["FDSTORE=1\nFDNAME=web\nFDPOLL=0"] * is_stored]


def test_nothing_waits_for_nobody() -> None:
    notifier = Notifier("/nonexistent/notify")
    assert not notifier.ready()
    assert not notifier._waiting
    notifier.close()


def test_more_time_is_asked_for_in_microseconds(manager: Manager, notifier: Notifier) -> None:
    assert notifier.extend(7.5)
    assert manager.read() == "EXTEND_TIMEOUT_USEC=7500000"


def test_closed_notifier_tells_no_more(notifier: Notifier) -> None:
    notifier.ready()
    notifier.close()
    assert not notifier.ready()


@pytest.mark.parametrize(
    "environ, period",
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "77"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_period_is_read_where_it_is_meant_for_us(environ: dict[str, str], period: float | None) -> None:
    assert Notifier.from_environment(environ, pid=77).watchdog == period
