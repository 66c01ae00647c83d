"""A control socket that the real server serves, and a supervisor behind it that leaves everything to the test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from outrider_supervisor.client import ControlClient
from outrider_supervisor.control import ControlServer
from outrider_supervisor.control_app import ControlApp
from outrider_supervisor.control_commands import Command
from outrider_supervisor.event_feed import EventFeed
from outrider_supervisor.journal import Journal
from outrider_supervisor.operations import Operation
from outrider_supervisor.paths import Directory
from outrider_supervisor.resources import MetricsMissing
from outrider_testing.fakes import FakeLog

PATIENCE = 20.0


class FakeHandler:
    """Takes commands and leaves their operations to the test."""

    def __init__(self) -> None:
        self.operation = Operation()
        self.commands: list[Command] = []
        self.has_command = asyncio.Event()
        self.reason = ""
        self.has_metrics = True

    def status(self) -> dict[str, Any]:
        return {"name": "shop", "pid": os.getpid()}

    def history(self) -> dict[str, Any]:
        return {"period": 2.0, "pool": [], "workers": {}}

    def metrics(self, accept: str) -> tuple[bytes, str]:
        if not self.has_metrics:
            raise MetricsMissing("they can't be written")
        return f"# for {accept}\n".encode(), "text/plain"

    def unreadiness(self) -> str:
        return self.reason

    def submit(self, command: Command) -> Operation:
        self.commands.append(command)
        self.has_command.set()
        return self.operation


class ControlStage:
    """A control socket in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.log = FakeLog()
        self.supervisor = FakeHandler()
        self.journal = Journal()
        self.app = ControlApp(self.supervisor, EventFeed(self.journal, self.supervisor.status))
        self.directory = Directory(directory)
        self.server = ControlServer(self.directory, "shop", self.app, self.log)
        self.client = ControlClient(self.server.path)

    def another(self, pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> ControlServer:
        return ControlServer(self.directory, "shop", self.app, self.log, pause)


def run_control(
    directory: Path, scenario: Callable[[ControlStage], Awaitable[None]], *, warnings: int = 0
) -> ControlStage:
    """Run a scenario; no more is logged than so many warnings, and no path is left."""

    async def main() -> ControlStage:
        stage = ControlStage(directory / "outrider")
        async with asyncio.timeout(PATIENCE):
            await scenario(stage)
            await stage.server.close()
        return stage

    stage = asyncio.run(main())
    assert not stage.server.path.exists()
    assert len(stage.log.messages("warning")) == warnings
    assert stage.log.messages("error") == []
    return stage


async def ask(path: Path) -> dict[str, Any]:
    status: dict[str, Any] = await asyncio.to_thread(ControlClient(path).status)
    return status


async def until(condition: Callable[[], object]) -> None:
    """Run the loop until it holds; `run_control` has a deadline."""
    while not condition():
        await asyncio.sleep(0)
