"""What can be seen of workers from outside."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from outrider.scoreboard import Field, Row, Scoreboard, WorkerState
from outrider_supervisor import measure
from outrider_supervisor.generation import Generation, GenerationState, Worker
from outrider_supervisor.measure import LATE_HEARTBEAT, MEMORY_PERIOD, USAGE_PERIOD, Sampler, read_memory
from outrider_testing.services import make_service
from outrider_testing.waiting import until

OURS = os.getpid()
START = 1000.0
MIB = 1 << 20


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard.anonymous(rows=8)


@pytest.fixture
def gone() -> int:
    """The id of a process that has ended."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    return pid


def claim(board: Scoreboard, pid: int = OURS, requests: int = 0, errors: int = 0) -> Row:
    row = board.claim()
    row.adopt(pid)
    row[Field.STATE] = WorkerState.READY
    row[Field.REQUESTS] = requests
    row[Field.ERRORS_5XX] = errors
    row[Field.HEARTBEAT] = time.monotonic_ns()
    return row


def generation(*pids: int, **fields: object) -> Generation:
    workers = {pid: Worker(pid, START) for pid in pids}
    return Generation(1, make_service(**fields), GenerationState.CURRENT, len(pids), START, workers=workers)


# -- samples


def test_sample_is_what_the_row_says(board: Scoreboard) -> None:
    claim(board, requests=10, errors=2)
    sample = Sampler(board).sample([generation(OURS)], START)[OURS]
    assert (sample.requests, sample.errors) == (10, 2)
    assert 0.0 <= sample.lag < 5.0


def test_worker_without_a_row_and_row_without_a_worker_are_no_samples(board: Scoreboard) -> None:
    claim(board)
    board.claim()  # for a worker that has not been forked yet
    assert Sampler(board).sample([generation(OURS + 1)], START) == {}


def test_lag_is_that_of_the_last_tick(board: Scoreboard) -> None:
    claim(board)[Field.LOOP_LAG_NS] = 7_000_000_000
    assert Sampler(board).sample([generation(OURS)], START)[OURS].lag == 7.0


def test_lag_of_a_loop_that_hangs_is_since_the_last_heartbeat(board: Scoreboard) -> None:
    claim(board)[Field.HEARTBEAT] = max(0, time.monotonic_ns() - 60_000_000_000)
    assert Sampler(board).sample([generation(OURS)], START)[OURS].lag >= 60.0 - LATE_HEARTBEAT


def test_usage_tells_of_a_loop_that_hangs(board: Scoreboard) -> None:
    claim(board)[Field.HEARTBEAT] = max(0, time.monotonic_ns() - 60_000_000_000)
    sampler = Sampler(board)
    assert sampler.usage([OURS], sampler.rows(), START)[OURS].lag >= 60.0 - LATE_HEARTBEAT


def test_worker_of_another_class_has_no_lag(board: Scoreboard) -> None:
    claim(board)[Field.HEARTBEAT] = 0
    sample = Sampler(board).sample([generation(OURS, reports_state=False)], START)[OURS]
    assert sample.lag == 0.0


@pytest.mark.parametrize("state", list(WorkerState)[1:])
def test_worker_accepts_while_its_row_says_ready(board: Scoreboard, state: WorkerState) -> None:
    claim(board)[Field.STATE] = state
    sampler = Sampler(board)
    assert sampler.sample([generation(OURS)], START)[OURS].accepts is (state is WorkerState.READY)
    assert not sampler.sample([generation(OURS, reports_state=False)], START)[OURS].accepts


def test_memory_is_looked_at_only_now_and_then(board: Scoreboard) -> None:
    claim(board)
    sampler = Sampler(board)
    limited = [generation(OURS, max_worker_memory=MIB)]
    first = sampler.sample(limited, START)[OURS].memory
    assert first is not None
    assert first > MIB
    assert sampler.sample(limited, START + MEMORY_PERIOD - 0.1)[OURS].memory is None
    assert sampler.sample(limited, START + MEMORY_PERIOD)[OURS].memory is not None


def test_memory_of_many_workers_is_not_looked_at_all_at_once(
    board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def read_memory(pid: int) -> tuple[int, str]:
        read.append(pid)
        return MIB, "pss"

    monkeypatch.setattr(measure, "read_memory", read_memory)
    sampler = Sampler(board)
    pids = range(OURS, OURS + 15)
    sampler.sample([generation(*pids)], START)
    assert sorted(read) == list(pids)
    for look in range(MEMORY_PERIOD):
        read.clear()
        sampler.sample([generation(*pids)], START + MEMORY_PERIOD + look)
        assert len(read) <= 2
    # One that is gone is forgotten: another may get its process id.
    read.clear()
    sampler.sample([generation()], START + 2 * MEMORY_PERIOD)
    sampler.sample([generation(OURS)], START + 2 * MEMORY_PERIOD)
    assert read == [OURS]


# -- usage


def burn(seconds: float) -> None:
    """Use the processor."""
    end = time.process_time() + seconds
    until(lambda: sum(range(1_000_000)) and time.process_time() >= end, 60.0, what="processor time")


def test_usage_is_the_share_since_a_mark(board: Scoreboard) -> None:
    row = claim(board)
    sampler = Sampler(board)
    generations = [generation(OURS)]
    sampler.sample(generations, START)
    burn(0.1)
    row[Field.LOOP_BUSY_NS] = 500_000_000
    row[Field.HEARTBEAT] = time.monotonic_ns()
    usage = sampler.usage([OURS], sampler.rows(), START + 2.0)[OURS]
    assert usage.busy == 0.25
    assert usage.cpu_percent is not None
    assert 2.0 <= usage.cpu_percent <= 100.0
    assert usage.memory_kind in ("pss", "rss")


def test_usage_is_known_right_after_a_new_mark(board: Scoreboard) -> None:
    claim(board)
    sampler = Sampler(board)
    sampler.sample([generation(OURS)], START)
    sampler.sample([generation(OURS)], START + USAGE_PERIOD)
    usage = sampler.usage([OURS], sampler.rows(), START + USAGE_PERIOD)[OURS]
    assert usage.cpu_percent is not None
    assert usage.busy == 0.0


def test_usage_without_or_too_soon_after_the_first_mark_is_not_known(board: Scoreboard) -> None:
    claim(board)
    sampler = Sampler(board)
    for moment in (START, START + LATE_HEARTBEAT):
        usage = sampler.usage([OURS], sampler.rows(), moment)[OURS]
        assert (usage.cpu_percent, usage.busy) == (None, None)
        assert usage.memory_bytes
        sampler.sample([generation(OURS)], START)


def test_usage_of_a_worker_whose_row_is_gone_is_not_known(board: Scoreboard) -> None:
    row = claim(board)
    sampler = Sampler(board)
    sampler.sample([generation(OURS)], START)
    row.release()
    assert sampler.usage([OURS], {}, START + 2.0)[OURS].cpu_percent is None


def test_loop_that_hangs_is_busy_before_its_row_says_so(board: Scoreboard) -> None:
    row = claim(board)
    sampler = Sampler(board)
    sampler.sample([generation(OURS)], START)
    row[Field.HEARTBEAT] = time.monotonic_ns() - 20_000_000_000
    assert sampler.usage([OURS], sampler.rows(), START + 10.0)[OURS].busy == 1.0


def test_boot_keeps_no_loop_busy_or_late(board: Scoreboard) -> None:
    """Neither while it lasts, nor in the share that is known first afterwards: autoscalers would start more."""
    row = claim(board)
    sampler = Sampler(board)
    row[Field.HEARTBEAT] = time.monotonic_ns() - 20_000_000_000
    for state in (WorkerState.SPAWNED, WorkerState.BOOTING):
        row[Field.STATE] = state
        sampler.sample([generation(OURS)], START)
        usage = sampler.usage([OURS], sampler.rows(), START + 2.0)[OURS]
        assert (usage.busy, usage.lag) == (None, 0.0)
        assert usage.cpu_percent is not None
    row[Field.STATE] = WorkerState.READY
    assert sampler.usage([OURS], sampler.rows(), START + 3.0)[OURS].busy is None
    row[Field.HEARTBEAT] = time.monotonic_ns()
    sampler.sample([generation(OURS)], START + USAGE_PERIOD)
    row[Field.LOOP_BUSY_NS] = 500_000_000
    assert sampler.usage([OURS], sampler.rows(), START + USAGE_PERIOD + 2.0)[OURS].busy == 0.25


def test_share_is_between_none_and_all(board: Scoreboard) -> None:
    row = claim(board)
    row[Field.LOOP_BUSY_NS] = 1_000_000_000
    sampler = Sampler(board)
    sampler.sample([generation(OURS)], START)
    for busy, share in ((0, 0.0), (1 << 40, 1.0)):  # another worker has the row, and a clock that has jumped
        row[Field.LOOP_BUSY_NS] = busy
        assert sampler.usage([OURS], sampler.rows(), START + 2.0)[OURS].busy == share


def test_worker_that_has_just_gone_uses_nothing(board: Scoreboard, gone: int) -> None:
    claim(board, gone)
    sampler = Sampler(board)
    sampler.sample([generation(gone)], START)
    usage = sampler.usage([gone], sampler.rows(), START + 2.0)[gone]
    assert (usage.cpu_percent, usage.memory_bytes, usage.memory_kind) == (0.0, None, None)


# -- memory


def test_memory_is_pss_where_it_may_be_read() -> None:
    memory, kind = read_memory(OURS)
    assert memory is not None
    if kind == "pss":  # a kernel may be built without it
        assert MIB < memory <= psutil.Process().memory_info().rss + 16 * MIB


@pytest.mark.parametrize("rollup", [None, "no such line\n"])
def test_memory_is_rss_where_pss_may_not_be_read(
    rollup: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_path(_path: str) -> Path:
        if rollup is not None:
            (tmp_path / "rollup").write_text(rollup)
        return tmp_path / "rollup"

    monkeypatch.setattr(measure, "Path", make_path)
    memory, kind = read_memory(OURS)
    assert kind == "rss"
    assert memory is not None
    assert memory > MIB


def test_process_that_is_gone_has_no_memory(gone: int) -> None:
    assert read_memory(gone) == (None, None)


def test_worker_is_looked_at_without_descriptors_too(board: Scoreboard, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    claim(board, requests=7)
    sampler = Sampler(board)
    monkeypatch.setattr(measure, "Path", fail)
    monkeypatch.setattr(psutil, "Process", fail)
    sample = sampler.sample([generation(OURS, max_worker_memory=MIB)], START)[OURS]
    assert (sample.requests, sample.memory) == (7, None)
    assert sampler.usage([OURS], sampler.rows(), START + 2.0)[OURS].memory_bytes is None
