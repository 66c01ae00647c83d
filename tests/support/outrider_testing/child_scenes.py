"""Real child processes that `Children` looks after, and none that is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from outrider_supervisor.processes import Children, Process
from outrider_testing.processes import all_children

PATIENCE = 10.0
ENV = {"PATH": os.environ["PATH"]}


def run_children(scenario: Callable[[Children], Awaitable[None]]) -> None:
    """Run a scenario with children of its own, none of which is left.

    Servers that serve a whole session are children of this process, too.
    """
    before = all_children(os.getpid())

    async def main() -> None:
        children = Children(asyncio.get_running_loop())
        async with asyncio.timeout(PATIENCE):
            await scenario(children)
        for process in list(children._known.values()):
            process.signal_group(signal.SIGKILL)
            process.signal(signal.SIGKILL)  # for one that leads no group
            await ended(process)

    asyncio.run(main())
    assert all_children(os.getpid()) <= before


async def ended(process: Process) -> tuple[str, int | None]:
    """Wait for the end of a process."""
    future: asyncio.Future[tuple[str, int | None]] = asyncio.get_running_loop().create_future()
    process.watch(lambda reason, status: future.set_result((reason, status)))
    return await future


def python(code: str) -> list[str]:
    """A command that is quick to start: without site-packages."""
    return [sys.executable, "-I", "-S", "-c", code]
