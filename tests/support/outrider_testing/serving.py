"""Start real servers for a test and make sure that none outlives it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Unpack

from outrider_testing.gunicorn_process import PROBE, GunicornProcess, Surroundings


class Serve(Protocol):
    """Start gunicorn; with `workers=0` return at once, otherwise when it serves with that many."""

    def __call__(
        self, app: str = PROBE, *options: str, workers: int = 1, **surroundings: Unpack[Surroundings]
    ) -> GunicornProcess: ...


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Serve]:
    """Give a function that starts servers in `directory`; stop them all at the end.

    Their logs are printed then: pytest shows that when the test fails.
    """
    servers: list[GunicornProcess] = []

    def serve(
        app: str = PROBE, *options: str, workers: int = 1, **surroundings: Unpack[Surroundings]
    ) -> GunicornProcess:
        own_directory = directory / f"server{len(servers)}"
        own_directory.mkdir()
        count = ("-w", str(workers)) if workers else ()
        server = GunicornProcess(own_directory, app, *count, *options, **surroundings)
        servers.append(server)
        return server.wait_until_ready(workers) if workers else server

    try:
        yield serve
    finally:
        with contextlib.ExitStack() as stack:
            for server in servers:
                stack.callback(_print_log, server)
                stack.callback(server.stop)


def _print_log(server: GunicornProcess) -> None:
    print(f"--- log of gunicorn {server.pid} ---\n{server.log_text()}")
