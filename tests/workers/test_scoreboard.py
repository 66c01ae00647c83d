from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable

import pytest

from outrider.process_start import process_start_time
from outrider.scoreboard import UNFORKED_CLAIM_NS, Field, Row, RowSnapshot, Scoreboard, WorkerState
from outrider.scoreboard_memory import METERS_FROM, ROW_WORDS

STALE_AFTER = 1_000


class Processes:
    """Processes that live and die on command: start times by process id."""

    def __init__(self) -> None:
        self.started: dict[int, int] = {}
        self.now = 5_000
        self.asked: Callable[[], object] = lambda: None

    def start_time_of(self, pid: int) -> int | None:
        self.asked()
        return self.started.get(pid)


@pytest.fixture
def processes() -> Processes:
    return Processes()


def board_of(processes: Processes, rows: int) -> Scoreboard:
    words = Scoreboard.anonymous(rows)._words
    return Scoreboard(words, clock=lambda: processes.now, start_time_of=processes.start_time_of)


def occupy(processes: Processes, row: Row, pid: int) -> None:
    """Be the worker `pid` that serves on `row`."""
    processes.started[pid] = pid * 10
    row[Field.PID] = pid
    row[Field.START_TIME] = pid * 10
    row[Field.STATE] = WorkerState.READY


# The table


def test_new_scoreboard_has_no_rows() -> None:
    board = Scoreboard.anonymous(rows=3)
    assert board.capacity == 3
    assert board.rows() == []


def test_scoreboard_snapshot_names_every_field_in_order() -> None:
    assert RowSnapshot._fields == ("row", *(field.name.lower() for field in Field))
    assert len(Field) <= METERS_FROM


def test_scoreboard_snapshot_holds_what_the_worker_wrote(processes: Processes) -> None:
    board = board_of(processes, 2)
    board.claim(generation=7)
    row = board.claim(generation=8)
    for field in Field:
        row[field] = 100 + field
    row[Field.STATE] = WorkerState.DRAINING
    snapshot = board.rows()[1]
    assert (snapshot.row, snapshot.state) == (1, WorkerState.DRAINING)
    assert isinstance(snapshot.state, WorkerState)
    for field in set(Field) - {Field.STATE}:
        assert getattr(snapshot, field.name.lower()) == 100 + field


def test_scoreboard_snapshot_skips_free_row(processes: Processes) -> None:
    board = board_of(processes, 2)
    first, _ = board.claim(), board.claim()
    first[Field.STATE] = WorkerState.FREE
    assert [snapshot.row for snapshot in board.rows()] == [1]


def test_row_refuses_negative_value(processes: Processes) -> None:
    row = board_of(processes, 1).claim()
    with pytest.raises(ValueError, match=r"value|range"):
        row[Field.CONNECTIONS] = -1


# Claims


def test_claim_resets_row_to_spawned(processes: Processes) -> None:
    board = board_of(processes, 1)
    first = board.claim()
    for field in Field:
        first[field] = 99
    first.release()
    processes.now = 6_000
    row = board.claim(generation=3)
    expected = {
        Field.GENERATION: 3,
        Field.HEARTBEAT: 6_000,
        Field.STATE: WorkerState.SPAWNED,
    }
    assert {field: row[field] for field in Field} == {field: expected.get(field, 0) for field in Field}


def test_claim_takes_new_row_while_others_live(processes: Processes) -> None:
    board = board_of(processes, 3)
    occupy(processes, board.claim(), pid=11)
    occupy(processes, board.claim(), pid=12)
    assert board.claim().index == 2


def test_claim_reuses_released_row_before_row_of_dead_worker(processes: Processes) -> None:
    board = board_of(processes, 3)
    killed, released = board.claim(), board.claim()
    occupy(processes, killed, pid=11)
    occupy(processes, released, pid=12)
    del processes.started[11]
    released.release()
    assert board.claim().index == 1
    assert board.claim().index == 0


def test_claim_reuses_row_whose_process_id_belongs_to_stranger(processes: Processes) -> None:
    board = board_of(processes, 2)
    occupy(processes, board.claim(), pid=11)
    processes.started[11] += 1
    assert board.claim().index == 0


def test_claim_leaves_row_that_awaits_its_fork(processes: Processes) -> None:
    board = board_of(processes, 2)
    board.claim()
    processes.now += UNFORKED_CLAIM_NS
    assert board.claim().index == 1


def test_claim_reuses_row_whose_fork_never_came(processes: Processes) -> None:
    board = board_of(processes, 2)
    board.claim()
    processes.now += UNFORKED_CLAIM_NS + 1
    assert board.claim().index == 0


def test_claim_on_full_scoreboard_returns_private_row(processes: Processes) -> None:
    board = board_of(processes, 1)
    occupy(processes, board.claim(), pid=11)
    board.rows()
    row = board.claim()
    row[Field.CONNECTIONS] = 5
    row.adopt(12)
    assert row.index is None
    assert row[Field.CONNECTIONS] == 5
    assert [snapshot.pid for snapshot in board.rows()] == [11]


def test_private_row_sees_its_peers(processes: Processes) -> None:
    board = board_of(processes, 1)
    only = board.claim()
    occupy(processes, only, pid=11)
    only[Field.CONNECTIONS] = 4
    assert board.claim().least_loaded_peer(processes.now, STALE_AFTER) == 4


# What workers have counted


def count(row: Row, status: int, requests: int) -> None:
    for _ in range(requests):
        row.meter.count("GET", status, time.monotonic_ns())
    row[Field.BYTES_OUT] = 10 * requests


def test_totals_are_those_of_all_workers(processes: Processes) -> None:
    board = board_of(processes, 3)
    for pid in (11, 12):
        row = board.claim()
        occupy(processes, row, pid)
        count(row, 200, requests=3)
    totals = board.totals()
    assert totals.requests["GET", 2].requests == 6
    assert totals.bytes_out == 60
    assert board.totals_of(1).requests["GET", 2].requests == 3


def test_totals_keep_what_a_dead_worker_counted(processes: Processes) -> None:
    board = board_of(processes, 2)
    for generation in range(3):
        row = board.claim()
        occupy(processes, row, 11)
        count(row, 200 + 100 * generation, requests=2)
        row[Field.STALLS] = 1
        before = board.totals()
        del processes.started[11]  # killed
        assert board.totals() == before
        assert board.claim().index == 0
        assert board.totals() == before
        assert board.totals_of(0).requests == {}
        processes.now += UNFORKED_CLAIM_NS + 1
    assert {key: each.requests for key, each in board.totals().requests.items()} == {
        ("GET", 2): 2,
        ("GET", 3): 2,
        ("GET", 4): 2,
    }
    assert board.totals().stalls == 3


def test_totals_leave_out_what_is_no_count(processes: Processes) -> None:
    board = board_of(processes, 1)
    first = board.claim()
    for field in Field:
        first[field] = 99
    first.release()
    board.claim()
    assert sum(board._words[ROW_WORDS : 2 * ROW_WORDS]) == 99 * 5


# A row in the hands of its worker


def test_worker_adopts_its_row() -> None:
    row = Scoreboard.anonymous(1).claim()
    row.adopt(os.getpid())
    assert row[Field.PID] == os.getpid()
    assert row[Field.START_TIME] == process_start_time(os.getpid())
    assert row.index is not None


def test_worker_adopts_its_row_twice() -> None:
    row = Scoreboard.anonymous(1).claim()
    row.adopt(os.getpid())
    row.adopt(os.getpid())
    assert row.index is not None


def test_worker_leaves_row_that_another_worker_adopted(processes: Processes) -> None:
    board = board_of(processes, 1)
    late = board.claim()
    processes.now += UNFORKED_CLAIM_NS + 1
    board.claim()[Field.PID] = 11
    late.adopt(12)
    late[Field.CONNECTIONS] = 3
    assert late.index is None
    assert [(snapshot.pid, snapshot.connections) for snapshot in board.rows()] == [(11, 0)]


def test_released_row_is_exited_and_later_writes_reach_nobody(processes: Processes) -> None:
    board = board_of(processes, 1)
    released = board.claim()
    released.release()
    assert board.rows()[0].state is WorkerState.EXITED
    board.claim()
    released[Field.CONNECTIONS] = 9
    assert board.rows()[0].connections == 0


# The question of the accept gate


def test_row_finds_least_loaded_peer(processes: Processes) -> None:
    board = board_of(processes, 4)
    rows = [board.claim() for _ in range(4)]
    for row, connections in zip(rows, (7, 1, 5, 3), strict=True):
        row[Field.STATE] = WorkerState.READY
        row[Field.CONNECTIONS] = connections
    assert [row.least_loaded_peer(processes.now, STALE_AFTER) for row in rows] == [1, 3, 1, 1]


@pytest.mark.parametrize("state", set(WorkerState) - {WorkerState.READY})
def test_row_ignores_peer_that_is_not_ready(processes: Processes, state: WorkerState) -> None:
    board = board_of(processes, 2)
    row, peer = board.claim(), board.claim()
    peer[Field.STATE] = state
    assert row.least_loaded_peer(processes.now, STALE_AFTER) is None


def test_row_ignores_peer_whose_heartbeat_is_stale(processes: Processes) -> None:
    board = board_of(processes, 2)
    row, peer = board.claim(), board.claim()
    peer[Field.STATE] = WorkerState.READY
    heartbeat = peer[Field.HEARTBEAT]
    assert row.least_loaded_peer(heartbeat + STALE_AFTER, STALE_AFTER) == 0
    assert row.least_loaded_peer(heartbeat + STALE_AFTER + 1, STALE_AFTER) is None


def test_row_without_peers_has_nobody_to_compare_with(processes: Processes) -> None:
    row = board_of(processes, 4).claim()
    row[Field.STATE] = WorkerState.READY
    assert row.least_loaded_peer(processes.now, STALE_AFTER) is None


# The lock


def test_scoreboard_locks_memory_file_while_it_claims(memory_file: int, processes: Processes) -> None:
    words = Scoreboard.create_in(memory_file, rows=2)._words
    board = Scoreboard(words, memory_file, start_time_of=processes.start_time_of)
    occupy(processes, board.claim(), pid=11)
    outcomes = []

    def try_lock() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                fcntl.lockf(memory_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.kill(os.getpid(), signal.SIGUSR1)  # ends it, and not as an exit would
            os.kill(os.getpid(), signal.SIGKILL)
        outcomes.append(os.WTERMSIG(os.waitpid(pid, 0)[1]))

    processes.asked = try_lock
    board.claim()
    try_lock()
    assert outcomes == [signal.SIGUSR1, signal.SIGKILL]
