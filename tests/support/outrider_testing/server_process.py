"""A server that a test runs, seen from outside: its log, its answers, its exit."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar

from outrider_testing.http_client import Address, HTTPConnection, Response, encode_request, fetch
from outrider_testing.processes import is_running, session_members, signal_session
from outrider_testing.waiting import until

T = TypeVar("T")

SUPPORT = Path(__file__).parents[1]

START_DEADLINE = 20.0
PATIENCE = 20.0
"""Seconds to wait for what must come. How long it takes on a busy machine is not what is tested."""
STOP_DEADLINE = 10.0

# `record` is for the hooks that a test adds below it; the probe app appends to the same file.
CONFIG_RECORD = """\
import os


def record(*words):
    line = " ".join(str(word) for word in words) + "\\n"
    fd = os.open(os.environ["PROBE_DIRECTORY"] + "/events", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, line.encode())
    os.close(fd)


"""


class ServerDidNotStart(AssertionError):
    """The server exited, or stayed silent, before it served. The message carries its log."""


class Surroundings(TypedDict, total=False):
    """What a server finds when it starts, beside its command line.

    `config` is Python for gunicorn.conf.py; it may call `record(*words)`, which `events()` reads back. `env`
    adds environment variables, `files` are written to the server's directory by name, `launcher` is put
    before the command and `pass_fds` are inherited.
    """

    config: str
    env: Mapping[str, str]
    files: Mapping[str, str]
    launcher: Sequence[str]
    pass_fds: Sequence[int]


class ServerProcess:
    """One server with all its processes, in a session and a directory of its own.

    What it writes lands in `directory`, its working directory; it can import applications from there and from
    `outrider_testing.apps`. A subclass says how it is started and where it listens.
    """

    def __init__(self, directory: Path, command: Sequence[str], config: str, surroundings: Surroundings) -> None:
        self.directory = directory
        self.tls: ssl.SSLContext | None = None
        self._log_path = directory / "server.log"
        files = {"gunicorn.conf.py": config + surroundings.get("config", ""), **surroundings.get("files", {})}
        for name, text in files.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text)
        self._command = [*surroundings.get("launcher", ()), sys.executable, "-m", *command]
        self._environ = self._environment(surroundings.get("env", {}))
        self._pass_fds = tuple(surroundings.get("pass_fds", ()))
        self.start()

    def start(self) -> None:
        """Start it, with the command line and the environment of the first time."""
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.directory,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self._pass_fds,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def address(self) -> Address:
        """Where it listens first."""
        raise NotImplementedError

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """Everything of ours (coverage measures workers through it) but what would configure the server."""
        foreign = (
            "GUNICORN_",
            "OUTRIDER_",
            "LISTEN_",
            "NOTIFY_SOCKET",
            "WEB_CONCURRENCY",
            "FORWARDED_ALLOW_IPS",
        )
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        fixed = {"PROBE_DIRECTORY": str(self.directory), "PYTHONDONTWRITEBYTECODE": "1"}
        return inherited | fixed | dict(extra)

    # What it says

    def log_text(self) -> str:
        """Return everything written to its stdout and stderr so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def events(self) -> list[str]:
        """Return the lines that hooks and the application have recorded, oldest first."""
        path = self.directory / "events"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def tcp_address(self) -> tuple[str, int]:
        """The same, of a server that listens on TCP."""
        address = self.address
        assert isinstance(address, tuple)
        return address

    # Waiting

    def until(self, condition: Callable[[], T], deadline: float = PATIENCE, what: str = "") -> T:
        """Wait for `condition`; on failure the log is part of the message."""
        return until(condition, deadline, what=what, explain=self._explain)

    def _explain(self) -> str:
        return f"--- log ---\n{self.log_text()}"

    def until_log(self, pattern: str, deadline: float = PATIENCE) -> re.Match[str]:
        """Wait until the log matches a regular expression; return the match."""
        return self.until_file(self._log_path.name, pattern, deadline)

    def until_file(self, name: str, pattern: str, deadline: float = PATIENCE) -> re.Match[str]:
        """Wait until a file in its directory matches a regular expression; return the match."""
        path = self.directory / name
        expression = re.compile(pattern, re.MULTILINE)

        def find() -> re.Match[str] | None:
            return expression.search(path.read_text(errors="replace")) if path.exists() else None

        match = self.until(find, deadline, f"{pattern!r} in {name}")
        assert match is not None
        return match

    def until_event(self, event: str, deadline: float = PATIENCE) -> str:
        """Wait until a recorded line starts with `event`; return that line."""

        def find() -> str | None:
            return next((line for line in self.events() if f"{line} ".startswith(f"{event} ")), None)

        return self.until(find, deadline, f"event {event!r}") or ""

    def _answers(self) -> bool:
        self._check_alive()
        with contextlib.suppress(OSError, ValueError):
            return fetch(self.address, "/", timeout=2.0, tls=self.tls).status > 0
        return False

    def _check_alive(self) -> None:
        if self.process.poll() is not None:
            message = f"the server exited with {self.process.returncode}\n--- log ---\n{self.log_text()}"
            raise ServerDidNotStart(message)

    def wait(self, deadline: float = STOP_DEADLINE) -> int:
        """Wait for the exit and return its exit code."""
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            message = f"the server still runs after {deadline} s\n--- log ---\n{self.log_text()}"
            raise TimeoutError(message) from None

    def wait_until_gone(self, pid: int, deadline: float = 8.0) -> None:
        """Wait until the process `pid` no longer runs."""
        self.until(lambda: not is_running(pid), deadline, f"exit of {pid}")

    # Acting

    def signal(self, number: signal.Signals, pid: int | None = None) -> None:
        """Send a signal to the process that was started, or to another one."""
        os.kill(pid or self.pid, number)

    def get(self, target: str, *, body: bytes | None = None, timeout: float = 10.0) -> Response:
        """Send one request on a connection of its own."""
        return fetch(self.address, target, body=body, timeout=timeout, tls=self.tls)

    def connect(self, timeout: float = 10.0) -> HTTPConnection:
        """Open a connection."""
        return HTTPConnection(self.address, timeout=timeout, tls=self.tls)

    def hold(self, name: str, timeout: float = 10.0) -> HTTPConnection:
        """Start a request that stays in flight until `release(name)`; return once the app runs it."""
        connection = self.connect(timeout)
        connection.send(encode_request("GET", f"/gate/{name}"))
        self.until((self.directory / f"{name}.held").exists, what=f"gate {name} held")
        return connection

    def release(self, name: str) -> None:
        """Let a held request finish."""
        (self.directory / f"{name}.open").touch()

    # Ending

    def stop(self) -> None:
        """End it: TERM, then QUIT, then KILL to what is left; raise if there was need to kill anybody."""
        try:
            for number in (signal.SIGTERM, signal.SIGQUIT):
                if self.process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.signal(number)
                        self.process.wait(STOP_DEADLINE)
            with contextlib.suppress(TimeoutError):
                until(lambda: not session_members(self.pid), 3.0)
            left = session_members(self.pid)
        finally:
            signal_session(self.pid, signal.SIGKILL)
            self.process.wait(STOP_DEADLINE)
        if left:
            message = f"processes had to be killed: {left} (of {self.pid})"
            raise AssertionError(message)
