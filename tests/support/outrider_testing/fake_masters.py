"""A real supervisor in the test's own process and loop, with masters and workers that only sleep.

The test says what a master says, by writing to its end of the channel.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import setproctitle

from outrider_supervisor import seam as seam_module
from outrider_supervisor import supervisor as supervisor_module
from outrider_supervisor.actions import StartMaster
from outrider_supervisor.events import Event
from outrider_supervisor.journal import Journal
from outrider_supervisor.masters import Master
from outrider_supervisor.messages import (
    MOST_BYTES,
    FromMaster,
    MasterBooted,
    ToMaster,
    WorkerExited,
    WorkerReady,
    WorkerSpawned,
    decode,
    encode,
)
from outrider_supervisor.operations import Operation, Outcome
from outrider_supervisor.processes import Children
from outrider_supervisor.reports import encode_report
from outrider_supervisor.service import Service
from outrider_supervisor.supervisor import Supervisor
from outrider_testing.fakes import ManualLoop
from outrider_testing.processes import all_children, read_process
from outrider_testing.services import make_service
from outrider_testing.waiting import until

T = TypeVar("T")
STEP = 0.05
SLEEP = ("/bin/sleep", "60")


class FakeMaster:
    """The master's end: what it is told, and what it says."""

    def __init__(self, order: StartMaster, master: Master, end: socket.socket) -> None:
        self.order = order
        self.master = master
        self.end = end

    @property
    def pid(self) -> int:
        """Its process, which sleeps."""
        return self.master.process.pid

    def say(self, message: FromMaster) -> None:
        """Send a message."""
        self.end.send(encode(message))

    def told(self) -> list[ToMaster]:
        """What it has been told since the last look."""
        found: list[ToMaster] = []
        while True:
            try:
                data = self.end.recv(MOST_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            if not data:
                return found
            found.append(decode(data))


class FakeNotifier:
    """Keeps what the service manager would be told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.watchdog: float | None = None
        self.is_deaf = False
        """Its queue is full."""
        self.flushes = 0

    def ready(self) -> bool:
        return self._note("ready")

    def reloading(self) -> bool:
        return self._note("reloading")

    def stopping(self) -> bool:
        return self._note("stopping")

    def status(self, text: str) -> bool:
        return self._note(text)

    def keep_alive(self) -> bool:
        return self._note("alive")

    def extend(self, seconds: float) -> bool:
        return self._note(f"extend {seconds:g}")

    def store(self, name: str, _descriptor: int) -> bool:
        return self._note(f"store {name}")

    def forget(self, name: str) -> bool:
        return self._note(f"forget {name}")

    def flush(self) -> None:
        """It tells at once, or never."""
        self.flushes += 1

    def _note(self, text: str) -> bool:
        if not self.is_deaf:
            self.told.append(text)
        return not self.is_deaf

    def close(self) -> None:
        self.told.append("close")


class SupervisorScene:
    """One supervisor. `service` is what the next reading of the configuration gives, or the error it raises."""

    def __init__(self, loop: ManualLoop, directory: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
        self.loop = loop
        self.log = directory / "error.log"
        self.service: Service | Exception = make_service(
            **{"errorlog": str(self.log), "canary": False, "workers": 1, **fields}
        )
        self.masters: dict[int, FakeMaster] = {}
        self.pids: list[int] = []
        self.titles: list[str] = []
        self.notifier = FakeNotifier()
        self.is_starting_refused = False
        self._is_closed = False
        self._others = all_children(os.getpid())
        """Servers that serve a whole session are children of this process, too."""
        monkeypatch.setattr(supervisor_module, "become_subreaper", lambda: True)  # it would outlive the test
        monkeypatch.setattr(setproctitle, "setproctitle", self.titles.append)
        monkeypatch.setattr(seam_module, "MasterStarter", lambda *args: _FakeStarter(self, args[-1]))
        self.environ = {"RUNTIME_DIRECTORY": str(directory), "PATH": os.environ["PATH"]}
        self.journal = Journal()
        self.supervisor = self.make_supervisor()
        monkeypatch.setattr(self.supervisor.seam, "read_service", self._read_service)
        self.socket = directory / "shop.sock"

    def make_supervisor(self) -> Supervisor:
        """Another one, with the notifier that only takes notes."""

        async def make() -> Supervisor:
            return Supervisor(("app:app",), self.environ, self.journal)

        supervisor = self.loop.run_until_complete(make())
        for each in (supervisor.seam, supervisor.manager):
            vars(each)["notifier"] = self.notifier
        return supervisor

    # -- acting

    def until(self, condition: Callable[[], T], what: str) -> T:
        """Run the loop until it holds; the clock goes on with it."""

        def look() -> T:
            self.loop.advance(STEP)
            return condition()

        return until(look, what=what)

    def finish(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it to its end."""
        task = self.loop.create_task(coroutine)
        self.until(task.done, "the end of a coroutine")
        return task.result()

    def start(self, workers: int = 1) -> list[int]:
        """Start the first generation; its workers serve."""
        self.finish(self.supervisor.start())
        return self.serve(1, workers)

    def run(self) -> asyncio.Task[int]:
        """Run the supervisor, with signals, until one generation serves."""
        task = self.loop.create_task(self.supervisor.run(self.supervisor.start()))
        self.serve(1)
        return task

    def serve(self, number: int, workers: int = 1) -> list[int]:
        """Have a generation boot, and its workers serve."""
        self.until(lambda: number in self.masters, f"generation {number}")
        self.masters[number].say(MasterBooted())
        pids = [self.spawn(number) for _ in range(workers)]
        for pid in pids:
            self.masters[number].say(WorkerReady(pid))
        generations = self.supervisor.machine.fleet.generations
        self.until(lambda: number not in generations or generations[number].ready >= workers, "ready workers")
        return pids

    def spawn(self, number: int) -> int:
        """A worker of a master: a process, and the message."""
        pid = os.posix_spawn(SLEEP[0], SLEEP, {})
        self.pids.append(pid)
        self.masters[number].say(WorkerSpawned(pid, 0))
        return pid

    def end_worker(self, number: int, pid: int, *, expected: bool = True) -> None:
        """End a worker, and have its master say so."""
        os.kill(pid, signal.SIGKILL)
        self.until(lambda: read_process(pid) is None, "a reaped worker")
        self.masters[number].say(WorkerExited(pid, "was killed by SIGKILL", expected, was_ready=True))

    def end_generation(self, number: int) -> None:
        """Have a master and its workers do as they are told."""
        generations = self.supervisor.machine.fleet.generations
        for pid in list(generations[number].workers):
            self.end_worker(number, pid)
        os.kill(self.masters[number].pid, signal.SIGKILL)
        self.until(lambda: number not in generations, "the end of a generation")

    def report(
        self, pid: int, text: str, report: str | None = None, parts: int | None = None, data: Any = None
    ) -> None:
        """Have a process log something."""
        for datagram in list(encode_report(pid, "ERROR", text, report, data))[:parts]:
            os.write(self.supervisor.seam.reports.write_end, datagram)

    def outcome(self, operation: Operation) -> Outcome:
        """Wait for the end of an operation."""
        self.until(lambda: operation.outcome is not None, "the end of the operation")
        assert operation.outcome is not None
        return operation.outcome

    def get_status(self) -> dict[str, Any]:
        """Ask the control socket, as a client does."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            client.setblocking(False)
            received = b""

            def is_complete() -> bool:
                nonlocal received
                try:
                    data = client.recv(65536)
                except BlockingIOError:
                    return False
                received += data
                return not data

            self.until(is_complete, "an answer of the control socket")
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), received
        found: dict[str, Any] = json.loads(body)
        return found

    # -- looking

    def logged(self) -> str:
        """The log."""
        return self.log.read_text() if self.log.exists() else ""

    def close_supervisor(self) -> None:
        """Have the supervisor close, once."""
        if not self._is_closed:
            self._is_closed = True
            self.finish(self.supervisor.close())

    def close(self) -> None:
        """Leave nothing behind."""
        self.close_supervisor()
        self.journal.close()
        for pid in all_children(os.getpid()) - self._others:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for each in self.masters.values():
            each.end.close()

    async def _read_service(self) -> Service:
        if isinstance(self.service, Exception):
            raise self.service
        return self.service


class _FakeStarter:
    """In the place of `MasterStarter`."""

    def __init__(self, scene: SupervisorScene, children: Children) -> None:
        self._scene = scene
        self._children = children

    def start(
        self,
        order: StartMaster,
        listeners: Sequence[socket.socket],
        loop: ManualLoop,
        on_event: Callable[[Event], None],
    ) -> Master:
        assert all(each.fileno() >= 0 for each in listeners)
        if self._scene.is_starting_refused:
            raise OSError(11, "Resource temporarily unavailable")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        master = Master(order.number, self._children.spawn(SLEEP, {}), ours, loop, on_event)
        self._scene.masters[order.number] = FakeMaster(order, master, theirs)
        return master
