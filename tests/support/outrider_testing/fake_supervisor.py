"""The supervisor's end of a real master: it starts one as the supervisor does, sends what a test says, and records."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import outrider_supervisor
from outrider.scoreboard import RowSnapshot, Scoreboard
from outrider_supervisor.messages import (
    MOST_BYTES,
    FromMaster,
    Stop,
    ToMaster,
    WorkerExited,
    WorkerReady,
    decode,
    encode,
)
from outrider_supervisor.reports import Report, ReportReader
from outrider_testing.http_client import HTTPConnection, Response, encode_request, fetch
from outrider_testing.processes import is_running, read_process, session_members
from outrider_testing.waiting import until

T = TypeVar("T")

SUPPORT = Path(__file__).parents[1]
SOURCE = Path(outrider_supervisor.__file__).parents[1]
PATIENCE = 20.0
FIRST_FREE_DESCRIPTOR = 100
FOREIGN = ("GUNICORN_", "OUTRIDER_", "LISTEN_", "NOTIFY_SOCKET", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS")

SHOP = """
import gc, os, sys

def app(environ, start_response):
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]

frozen_at_boot = 0

async def asgi(scope, receive, send):
    global frozen_at_boot
    if scope["type"] != "http":
        frozen_at_boot = gc.get_freeze_count()
        raise NotImplementedError
    if scope["path"] == "/die":
        os._exit(int(scope["query_string"] or 0))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d %d" % (frozen_at_boot, gc.isenabled())})
"""

HOOKS = """
def record(*words):
    with open("hooks", "a") as events:
        events.write(" ".join(map(str, words)) + "\\n")

def on_starting(server): record("on_starting")
def on_reload(server): record("on_reload")
def when_ready(server): record("when_ready")
def pre_fork(server, worker): record("pre_fork")
def post_fork(server, worker): record("post_fork")
def post_worker_init(worker): record("post_worker_init")
def worker_exit(server, worker): record("worker_exit")
def child_exit(server, worker): record("child_exit")
def nworkers_changed(server, new, old): record("nworkers_changed", new, old)
def on_exit(server): record("on_exit")
"""


class FakeSupervisor:
    """A listener, a scoreboard, and both ends of what lies between supervisor and master.

    Attributes:
        messages: all that the master has said, oldest first.
        reports: the log records that master and workers have sent.
    """

    def __init__(self, directory: Path, generation: int = 1, rows: int = 16) -> None:
        self.directory = directory
        self.generation = generation
        self.messages: list[FromMaster] = []
        self.reports: list[Report] = []
        self.pid = 0
        self._status: int | None = None
        self._reader = ReportReader()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._scoreboard_fd = os.memfd_create("scoreboard")
        self.scoreboard = Scoreboard.create_in(self._scoreboard_fd, rows)
        self.channel, self._master_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._report_end, self._master_reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    # -- acting

    def start(
        self, *argv: str, workers: int = 1, config: str = "", env: dict[str, str] | None = None
    ) -> FakeSupervisor:
        """Start the master with a configuration file that says `config`."""
        config_file = self.directory / "gunicorn.conf.py"
        config_file.write_text(config)
        ends = [each.fileno() for each in (self.listener, self._master_channel, self._master_reports)]
        ends.append(self._scoreboard_fd)
        # Out of the way first: what is put at 3 and 4 must not overwrite what comes after it.
        sources = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE_DESCRIPTOR) for each in ends]
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 1, str(self.directory / "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_DUP2, source, 3 + index) for index, source in enumerate(sources)),
        ]
        command = [sys.executable, "-m", "outrider_supervisor.master", *argv]
        command += ["-c", str(config_file), "--chdir", str(self.directory)]
        environment = self._environment(workers) | (env or {})
        self.pid = os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)
        for source in sources:
            os.close(source)
        self._master_channel.close()
        self._master_reports.close()
        return self

    def send(self, message: ToMaster) -> None:
        """Send a message to the master."""
        self.channel.send(encode(message))

    def signal(self, number: signal.Signals, pid: int = 0) -> None:
        """Send a signal to the master or a worker."""
        os.kill(pid or self.pid, number)

    def get(self, target: str = "/") -> Response:
        """Send a request on a connection of its own."""
        return fetch(self.listener.getsockname(), target)

    def connect(self) -> HTTPConnection:
        """Open a connection to the listener."""
        return HTTPConnection(self.listener.getsockname())

    def hold(self, name: str) -> HTTPConnection:
        """Start a request that stays in flight until `release(name)`; return once the app runs it."""
        connection = self.connect()
        connection.send(encode_request("GET", f"/gate/{name}"))
        self.until((self.directory / f"{name}.held").exists)
        return connection

    def release(self, name: str) -> None:
        """Let a held request finish."""
        (self.directory / f"{name}.open").touch()

    def stop(self) -> int:
        """Stop the master and wait for its exit code."""
        self.send(Stop(fast=False))
        return self.until_exit()

    # -- looking

    def look(self) -> None:
        """Take in what has come."""
        with contextlib.suppress(BlockingIOError):
            while data := self.channel.recv(MOST_BYTES, socket.MSG_DONTWAIT):
                self.messages.append(decode(data))
        with contextlib.suppress(BlockingIOError):
            while data := self._report_end.recv(MOST_BYTES, socket.MSG_DONTWAIT):
                self.reports += self._reader.feed(data)

    def find(self, kind: type[T]) -> list[T]:
        """The messages of one kind so far, oldest first."""
        self.look()
        return [message for message in self.messages if isinstance(message, kind)]

    def until(self, condition: Callable[[], T], what: str = "") -> T:
        """Wait; on failure show the log and the messages."""

        def check() -> T:
            self.look()
            return condition()

        try:
            return until(check, PATIENCE, what=what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.messages}\n{self.rows()}\n--- log ---\n{self.log()}") from None

    def until_message(self, kind: type[T], count: int = 1) -> T:
        """Wait for so many messages of a kind; the last of them."""
        return self.until(lambda: self.find(kind) if len(self.find(kind)) >= count else [], kind.__name__)[count - 1]

    def until_ready(self, count: int = 1) -> list[int]:
        """Wait until so many workers have become ready: their pids, oldest first."""
        self.until_message(WorkerReady, count)
        return [message.pid for message in self.find(WorkerReady)]

    def until_exit_of(self, pid: int) -> WorkerExited:
        """Wait for the exit of a worker."""

        def find() -> WorkerExited | None:
            return next((each for each in self.find(WorkerExited) if each.pid == pid), None)

        message = self.until(find, f"exit of {pid}")
        assert message is not None
        return message

    def until_report(self, pattern: str) -> str:
        """Wait for a log record whose text matches a regular expression; that text."""

        def find() -> str:
            return next((each.text for each in self.reports if re.search(pattern, each.text)), "")

        return self.until(find, f"report {pattern!r}")

    def until_exit(self) -> int:
        """Wait for the end of the master: the exit code, or the negative number of a signal."""
        self.until(self._has_ended, "end of the master")
        self.look()
        assert self._status is not None
        return self._status

    def log(self) -> str:
        """What the master and its workers have written."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def rows(self) -> list[RowSnapshot]:
        """The scoreboard."""
        return self.scoreboard.rows()

    def row_of(self, pid: int) -> RowSnapshot:
        """The row of a worker in the scoreboard."""
        return next(row for row in self.rows() if row.pid == pid)

    def hooks(self) -> list[str]:
        """What the hooks of `HOOKS` have recorded."""
        return (self.directory / "hooks").read_text().splitlines()

    def close(self) -> None:
        """Leave nothing behind."""
        if self.pid:
            for pid in {self.pid, *session_members(self.pid)}:
                with contextlib.suppress(ProcessLookupError):
                    if self._status is None or is_running(pid):
                        os.kill(pid, signal.SIGKILL)
            until(self._has_ended, PATIENCE, what="end of a killed master")
        for end in (self.listener, self.channel, self._master_channel, self._report_end, self._master_reports):
            end.close()
        os.close(self._scoreboard_fd)

    def _has_ended(self) -> bool:
        if self._status is None and self.pid:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def _environment(self, workers: int) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return inherited | {
            "PYTHONPATH": f"{SOURCE}:{SUPPORT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PROBE_DIRECTORY": str(self.directory),
            "LISTEN_FDS": "1",
            "OUTRIDER_SUPERVISOR_CHANNEL_FD": "4",
            "OUTRIDER_SUPERVISOR_REPORTS_FD": "5",
            "OUTRIDER_SCOREBOARD_FD": "6",
            "OUTRIDER_SUPERVISOR_PID": str(os.getpid()),
            "OUTRIDER_SUPERVISOR_GENERATION": str(self.generation),
            "OUTRIDER_SUPERVISOR_WORKERS": str(workers),
        }


def title_of(pid: int) -> str:
    """The title of a process, as ps shows it."""
    assert read_process(pid) is not None
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


MakeSupervisor = Callable[..., FakeSupervisor]


@contextlib.contextmanager
def making_supervisors(directory: Path) -> Iterator[MakeSupervisor]:
    """Give a function that makes supervisors whose masters find `SHOP` in `directory`; close them all at the end."""
    (directory / "shop.py").write_text(SHOP)
    with contextlib.ExitStack() as stack:

        def make(**arguments: int) -> FakeSupervisor:
            return stack.enter_context(contextlib.closing(FakeSupervisor(directory, **arguments)))

        yield make
