"""Start real servers for a test and make sure that none outlives it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, Unpack

from outrider_testing import releases
from outrider_testing.gunicorn_process import PROBE, GunicornProcess
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.server_process import ServerProcess, Surroundings


class Serve(Protocol):
    """Start gunicorn; with `workers=0` return at once, otherwise when it serves with that many."""

    def __call__(
        self, app: str = PROBE, *options: str, workers: int = 1, **surroundings: Unpack[Surroundings]
    ) -> GunicornProcess: ...


class Supervise(Protocol):
    """Start `outrider run`; with `workers=0` return at once, otherwise when it serves with that many.

    Release 1 is there as `app:app`, unless `files` has another app.py.
    """

    def __call__(
        self, *options: str, app: str = releases.APP, workers: int = 1, **surroundings: Unpack[Surroundings]
    ) -> OutriderProcess: ...


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Serve]:
    """Give a function that starts servers in `directory`; stop them all at the end."""
    with _servers(directory) as (make_directory, keep):

        def serve(
            app: str = PROBE, *options: str, workers: int = 1, **surroundings: Unpack[Surroundings]
        ) -> GunicornProcess:
            count = ("-w", str(workers)) if workers else ()
            server = GunicornProcess(make_directory(), app, *count, *options, **surroundings)
            keep(server)
            return server.wait_until_ready(workers) if workers else server

        yield serve


@contextlib.contextmanager
def supervising(directory: Path) -> Iterator[Supervise]:
    """Give a function that starts supervisors in `directory`; stop them all at the end."""
    with _servers(directory) as (make_directory, keep):

        def supervise(
            *options: str, app: str = releases.APP, workers: int = 1, **surroundings: Unpack[Surroundings]
        ) -> OutriderProcess:
            surroundings["files"] = {"app.py": releases.good(1), **surroundings.get("files", {})}
            count = ("-w", str(workers)) if workers else ()
            server = OutriderProcess(make_directory(), app, *count, *options, **surroundings)
            keep(server)
            return server.wait_until_ready(workers) if workers else server

        yield supervise


@contextlib.contextmanager
def public_directory() -> Iterator[Path]:
    """Make a directory in which another user can work, which pytest's own is not; servers' files are open to all."""
    with tempfile.TemporaryDirectory(prefix="outrider-") as name:
        directory = Path(name)
        directory.chmod(0o777)
        mask = os.umask(0)
        try:
            yield directory
        finally:
            os.umask(mask)


@contextlib.contextmanager
def _servers(directory: Path) -> Iterator[tuple[Callable[[], Path], Callable[[ServerProcess], None]]]:
    """Give a function that makes a directory for a server, and one that takes the server to be stopped.

    Their logs are printed at the end: pytest shows that when the test fails.
    """
    servers: list[ServerProcess] = []

    def make_directory() -> Path:
        own_directory = directory / f"server{len(servers)}"
        own_directory.mkdir()
        return own_directory

    try:
        yield make_directory, servers.append
    finally:
        with contextlib.ExitStack() as stack:
            for server in servers:
                stack.callback(_print_log, server)
                stack.callback(server.stop)


def _print_log(server: ServerProcess) -> None:
    print(f"--- log of server {server.pid} ---\n{server.log_text()}")
