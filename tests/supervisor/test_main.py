"""The supervisor process: what its command line does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor import main, upgrade
from outrider_supervisor.events import FromGeneration, Started
from outrider_supervisor.journal import Journal
from outrider_supervisor.machine import Machine
from outrider_supervisor.machine_state import save_machine
from outrider_supervisor.main import CHECK_FAILED, CONFIGURATION_FAILED
from outrider_supervisor.messages import WorkerReady, WorkerSpawned
from outrider_supervisor.upgrade import CHECK, STATE_VERSION
from outrider_testing.services import make_service


class FakeSeam:
    upgrade: Any = None


class FakeSupervisor:
    """Runs what it is to begin with, and is over."""

    made: Sequence[FakeSupervisor] = []

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], journal: Journal) -> None:
        self.argv = list(argv)
        self.environ = environ
        self.journal = journal
        self.seam = FakeSeam()
        self.done: list[str] = []
        FakeSupervisor.made = [*FakeSupervisor.made, self]

    async def start(self) -> None:
        self.done.append("start")

    async def run(self, start: Coroutine[Any, Any, None]) -> int:
        await start
        if self.argv == ["broken"]:
            raise ConfigurationError("app: no such module")
        return 3

    async def close(self) -> None:
        self.done.append("close")
        self.journal.close()


@pytest.fixture(autouse=True)
def _fake_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSupervisor, "made", [])
    monkeypatch.setattr(main, "Supervisor", FakeSupervisor)


def make_state() -> dict[str, Any]:
    machine = Machine()
    machine.handle(Started(make_service(workers=1)), 1.0)
    machine.handle(FromGeneration(1, WorkerSpawned(7, 0)), 2.0)
    machine.handle(FromGeneration(1, WorkerReady(7)), 3.0)
    return {"version": STATE_VERSION, "argv": ["app:app", "-w", "2"], "machine": save_machine(machine)}


def test_run_supervises_and_returns_the_status() -> None:
    assert main.run(["app:app"]) == 3
    (supervisor,) = FakeSupervisor.made
    assert supervisor.argv == ["app:app"]
    assert supervisor.environ == dict(os.environ)
    assert supervisor.done == ["start", "close"]


def test_upgrade_is_of_this_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "replace", lambda supervisor: supervisor)
    main.run(["app:app"])
    (supervisor,) = FakeSupervisor.made
    assert supervisor.seam.upgrade() is supervisor


def test_configuration_error_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["broken"]) == CONFIGURATION_FAILED
    assert capsys.readouterr().err == "Error: app: no such module\n"
    assert FakeSupervisor.made[0].done == ["start", "close"]


def test_descriptor_is_taken_over_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[dict[str, Any]] = []

    async def resume(_supervisor: object, state: dict[str, Any]) -> None:
        resumed.append(state)

    monkeypatch.setattr(upgrade, "resume", resume)
    descriptor = os.memfd_create("state")
    os.pwrite(descriptor, json.dumps(make_state()).encode(), 0)
    assert main.main([str(descriptor)]) == 3
    assert resumed == [json.loads(json.dumps(make_state()))]
    assert FakeSupervisor.made[0].argv == ["app:app", "-w", "2"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


# -- the check


def check(path: Path, state: dict[str, Any]) -> int:
    path.write_text(json.dumps(state))
    return main.main([CHECK, str(path)])


def test_state_that_can_be_taken_over_passes_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "state", make_state()) == 0
    assert capsys.readouterr() == ("", "")
    assert FakeSupervisor.made == []


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"version": 9}, "the state has version 9, this supervisor knows 1"),
        ({"machine": {}}, "KeyError('generations')"),
        ({"machine": None}, "TypeError"),
    ],
)
def test_state_that_cannot_be_taken_over_is_one_line_with_advice(
    change: dict[str, Any], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path / "state", {**make_state(), **change}) == CHECK_FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("it cannot take over: ")
    assert complaint in line
    assert line.endswith("stop the service and start it anew")


def test_module_is_the_program(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text(json.dumps(make_state()))
    command = [sys.executable, "-m", "outrider_supervisor.main", CHECK, str(path)]
    pid = os.posix_spawn(sys.executable, command, os.environ)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
