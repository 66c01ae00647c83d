"""Start a server pinned to a core, wait until it answers, stop it and all it started."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import certificate
import procstat
from address import Address
from checks import check
from loads import Feature, Load, Tool
from servers import HERE, Launch, Server

START_DEADLINE = 30.0
STOP_DEADLINE = 3.0
_POLL = 0.02
_WARM_UP_REQUESTS = 100
_FAULT = re.compile(r"error|exception|no module|cannot|can't|not found|invalid|usage", re.IGNORECASE)


class ServerError(Exception):
    """The server did not start, answered wrongly or died; the message is one line for the report."""


class RunningServer:
    """A server process; a context manager that stops it.

    Raises (on entry):
        ServerError: it ended, or did not give the right answer, within `START_DEADLINE` seconds.

    """

    def __init__(self, server: Server, load: Load, core: int, workdir: Path) -> None:
        """Run ``server`` for ``load`` on ``core``; it works and writes its files in ``workdir``."""
        self.output = workdir / "output.log"
        self.access_log = workdir / "access.log"
        self._server = server
        self._load = load
        self._core = core
        self._workdir = workdir
        uds = workdir / "s.sock" if load.tool is Tool.UNIX_CLIENT else None
        self.address = Address.unused(uds, uses_tls=Feature.TLS in load.needs)

    def __enter__(self) -> Self:
        """Start the server and make the first requests."""
        load = self._load
        launch = Launch(
            load.app,
            self.address,
            self.access_log if load.access_log else None,
            certificate.write(self._workdir) if self.address.uses_tls else None,
            uses_http2=Feature.HTTP2 in load.needs,
        )
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(self._core), *self._server.command(launch)],
                cwd=self._workdir,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
            self._warm_up()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server and whatever it started."""
        self._stop()

    def tree(self) -> list[int]:
        """Return the server's processes."""
        return procstat.process_tree(self._process.pid)

    def logged_lines(self) -> int:
        """Return how many lines of access log (for servers that know no file: of output) were written."""
        log = self.access_log if self.access_log.exists() else self.output
        with log.open("rb") as lines:
            return sum(block.count(b"\n") for block in iter(lambda: lines.read(1 << 20), b""))

    def check_alive(self) -> None:
        """Raise ServerError if the server has ended."""
        if self._process.poll() is not None:
            raise ServerError(f"died under load: {self._last_words()}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_DEADLINE
        while True:
            if self._process.poll() is not None:
                raise ServerError(f"failed to start: {self._last_words()}")
            try:
                fault = check(self.address, self._load)
            except (OSError, http.client.HTTPException) as error:
                fault = f"no answer in time ({type(error).__name__}): {self._last_words()}"
            else:
                if not fault:
                    return
            if time.monotonic() > deadline:
                raise ServerError(f"failed to start: {fault}")
            time.sleep(_POLL)

    def _warm_up(self) -> None:
        try:
            fault = check(self.address, self._load, _WARM_UP_REQUESTS)
        except (OSError, http.client.HTTPException) as error:
            fault = f"{type(error).__name__} in a series of plain requests"
        if fault:
            raise ServerError(fault)

    def _last_words(self) -> str:
        return summarise_output(self.output.read_text(errors="replace"))

    def _stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_DEADLINE)
        for pid in procstat.session(self._process.pid):  # also workers that outlived their master
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def summarise_output(text: str) -> str:
    """Return the line of a server's output that tells best why it ended, without directory names."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    faults = [line for line in lines if _FAULT.search(line)]
    chosen = (faults or lines or ["no output"])[-1]
    chosen = chosen.replace(sys.executable, "python")
    return re.sub(r"(?<![\w./:])/(?:[\w.+-]+/)+", "…/", chosen)[:200]
