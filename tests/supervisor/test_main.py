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
from outrider_supervisor import main, start_directory, upgrade
from outrider_supervisor.events import FromGeneration, Started
from outrider_supervisor.exits import Exit
from outrider_supervisor.history import History
from outrider_supervisor.journal import Journal
from outrider_supervisor.machine import Machine
from outrider_supervisor.machine_state import save_machine
from outrider_supervisor.main import CHECK_FAILED
from outrider_supervisor.messages import WorkerReady, WorkerSpawned
from outrider_supervisor.tally import Tally
from outrider_supervisor.upgrade import CHECK, STATE_VERSION
from outrider_testing.services import make_service

REMOVED = object()


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
        if self.argv == ["interrupted"]:
            raise KeyboardInterrupt
        return 3

    def ignore_signals(self) -> None:
        self.done.append("ignore signals")

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
    return {
        "version": STATE_VERSION,
        "argv": ["app:app", "-w", "2"],
        "name": "shop",
        "since": 1.0,
        "machine": save_machine(machine),
        "masters": [{"number": 1, "pid": 6, "channel": 5}],
        "scoreboard": 3,
        "reports": [7, 8],
        "listeners": {
            "adopted": [],
            "open": [{"address": ["127.0.0.1", 80], "descriptor": 9, "path": "", "identity": None, "backlog": 16}],
        },
        "control": {"directory": "run", "managed": False, "name": "shop", "descriptor": 10, "identity": [1, 2]},
        "admin": [{"bind": "[::1]:9100", "descriptor": 11, "path": "", "identity": None, "backlog": 64}],
        "tally": Tally().to_state(),
        "telemetry": {"history": History().to_state(), "processor_time": {"gone": 1.0, "last": {"7": 2.0}}},
        "pidfile": None,
        "log": {
            "errorlog": "-",
            "loglevel": "INFO",
            "log_format": "text",
            "events": [{"at": 1.5, "level": "info", "text": "hello"}],
            "recorded": 1,
        },
    }


def change(state: Any, path: str, value: Any) -> Any:
    """The state with another value at a dotted path; REMOVED takes it out."""
    changed = json.loads(json.dumps(state))
    *way, last = (int(name) if name.isdigit() else name for name in path.split("."))
    place = changed
    for name in way:
        place = place[name]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return changed


def test_run_supervises_and_returns_the_status() -> None:
    assert main.run(["app:app"]) == 3
    (supervisor,) = FakeSupervisor.made
    assert supervisor.argv == ["app:app"]
    assert supervisor.environ == os.environ | {start_directory.VARIABLE: start_directory.find(os.environ)}
    assert supervisor.done == ["start", "ignore signals", "close"]
    assert supervisor.journal._writer._exit_status == 3, "should the log be stuck"


def test_upgrade_is_of_this_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "replace", lambda supervisor: supervisor)
    main.run(["app:app"])
    (supervisor,) = FakeSupervisor.made
    assert supervisor.seam.upgrade() is supervisor


def test_configuration_error_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["broken"]) == Exit.FAILED
    assert capsys.readouterr().err == "outrider: app: no such module\n"
    assert FakeSupervisor.made[0].done == ["start", "ignore signals", "close"]


def test_interrupt_before_there_are_handlers_is_a_status_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["interrupted"]) == Exit.INTERRUPTED
    assert capsys.readouterr() == ("", "")


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
    "path, value, complaint",
    [
        ("version", 9, "the state has version 9, this supervisor knows 1"),
        ("argv", [1], "state.argv[0] is of type int"),
        ("name", REMOVED, "state.name is missing"),
        ("since", True, "state.since is of type bool"),
        ("machine", None, "state.machine is of type NoneType"),
        ("machine.generations", REMOVED, "state.machine.generations is missing"),
        ("machine.current", 9, "KeyError(9)"),
        ("machine.generations.0.state", "new", "'new' is not a valid GenerationState"),
        ("machine.generations.0.workers.0.pid", "7", "state.machine.generations[0].workers[0].pid is of type str"),
        ("machine.generations.0.service.colour", "red", "unexpected keyword argument 'colour'"),
        ("machine.generations.0.service.boot_timeout", "60", "service.boot_timeout is of type str"),
        ("machine.waiting", [{"kind": "dance"}], "KeyError('dance')"),
        ("masters.0.channel", REMOVED, "state.masters[0].channel is missing"),
        ("scoreboard", None, "state.scoreboard is of type NoneType"),
        ("reports", [7], "state.reports has 1 descriptors, not 2"),
        ("listeners.open.0.descriptor", "9", "state.listeners.open[0].descriptor is of type str"),
        ("control.identity", 5, "state.control.identity is of type int"),
        ("pidfile", 5, "state.pidfile is of type int"),
        ("log", {}, "state.log.errorlog is missing"),
        ("log.events.0", "hello", "state.log.events[0] is of type str"),
    ],
)
def test_state_that_cannot_be_taken_over_is_one_line_with_advice(
    path: str, value: Any, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path / "state", change(make_state(), path, value)) == CHECK_FAILED
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
