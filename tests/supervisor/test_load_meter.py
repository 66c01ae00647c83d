"""What the autoscaler decides by."""

from __future__ import annotations

import errno
import math
import os
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from outrider.scoreboard import Field, Row, Scoreboard
from outrider.scoreboard import WorkerState as RowState
from outrider_supervisor.cgroup import ControlGroup
from outrider_supervisor.events import Load, Sample
from outrider_supervisor.generation import Generation, GenerationState, Worker, WorkerState
from outrider_supervisor.load_meter import PERIOD, LoadMeter
from outrider_supervisor.measure import Sampler
from outrider_testing.services import make_service
from outrider_testing.waiting import until

OURS = os.getpid()
START = 1000.0
MIB = 1 << 20


class Stage:
    """One worker, which is this process, and its row."""

    def __init__(self, group: Path, **fields: object) -> None:
        board = Scoreboard.anonymous(rows=8)
        self.row: Row = board.claim()
        self.row.adopt(OURS)
        self.row[Field.STATE] = RowState.READY
        self.row[Field.HEARTBEAT] = 1_000_000_000
        self.meter = LoadMeter(Sampler(board), ControlGroup(group, group / "self"))
        service = make_service(**{"max_workers": 4, **fields})
        self.worker = Worker(OURS, START, WorkerState.READY)
        self.generation = Generation(1, service, GenerationState.CURRENT, 1, START, workers={OURS: self.worker})

    def look(self, now: float, memory: int | None = None, backlog: int | None = 0) -> Load | None:
        return self.meter.measure(self.generation, {OURS: Sample(0, 0, 0.0, memory)}, backlog, now)

    def load(self, now: float, memory: int | None = None) -> Load:
        load = self.look(now, memory)
        assert load is not None
        return load

    def work(self, seconds: float, busy: float, requests: int = 0) -> None:
        """What the worker writes into its row."""
        self.row[Field.HEARTBEAT] += int(seconds * 1e9)
        self.row[Field.LOOP_BUSY_NS] += int(busy * 1e9)
        self.row[Field.REQUESTS] += requests


def test_load_is_measured_without_descriptors(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    assert stage.load(START).memory_room is None


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_busy_is_the_share_of_the_time_the_row_speaks_of(stage: Stage) -> None:
    stage.look(START)
    stage.work(seconds=1.25, busy=0.5, requests=30)  # rows are written at the worker's pace, not at ours
    load = stage.load(START + 1.0)
    assert load.workers[OURS].busy == 0.4
    assert load.requests_per_second == 30.0


def test_loop_that_writes_nothing_is_busy(stage: Stage) -> None:
    stage.look(START)
    assert stage.load(START + 1.0).workers[OURS].busy == 1.0


def test_busy_is_no_more_than_all_the_time(stage: Stage) -> None:
    stage.look(START)
    stage.work(seconds=1.0, busy=7.0)
    assert stage.load(START + 1.0).workers[OURS].busy == 1.0


def test_row_of_another_worker_uses_nothing(stage: Stage) -> None:
    stage.work(seconds=9.0, busy=9.0, requests=100)
    stage.look(START)
    stage.row[Field.LOOP_BUSY_NS] = stage.row[Field.REQUESTS] = 0
    stage.row[Field.HEARTBEAT] += 1
    load = stage.load(START + 1.0)
    assert (load.workers[OURS].busy, load.requests_per_second) == (0.0, 0.0)


def test_processor_time_is_in_cores(stage: Stage) -> None:
    stage.look(START)
    end = time.process_time() + 0.1
    until(lambda: sum(range(100_000)) and time.process_time() >= end, 60.0, what="processor time")
    # The kernel tells in hundredths, of user and system time each.
    assert 0.07 <= stage.load(START + 1.0).workers[OURS].cpu < 60.0


def test_worker_of_another_class_has_its_processor_time_only(tmp_path: Path) -> None:
    stage = Stage(tmp_path, reports_state=False)
    stage.look(START)
    assert stage.load(START + 1.0).workers[OURS].busy == 0.0


@pytest.mark.parametrize("state", [WorkerState.BOOTING, WorkerState.STUCK])
def test_worker_that_does_not_serve_is_no_load(state: WorkerState, stage: Stage) -> None:
    stage.worker.state = state
    stage.look(START)
    assert stage.load(START + 1.0).workers == {}


def test_worker_is_measured_from_its_second_look_on(stage: Stage) -> None:
    assert stage.load(START).workers == {}
    assert list(stage.load(START + 1.0).workers) == [OURS]


def test_look_comes_once_a_second_however_often_it_is_asked_for(stage: Stage) -> None:
    assert stage.look(START) is not None
    assert stage.look(START + 0.1) is None
    assert stage.look(START + PERIOD) is not None


def test_nothing_is_measured_where_nothing_is_scaled(tmp_path: Path) -> None:
    stage = Stage(tmp_path, max_workers=0)
    assert stage.look(START) is None
    assert stage.meter.measure(None, {}, 0, START) is None


def test_backlog_is_passed_on(stage: Stage) -> None:
    load = stage.look(START, backlog=7)
    assert load is not None
    assert load.backlog == 7


def test_memory_of_a_worker_is_what_was_last_read(stage: Stage) -> None:
    assert stage.load(START).worker_memory is None
    assert stage.load(START + 1.0, memory=90 * MIB).worker_memory == 90 * MIB
    assert stage.load(START + 2.0).worker_memory == 90 * MIB
    stage.meter.measure(stage.generation, {}, 0, START + 2.1)
    assert stage.load(START + 3.0).worker_memory is None


def test_room_is_what_the_control_group_leaves_less_a_reserve(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    (tmp_path / "self").write_text("0::/\n")
    (tmp_path / "memory.max").write_text(f"{40 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{10 * MIB}\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    load = Stage(tmp_path).load(START)
    assert (load.memory_room, load.cores) == (26 * MIB, 0.5)


def test_room_without_a_limit_is_that_of_the_machine_less_a_reserve(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = SimpleNamespace(total=100 * MIB, available=40 * MIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    load = stage.load(START)
    assert load.memory_room == 30 * MIB
    assert load.cores < math.inf


def test_worker_is_looked_at_without_descriptors_too(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    used = SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=100.0, system=0.0))

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(psutil, "Process", lambda _: used)
    stage.look(START)
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "Process", fail)
        assert stage.load(START + 1.0).workers[OURS].cpu == 0.0
    assert stage.load(START + 2.0).workers[OURS].cpu == 0.0  # and not all that it has used so far
