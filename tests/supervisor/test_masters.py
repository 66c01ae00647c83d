"""Masters as processes: how one is started, and the channel to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from outrider_supervisor import masters
from outrider_supervisor.actions import StartMaster
from outrider_supervisor.channel import Surroundings
from outrider_supervisor.events import Event, FromGeneration, MasterExited
from outrider_supervisor.masters import Master, MasterStarter
from outrider_supervisor.messages import (
    MOST_BYTES,
    MasterBooted,
    MasterFailed,
    SetTarget,
    WorkerReady,
    decode,
    encode,
)
from outrider_supervisor.processes import Children
from outrider_testing.fakes import ManualLoop
from outrider_testing.services import make_service
from outrider_testing.waiting import until

SLEEP = ["/bin/sleep", "60"]
MANY = 200


class Scene:
    """Masters whose end of the channel the test holds, and what becomes of them."""

    def __init__(self, loop: ManualLoop) -> None:
        self.loop = loop
        self.children = Children(loop)
        self.events: list[Event] = []
        self.theirs: list[socket.socket] = []

    def master(self, number: int = 1, command: list[str] = SLEEP) -> tuple[Master, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs.append(theirs)
        return Master(number, self.children.spawn(command, {}), ours, self.loop, self.events.append), theirs

    def until(self, condition: Callable[[], object], what: str) -> None:
        def look() -> object:
            self.loop.run_ready()
            return condition()

        until(look, what=what)

    def until_exit(self) -> MasterExited:
        self.until(lambda: self.events and isinstance(self.events[-1], MasterExited), "the end of the master")
        event = self.events[-1]
        assert isinstance(event, MasterExited)
        return event

    def close(self) -> None:
        for process in list(self.children._known.values()):
            process.signal(signal.SIGKILL)
        self.until(lambda: not self.children._known, "the end of the children")
        for end in self.theirs:
            end.close()


@pytest.fixture
def scene(loop: ManualLoop) -> Iterator[Scene]:
    scene = Scene(loop)
    yield scene
    scene.close()


# -- what it says


def test_messages_become_events_in_order(scene: Scene) -> None:
    _, theirs = scene.master(3)
    theirs.send(encode(MasterBooted()))
    theirs.send(encode(WorkerReady(7)))
    scene.until(lambda: len(scene.events) == 2, "two messages")
    assert scene.events == [FromGeneration(3, MasterBooted()), FromGeneration(3, WorkerReady(7))]


def test_message_is_heard_by_the_master(scene: Scene) -> None:
    master, theirs = scene.master()
    master.tell(SetTarget(4))
    assert decode(theirs.recv(MOST_BYTES)) == SetTarget(4)


def test_end_of_a_master_is_an_event_and_says_how(scene: Scene) -> None:
    master, _ = scene.master(2)
    master.process.signal(signal.SIGSEGV)
    assert scene.until_exit() == MasterExited(2, "was killed by SIGSEGV")
    assert master.channel.fileno() == -1


def test_last_messages_come_before_the_end(scene: Scene) -> None:
    master, theirs = scene.master()
    scene.loop.remove_reader(master.channel)  # the kernel may well tell of the end first
    for pid in range(5):
        theirs.send(encode(WorkerReady(pid)))
    theirs.send(encode(MasterFailed("no", "Traceback")))
    theirs.close()
    master.process.signal(signal.SIGKILL)
    scene.until_exit()
    assert [type(each) for each in scene.events] == [FromGeneration] * 6 + [MasterExited]


def test_closed_channel_is_not_the_end_of_the_master(scene: Scene) -> None:
    master, theirs = scene.master()
    theirs.close()
    scene.loop.run_ready()
    assert scene.events == []
    master.tell(SetTarget(1))  # lost
    master.process.signal(signal.SIGKILL)
    scene.until_exit()
    assert len(scene.events) == 1


def test_message_of_another_version_is_logged_and_costs_no_other(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(masters._log, "warning", lambda text, *values: warnings.append(text % values))
    master, theirs = scene.master()
    theirs.send(b'{"type": "Unheard"}')
    theirs.send(encode(WorkerReady(7)))
    scene.until(lambda: scene.events, "the message after it")
    scene.loop.remove_reader(master.channel)
    theirs.send(b"\xff")
    master.process.signal(signal.SIGKILL)
    scene.until_exit()
    assert scene.events == [FromGeneration(1, WorkerReady(7)), MasterExited(1, "was killed by SIGKILL")]
    assert [each.partition(": not a message")[0] for each in warnings] == ["generation 1", "generation 1"]


def test_connection_that_is_reset_ends_the_reading(scene: Scene) -> None:
    master, theirs = scene.master()
    master.tell(SetTarget(1))
    theirs.close()  # with a message unread: ECONNRESET
    scene.loop.run_ready()
    assert scene.events == []


# -- one that hangs


def test_master_that_does_not_read_is_killed_rather_than_waited_for(scene: Scene) -> None:
    master, _ = scene.master()
    told = 0
    while not scene.events and told < 100_000:
        master.tell(SetTarget(told))
        told += 1
        if told % MANY == 0:
            scene.loop.run_ready()
    assert told > MANY
    assert scene.until_exit() == MasterExited(1, "was killed by SIGKILL")


def test_master_that_is_gone_is_told_nothing(scene: Scene) -> None:
    master, _ = scene.master()
    master.process.signal(signal.SIGKILL)
    scene.until_exit()
    master.tell(SetTarget(1))
    assert len(scene.events) == 1


def test_closing_touches_neither_process_nor_channel(scene: Scene) -> None:
    master, theirs = scene.master()
    pid = master.process.pid
    master.close()
    master.close()
    theirs.settimeout(10.0)  # a child has copies until the middle of its execve(2)
    assert theirs.recv(1) == b""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    scene.loop.run_ready()
    assert scene.events == []


# -- how one is started

SHOW = """\
import json, os, socket, sys
channel = socket.socket(fileno=int(os.environ["OUTRIDER_SUPERVISOR_CHANNEL_FD"]))
reports = socket.socket(fileno=int(os.environ["OUTRIDER_SUPERVISOR_REPORTS_FD"]))
listener = socket.socket(fileno=3)
reports.send(json.dumps({
    "environ": dict(os.environ),
    "argv": sys.argv[1:],
    "listens": listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
    "open": {each: os.readlink("/proc/self/fd/" + each) for each in map(str, range(3, 100))
             if os.path.lexists("/proc/self/fd/" + each)},
}).encode())
channel.recv(1)
"""

ENVIRON = {
    "PATH": os.environ["PATH"],
    "SECRET": "42",
    "OUTRIDER_SUPERVISOR_NAME": "shop",
    "NOTIFY_SOCKET": "/run/notify",
    "WATCHDOG_USEC": "1",
    "WATCHDOG_PID": "1",
    "LISTEN_PID": "1",
    "LISTEN_FDS": "9",
    "LISTEN_FDNAMES": "a",
}
ORDER = StartMaster(4, make_service(), 2)


@pytest.fixture
def reports() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    yield pair
    for end in pair:
        end.close()


@pytest.fixture
def scoreboard() -> Iterator[int]:
    descriptor = os.memfd_create("table")
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_master_is_given_all_that_it_needs_and_nothing_else(
    scene: Scene,
    reports: tuple[socket.socket, socket.socket],
    scoreboard: int,
    listener: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / "python"
    (tmp_path / "show.py").write_text(SHOW)
    program.write_text(f'#!/bin/sh\nshift 3\nexec "{sys.executable}" -I -S "{tmp_path}/show.py" "$@"\n')
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    starter = MasterStarter(("--bind", ":0", "app:app"), ENVIRON, scoreboard, reports[1].fileno(), scene.children)
    master = starter.start(ORDER, [listener], scene.loop, scene.events.append)
    reports[0].settimeout(10.0)
    shown: dict[str, Any] = json.loads(reports[0].recv(MOST_BYTES))

    environ = shown["environ"]
    surroundings = Surroundings.from_environ(environ)
    assert surroundings.supervision.generation == 4
    assert surroundings.workers == 2
    assert (surroundings.scoreboard, surroundings.channel, surroundings.reports) == (4, 5, 6)
    assert environ["OUTRIDER_SUPERVISOR_PID"] == str(os.getpid())
    assert environ["OUTRIDER_SUPERVISOR_NAME"] == "shop"
    assert environ["SECRET"] == "42"
    assert environ["LISTEN_FDS"] == "1"
    assert not environ.keys() & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDNAMES"}
    assert shown["argv"] == ["--bind", ":0", "app:app"]
    assert shown["listens"] == 1
    sockets = {int(number) for number, link in shown["open"].items() if link.startswith("socket:")}
    assert sockets == {3, 5, 6}
    assert [int(number) for number, link in shown["open"].items() if "memfd:table" in link] == [4]

    master.tell(SetTarget(2))
    scene.until_exit()
    assert scene.events == [MasterExited(4, "exited with code 0")]


def test_channel_has_room_for_what_is_said_while_the_supervisor_is_busy(
    scene: Scene, reports: tuple[socket.socket, socket.socket], scoreboard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs: list[tuple[socket.socket, socket.socket]] = []
    make = socket.socketpair

    def make_and_keep(family: int, kind: int) -> tuple[socket.socket, socket.socket]:
        ours, theirs = make(family, kind)
        pairs.append((ours, theirs.dup()))
        return ours, theirs

    monkeypatch.setattr(socket, "socketpair", make_and_keep)
    monkeypatch.setattr(sys, "executable", "/bin/true")
    starter = MasterStarter((), {}, scoreboard, reports[1].fileno(), scene.children)
    starter.start(ORDER, (), scene.loop, scene.events.append)
    ((_, masters_end),) = pairs
    ordinary = make(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with masters_end, ordinary[0], ordinary[1]:
        assert room(masters_end) > room(ordinary[0])


def room(sock: socket.socket) -> int:
    """How many messages can be sent without being read."""
    message = encode(WorkerReady(7))
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sock.send(message, socket.MSG_DONTWAIT)
            sent += 1
    return sent


def test_master_that_cannot_be_started_leaves_no_descriptors(
    scene: Scene, reports: tuple[socket.socket, socket.socket], scoreboard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    starter = MasterStarter((), {}, scoreboard, reports[1].fileno(), scene.children)
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(FileNotFoundError):
        starter.start(ORDER, (), scene.loop, scene.events.append)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
