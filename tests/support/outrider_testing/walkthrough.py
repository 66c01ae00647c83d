"""Do what a page says, in its order, as a reader with a machine of their own would."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from outrider_testing.documented import Command, File, commands, files, interrupts
from outrider_testing.launchers import BUSY_MACHINE
from outrider_testing.network import isolated
from outrider_testing.processes import session_members
from outrider_testing.shown_output import find, match
from outrider_testing.waiting import until

DIRECTORY = "/srv/shop"
"""Where the reader is."""

COMMAND_DEADLINE = 120.0
START_DEADLINE = 60.0
STOP_DEADLINE = 40.0  # above the default graceful_timeout

# A terminal: what one command has exported, its directory and its status are there for the next. A server has one of
# its own: where it ends while a later command runs, it leaves nothing to the next.
_TERMINAL = "/run/terminal"
_STEP = f"""
echo $$ > {_TERMINAL}.user; . {_TERMINAL}; eval "$1"; status=$?
if [ $$ = "$(<{_TERMINAL}.user)" ]; then
    {{ declare -px; echo 'cd "$PWD"'; echo "(exit $status)"; }} > {_TERMINAL}
fi
exit $status
"""
_SERVER = re.compile(
    r"(?:\w+=\S+ +)*(?:\S*/python3? )?(?:\S*/)?"
    r"(?:outrider run|gunicorn|make (?:run|supervise))\b(?!.* --(?:help|version|check-config)\b)"
)
_READY = {
    "outrider": re.compile(r"generation \d+: (\d+) of \1 workers? ready"),
    "gunicorn": re.compile(r"Listening at: .*(?:.*\n)*?.*Booting worker"),
}
_ERROR = re.compile(r"^(?:outrider: |Error: |curl: \()", re.MULTILINE)


class PageError(AssertionError):
    """A page is not true; the message has the command, what is shown and what was printed."""


class Server:
    """A command that serves in the foreground of a terminal of its own."""

    def __init__(self, command: Command, process: subprocess.Popen[bytes], log: Path) -> None:
        self.command = command
        self._process = process
        self._log = log

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def is_ready(self) -> bool:
        program = "outrider" if re.search(r"outrider run|make supervise", self.command.text) else "gunicorn"
        return _READY[program].search(self.log()) is not None

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait for the end."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        until(lambda: not session_members(self._process.pid), STOP_DEADLINE, what=f"end of {self.command}")
        self._process.wait()

    def kill(self) -> None:
        """End it where its page has failed; the end of its machine ends what is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@dataclass(frozen=True)
class Machine:
    """Where a page is followed.

    Attributes:
        command: what to start here so that these words run there, without our variables; for this command of the page.
        path: what is called so there, by a path that this process can open.
        search_path: where programs are found there.
        directory: where the reader is.
    """

    command: Callable[[Command, Sequence[str]], list[str]]
    path: Callable[[str], Path]
    search_path: str
    directory: str = DIRECTORY


@contextmanager
def lonely_machine() -> Iterator[Machine]:
    """A machine with our package, without a network: ports, /run and /srv are its own.

    Its `outrider` is patient, since the machine shares its cores with other tests.
    """
    search_path = f"/run/bin:{Path(sys.executable).parent}:{os.defpath}:/usr/sbin:/sbin"
    with isolated() as host:
        command = shlex.join([*BUSY_MACHINE, sys.executable, "-m", "outrider_supervisor.cli"])
        program = host.path("/run/bin/outrider")
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
        yield Machine(lambda _, words: host.command("env", "-i", *words), host.path, search_path)


class Walkthrough:
    """A reader of one page, at its first line."""

    def __init__(self, page: str, machine: Machine, logs: Path, given: Mapping[str, str] | None = None) -> None:
        """`given` are files that the reader has already, by name; `logs` is a directory for what is printed."""
        self.page = page
        self._machine = machine
        self._logs = logs
        self._numbers: dict[str, str] = {}
        self._servers: list[Server] = []
        for name, text in (given or {}).items():
            self._write(name, text)
        self._home()

    def _home(self) -> None:
        """Open a terminal."""
        home = f"{self._machine.directory}/.home"
        names = {
            "PATH": self._machine.search_path,
            "HOME": home,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "TZ": "UTC",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        lines = [f"declare -x {name}={shlex.quote(value)}" for name, value in names.items()]
        lines += [f"cd {shlex.quote(self._machine.directory)}", "true"]
        self._write(f"{home}/.keep", "")
        self._write(_TERMINAL, "".join(f"{line}\n" for line in lines))

    def _write(self, name: str, text: str) -> None:
        path = self._machine.path(name if name.startswith("/") else f"{self._machine.directory}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def walk(self) -> dict[Command, float]:
        """Follow the page to its end; return for each command how many seconds after the start it was done.

        Raises PageError.
        """
        start = time.monotonic()
        done = {}
        steps: list[tuple[int, Command | File | None]] = [(line, None) for line in interrupts(self.page)]
        steps += [(command.line, command) for command in commands(self.page)]
        steps += [(file.line, file) for file in files(self.page)]
        try:
            for _, step in sorted(steps, key=lambda step: step[0]):
                if step is None:
                    self._interrupt()
                elif isinstance(step, File):
                    self._write(step.path, step.text)
                elif _SERVER.match(step.text) and not step.text.endswith("&"):
                    self._serve(step)
                else:
                    self._run(step)
                if isinstance(step, Command):
                    done[step] = time.monotonic() - start
        except (AssertionError, TimeoutError) as error:
            logs = "".join(f"\n--- {server.command} ---\n{server.log()}" for server in self._servers)
            for server in self._servers:
                server.kill()
            message = f"{error}{logs}"
            raise PageError(message) from None
        self._interrupt()
        return done

    def _interrupt(self) -> None:
        while self._servers:
            self._servers.pop().interrupt()

    def _typed(self, command: Command) -> str:
        """The command, with the process ids of this run in the place of those that the page shows."""
        return re.sub(r"\b\d{3,}\b", lambda number: self._numbers.get(number.group(), number.group()), command.text)

    def _start(self, command: Command) -> tuple[subprocess.Popen[bytes], Path]:
        log = self._logs / f"{command.line}.log"
        words = ["bash", "-c", _STEP, "bash", self._typed(command)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._machine.command(command, words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, log

    def _run(self, command: Command) -> None:
        process, log = self._start(command)
        try:
            status = process.wait(COMMAND_DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            message = f"{command}\nstill runs after {COMMAND_DEADLINE} s\n{log.read_text()}"
            raise PageError(message) from None
        printed = log.read_text(encoding="utf-8", errors="replace")
        self._check_status(command, status, printed)
        # A script without output is run for what it does.
        if command.output or command.language == "console":
            numbers = match(command.output, printed)
            if numbers is None:
                message = f"{command}\n--- shown ---\n{command.output}\n--- printed ---\n{printed}"
                raise PageError(message)
            self._numbers |= numbers

    def _serve(self, command: Command) -> None:
        """Start it where the one before ran, which must have ended first."""
        self._interrupt()
        server = Server(command, *self._start(command))
        self._servers.append(server)

        def has_begun() -> bool:
            is_settled = server.exit_status() is not None or server.is_ready()
            return is_settled and find(command.output, server.log()) is not None

        try:
            until(has_begun, START_DEADLINE, what=str(command))
        except TimeoutError:
            message = f"{command}\nnot within {START_DEADLINE} s what is shown:\n{command.output}"
            raise PageError(message) from None
        self._numbers |= find(command.output, server.log()) or {}
        status = server.exit_status()
        if status is not None:
            self._check_status(command, status, server.log())
            self._servers.remove(server)

    def _check_status(self, command: Command, status: int, printed: str) -> None:
        """A command succeeds, unless the page shows an error or asks for the status."""
        later = [each for each in commands(self.page) if each.line > command.line]
        is_asked = bool(later) and later[0].text.startswith("echo $?")
        if not is_asked and (status != 0) != (_ERROR.search(command.output) is not None):
            message = f"{command}\nexit status {status}\n{printed}"
            raise PageError(message)
