"""Run a real `outrider run`, command it as a user does, and look into it through its control socket."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack, cast

from outrider_supervisor.status import GenerationStatus, Status, WorkerStatus
from outrider_testing.gunicorn_process import parse_listener
from outrider_testing.http_client import Address, Response, can_connect, fetch
from outrider_testing.server_process import CONFIG_RECORD, START_DEADLINE, SUPPORT, ServerProcess, Surroundings

MODULE = "outrider_supervisor.cli"
COMMAND_DEADLINE = 60.0

CONFIG_PRELUDE = (
    CONFIG_RECORD
    + """\
bind = "127.0.0.1:0"
graceful_timeout = 10
"""
)


@dataclass(frozen=True, slots=True)
class Completed:
    """An `outrider` command that has ended."""

    command: object
    code: int
    output: str

    def check(self, code: int = 0) -> str:
        """Return the output of a command that ended with `code`, as it must."""
        assert self.code == code, f"{self.command}: exit status {self.code}\n{self.output}"
        return self.output


class OutriderProcess(ServerProcess):
    """One supervisor with its masters and workers. `options` go to the command line of `outrider run` before `app`.

    Its name and its runtime directory, where the control socket is, are its own.
    """

    def __init__(self, directory: Path, app: str, *options: str, **surroundings: Unpack[Surroundings]) -> None:
        self.name = f"test-{os.getpid()}"
        # Not in `directory`: the path of a socket may be no longer than 107 bytes (unix(7)).
        self.runtime_directory = Path(tempfile.mkdtemp(prefix="outrider-"))
        self._address: Address | None = None
        command = (MODULE, "run", app, "--name", self.name, "--pythonpath", str(SUPPORT), *options)
        super().__init__(directory, command, CONFIG_PRELUDE, surroundings)

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return super()._environment({"RUNTIME_DIRECTORY": str(self.runtime_directory), **extra})

    # What it says of itself

    @property
    def control_socket(self) -> str:
        """The path of its control socket."""
        return str(self.runtime_directory / f"{self.name}.sock")

    @property
    def address(self) -> Address:
        """Where it listens first, by its status."""
        if self._address is None:
            self._address = parse_listener(self.status()["addresses"][0])
        return self._address

    @address.setter
    def address(self, value: Address) -> None:
        self._address = value

    def ask(self, target: str, body: Mapping[str, object] | None = None, timeout: float = COMMAND_DEADLINE) -> Response:
        """Send a request to the control socket."""
        data = None if body is None else json.dumps(body).encode()
        return fetch(self.control_socket, target, body=data, timeout=timeout)

    def status(self) -> Status:
        """Return the status; it takes a millisecond, for no command is started."""
        return cast("Status", self.ask("/v1/status").json())

    @property
    def admin_url(self) -> str:
        """Where its admin endpoint is, by its status."""
        (url,) = self.status()["admin_addresses"]
        return url

    @property
    def admin_address(self) -> Address:
        """The address in `admin_url`."""
        return parse_listener(self.admin_url)

    def ask_admin(self, target: str, token: str = "", body: bytes | None = None) -> Response:
        """Send a request to the admin endpoint."""
        fields = [("Authorization", f"Bearer {token}")] if token else []
        return fetch(self.admin_address, target, body=body, fields=fields)

    def generations(self) -> dict[int, GenerationStatus]:
        """Return what is known of each generation, by its number."""
        return {each["number"]: each for each in self.status()["generations"]}

    def workers(self, generation: int | None = None, state: str = "ready") -> list[int]:
        """Return the pids of the workers in one state, lowest first, of one generation or of all."""
        return sorted(each["pid"] for each in self.worker_rows(generation) if each["state"] == state)

    def worker_rows(self, generation: int | None = None) -> list[WorkerStatus]:
        """Return what is known of each worker."""
        generations = self.status()["generations"]
        return [row for each in generations if generation in {None, each["number"]} for row in each["workers"]]

    def current(self) -> GenerationStatus:
        """Return the generation that is current."""
        (current,) = (each for each in self.status()["generations"] if each["state"] == "current")
        return current

    def version(self) -> str:
        """Tell which release answers."""
        return self.get("/").field("x-version")

    def is_settled(self, workers: int, generation: int | None = None) -> bool:
        """Tell whether one generation is left, with all its workers ready, and nothing goes on."""
        status = self.status()
        if status["operation"] is not None or status["state"] != "serving" or len(status["generations"]) != 1:
            return False
        (only,) = status["generations"]
        is_wanted = only["state"] == "current" and generation in {None, only["number"]}
        return is_wanted and [row["state"] for row in only["workers"]] == ["ready"] * workers

    def wait_until_settled(self, workers: int, generation: int | None = None, deadline: float = 30.0) -> None:
        """Wait for `is_settled`."""

        def look() -> bool:
            self._check_alive()
            return self.is_settled(workers, generation)

        what = f"{workers} workers of generation {generation or 'any'}, and nothing else"
        self.until(look, deadline, what)

    def _explain(self) -> str:
        status = json.dumps(self.status(), indent=1) if can_connect(self.control_socket) else "none"
        return f"{super()._explain()}\n--- status ---\n{status}"

    def wait_until_ready(self, workers: int = 1, deadline: float = START_DEADLINE) -> OutriderProcess:
        """Wait until `workers` workers are ready."""

        def has_status() -> bool:
            self._check_alive()
            return can_connect(self.control_socket)

        self.until(has_status, deadline, "the control socket")
        self.wait_until_settled(workers, deadline=deadline)
        return self

    # Commands

    def command(self, *words: str, name: str | None = None, deadline: float = COMMAND_DEADLINE) -> Completed:
        """Run an `outrider` command to its end, with its output, as a script would.

        It is for this instance, or for that of another name; with an empty one it is not told for which.
        """
        return self.finish(self.begin(*words, name=name), deadline)

    def finish(self, process: subprocess.Popen[str], deadline: float = COMMAND_DEADLINE) -> Completed:
        """Wait for the end of a command that was begun."""
        try:
            output, _ = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            message = f"{process.args!r} still runs after {deadline} s\n{output}\n--- log ---\n{self.log_text()}"
            raise TimeoutError(message) from None
        return Completed(process.args, process.returncode, output)

    def begin(self, *words: str, name: str | None = None) -> subprocess.Popen[str]:
        """Start an `outrider` command and leave it running; stdout and stderr are one stream."""
        name = self.name if name is None else name
        return subprocess.Popen(
            [sys.executable, "-m", MODULE, *words, *(("--name", name) if name else ())],
            cwd=self.directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def reload(self, *options: str) -> Completed:
        """Run `outrider reload`."""
        return self.command("reload", *options)

    def scale(self, workers: int) -> Completed:
        """Run `outrider scale`."""
        return self.command("scale", str(workers))

    def recycle(self, pid: int | None = None) -> Completed:
        """Run `outrider recycle`, for one worker or all."""
        return self.command("recycle", str(pid) if pid else "--all")

    def upgrade(self) -> Completed:
        """Run `outrider upgrade`."""
        return self.command("upgrade")

    def stop(self) -> None:
        """End it, as the base does, and remove its runtime directory."""
        try:
            super().stop()
        finally:
            shutil.rmtree(self.runtime_directory, ignore_errors=True)
