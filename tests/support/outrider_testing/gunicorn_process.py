"""Run a real gunicorn."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Unpack

from outrider_testing.http_client import Address
from outrider_testing.processes import children
from outrider_testing.server_process import (
    CONFIG_RECORD,
    START_DEADLINE,
    SUPPORT,
    ServerDidNotStart,
    ServerProcess,
    Surroundings,
)

DEFAULT_WORKER_CLASS = "outrider.UvicornWorker"

# The application that most tests want.
PROBE = "outrider_testing.apps.probe:app"

CONFIG_PRELUDE = (
    CONFIG_RECORD
    + """\
bind = "127.0.0.1:0"
worker_class = {worker_class!r}
control_socket_disable = True
graceful_timeout = 10
"""
)


class GunicornProcess(ServerProcess):
    """One gunicorn master with its workers. `options` go to gunicorn's command line after `app`."""

    def __init__(self, directory: Path, app: str, *options: str, **surroundings: Unpack[Surroundings]) -> None:
        self._address: Address | None = None
        worker_class = os.environ.get("TEST_WORKER_CLASS", DEFAULT_WORKER_CLASS)
        command = ("gunicorn", app, "--pythonpath", str(SUPPORT), *options)
        super().__init__(directory, command, CONFIG_PRELUDE.format(worker_class=worker_class), surroundings)

    @property
    def address(self) -> Address:
        """Where it listens first: taken from its log unless it was set."""
        if self._address is None:
            match = re.search(r"Listening at: (\S+?)(?:,\S+)? \(", self.log_text())
            if match is None:
                message = f"no address in the log\n{self.log_text()}"
                raise ServerDidNotStart(message)
            self._address = parse_listener(match[1])
        return self._address

    @address.setter
    def address(self, value: Address) -> None:
        self._address = value

    def workers(self) -> list[int]:
        """Return the pids of the living workers, lowest first."""
        return children(self.pid)

    def booted_workers(self) -> list[int]:
        """Return the pid of each worker ever booted, by the log, oldest first."""
        return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log_text())]

    def wait_until_ready(self, workers: int = 1, deadline: float = START_DEADLINE) -> GunicornProcess:
        """Wait until `workers` workers have booted and one of them answers a request."""
        end = time.monotonic() + deadline

        def booted() -> bool:
            self._check_alive()
            return "Listening at:" in self.log_text() and len(self.booted_workers()) >= workers

        self.until(booted, deadline, f"{workers} workers booted")
        self.until(self._answers, max(end - time.monotonic(), 0.1), "an answer")
        return self

    def reload(self, deadline: float = 30.0) -> None:
        """Send HUP and return when every worker of before is gone and as many new ones are there."""
        before = set(self.workers())
        self.signal(signal.SIGHUP)

        def replaced() -> bool:
            now = set(self.workers())
            return not now & before and len(now) == len(before)

        self.until(replaced, deadline, "all workers replaced")


def parse_listener(name: str) -> Address:
    """Return the address in a listener's name as gunicorn logs it, or without the scheme."""
    if name.startswith("unix:"):
        return name.removeprefix("unix:")
    host, _, port = name.rpartition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)
