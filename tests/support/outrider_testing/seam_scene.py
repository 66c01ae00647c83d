"""The supervisor's seam, and child programs that are shell scripts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from outrider.scoreboard import Scoreboard
from outrider_supervisor import actions
from outrider_supervisor.actions import Action, Level
from outrider_supervisor.events import Event
from outrider_supervisor.journal import Journal
from outrider_supervisor.listeners import Listeners
from outrider_supervisor.report_inbox import ReportInbox
from outrider_supervisor.reports import Report
from outrider_supervisor.seam import Seam
from outrider_testing.admin_stage import make_admin
from outrider_testing.fake_masters import FakeNotifier
from outrider_testing.fakes import ManualLoop
from outrider_testing.processes import read_process
from outrider_testing.services import make_service
from outrider_testing.waiting import until

T = TypeVar("T")


class SeamScene:
    """A seam whose child programs are shell scripts in the place of Python."""

    def __init__(self, loop: ManualLoop, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = loop
        self.directory = directory
        self.log = directory / "log"
        self.events: list[Event] = []
        self.notifier = FakeNotifier()
        self.journal = Journal()
        self.journal.configure(str(self.log), "info")
        self._monkeypatch = monkeypatch
        self.seam = loop.run_until_complete(self._make())
        descriptor = os.memfd_create("table")
        Scoreboard.create_in(descriptor)
        self.seam.open_shared(descriptor, ReportInbox(loop, self._keep))
        self.seam.admin = make_admin(self.journal)
        self.python("exit 0")

    async def _make(self) -> Seam:
        listeners = Listeners(lambda text: self.journal.write(Level.WARNING, text))
        environ = {"PATH": os.environ["PATH"], "LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())}
        return Seam(("app:app",), environ, self.journal, listeners, cast("Any", self.notifier), self.events.append)

    def _keep(self, report: Report) -> None:
        self.journal.keep_report(report.pid, report.text)

    def python(self, script: str) -> None:
        """What the next child does."""
        program = self.directory / "python"
        program.unlink(missing_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        self._monkeypatch.setattr(sys, "executable", str(program))

    def until(self, condition: Callable[[], T], what: str) -> T:
        """Wait for something, while the loop runs."""

        def look() -> T:
            self.loop.run_ready()
            return condition()

        return until(look, what=what)

    def do(self, action: Action, event: type[T]) -> T:
        """Do something, and wait for the event that it leads to."""
        self.seam.do(action)
        found = self.until(lambda: [each for each in self.events if isinstance(each, event)], event.__name__)
        return found[0]

    def start(self, number: int = 1) -> int:
        """Start a master that sleeps."""
        self.python("exec sleep 60")
        service = make_service()
        self.loop.run_until_complete(self.seam.open_listeners(service))
        self.seam.do(actions.StartMaster(number, service, 1))
        return self.seam.master_pids[number]

    def close(self) -> None:
        """Leave nothing behind."""
        self.seam.listeners.close_all()
        children = list(self.seam.children._known)
        for process in list(self.seam.children._known.values()):
            process.signal(signal.SIGKILL)
        self.loop.run_until_complete(self.seam.close())
        for pid in children:
            if read_process(pid) is not None:
                os.waitpid(pid, 0)
        self.journal.close()
