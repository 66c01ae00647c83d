from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from outrider.errors import ConfigurationError
from outrider.process_start import process_start_time
from outrider.scoreboard import (
    LAYOUT_VERSION,
    ROW_SIZE,
    UNFORKED_CLAIM_NS,
    Field,
    Row,
    RowSnapshot,
    Scoreboard,
    WorkerState,
)

STALE_AFTER = 1_000
VERSION_AT, ROW_SIZE_AT, ROWS_AT = 8, 16, 24


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


@pytest.fixture
def memory_file() -> Iterator[int]:
    descriptor = os.memfd_create("scoreboard")
    yield descriptor
    os.close(descriptor)


class Child:
    """A forked process that does `work` and then stays until it is killed."""

    def __init__(self, work: Callable[[], object]) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                work()
                os.write(writer, b"r")
                signal.pause()
            finally:
                os.kill(os.getpid(), signal.SIGKILL)  # never into pytest's own clean-up
        os.close(writer)
        ready = os.read(reader, 1)
        os.close(reader)
        assert ready == b"r", "the child failed before it was ready"

    def kill(self) -> None:
        """Leave a zombie."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def reap(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


# The table


def test_new_scoreboard_has_no_rows() -> None:
    board = Scoreboard.anonymous(rows=3)
    assert board.capacity == 3
    assert board.rows() == []


def test_scoreboard_snapshot_names_every_field_in_order() -> None:
    assert RowSnapshot._fields == ("row", *(field.name.lower() for field in Field))
    assert len(Field) <= ROW_SIZE // 8


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
    assert row.is_private
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
    assert sum(board._words[ROW_SIZE // 8 : 2 * ROW_SIZE // 8]) == 99 * 7


def test_totals_are_read_while_no_row_is_claimed(memory_file: int) -> None:
    board = Scoreboard(Scoreboard.create_in(memory_file, rows=2)._words, memory_file)
    child = Child(lambda: fcntl.lockf(memory_file, fcntl.LOCK_EX))
    finished: list[object] = []
    reader = threading.Thread(target=lambda: finished.append(board.totals()))
    reader.start()
    reader.join(0.05)
    was_waiting = not finished
    child.reap()
    reader.join(5)
    assert was_waiting
    assert len(finished) == 1


# A row in the hands of its worker


def test_worker_adopts_its_row() -> None:
    row = Scoreboard.anonymous(1).claim()
    row.adopt(os.getpid())
    assert row[Field.PID] == os.getpid()
    assert row[Field.START_TIME] == process_start_time(os.getpid())
    assert not row.is_private


def test_worker_adopts_its_row_twice() -> None:
    row = Scoreboard.anonymous(1).claim()
    row.adopt(os.getpid())
    row.adopt(os.getpid())
    assert not row.is_private


def test_worker_leaves_row_that_another_worker_adopted(processes: Processes) -> None:
    board = board_of(processes, 1)
    late = board.claim()
    processes.now += UNFORKED_CLAIM_NS + 1
    board.claim()[Field.PID] = 11
    late.adopt(12)
    late[Field.CONNECTIONS] = 3
    assert late.is_private
    assert [(snapshot.pid, snapshot.connections) for snapshot in board.rows()] == [(11, 0)]


def test_adopting_dead_process_leaves_no_start_time() -> None:
    child = Child(lambda: None)
    child.reap()
    row = Scoreboard.anonymous(1).claim()
    row.adopt(child.pid)
    assert row[Field.START_TIME] == 0


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


# Real processes


def test_parent_reads_what_forked_worker_wrote() -> None:
    board = Scoreboard.anonymous()
    row = board.claim()

    def serve() -> None:
        row.adopt(os.getpid())
        row[Field.STATE] = WorkerState.READY
        row[Field.CONNECTIONS] = 42

    worker = Child(serve)
    (snapshot,) = board.rows()
    worker.reap()
    assert (snapshot.pid, snapshot.state, snapshot.connections) == (worker.pid, WorkerState.READY, 42)


def test_scoreboard_reuses_row_of_killed_worker_only() -> None:
    board = Scoreboard.anonymous()
    workers = []
    for _ in range(2):
        row = board.claim()
        workers.append(Child(lambda row=row: row.adopt(os.getpid())))  # type: ignore[misc]  # mypy cannot infer it
    workers[1].kill()
    as_zombie = board.claim()
    beside_living = board.claim()
    workers[1].reap()
    workers[0].reap()
    assert (as_zombie.index, beside_living.index) == (1, 2)


def test_masters_claim_different_rows_of_inherited_table(memory_file: int) -> None:
    board = Scoreboard.create_in(memory_file, rows=64)
    masters = []
    for generation in (1, 2, 3):

        def claim_many(generation: int = generation) -> None:
            own = Scoreboard.from_descriptor(memory_file)
            for _ in range(20):
                own.claim(generation)

        masters.append(Child(claim_many))
    for master in masters:
        master.reap()
    generations = [snapshot.generation for snapshot in board.rows()]
    assert sorted(generations) == [1] * 20 + [2] * 20 + [3] * 20


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


# Tables from a descriptor


def test_two_openers_of_memory_file_share_table(memory_file: int) -> None:
    writer = Scoreboard.create_in(memory_file, rows=5)
    reader = Scoreboard.from_descriptor(memory_file)
    writer.claim(generation=9)
    assert reader.capacity == 5
    assert [snapshot.generation for snapshot in reader.rows()] == [9]


def test_scoreboard_outlives_descriptor_it_was_opened_from() -> None:
    descriptor = os.memfd_create("scoreboard")
    board = Scoreboard.create_in(descriptor, rows=2)
    os.close(descriptor)
    assert board.claim().index == 0


def test_scoreboard_refuses_closed_descriptor() -> None:
    descriptor = os.memfd_create("scoreboard")
    os.close(descriptor)
    with pytest.raises(ConfigurationError, match=rf"descriptor {descriptor}: it cannot be mapped \(Bad file"):
        Scoreboard.from_descriptor(descriptor)


def test_scoreboard_refuses_empty_file(memory_file: int) -> None:
    with pytest.raises(ConfigurationError, match="cannot mmap an empty file"):
        Scoreboard.from_descriptor(memory_file)


@pytest.mark.parametrize("content", [b"x", b"x" * ROW_SIZE, b"OUTRIDER", b"x" * 1000])
def test_scoreboard_refuses_foreign_file(memory_file: int, content: bytes) -> None:
    os.write(memory_file, content)
    with pytest.raises(ConfigurationError, match="holds no scoreboard; allowed is"):
        Scoreboard.from_descriptor(memory_file)


@pytest.mark.parametrize(
    "offset, value, reason",
    [
        (VERSION_AT, LAYOUT_VERSION + 1, f"its layout is version {LAYOUT_VERSION + 1} with rows of {ROW_SIZE} bytes"),
        (ROW_SIZE_AT, 128, f"its layout is version {LAYOUT_VERSION} with rows of 128 bytes"),
        (ROWS_AT, 6, "it is too short for its 6 rows"),
    ],
)
def test_scoreboard_refuses_other_layout(memory_file: int, offset: int, value: int, reason: str) -> None:
    Scoreboard.create_in(memory_file, rows=5)
    os.pwrite(memory_file, value.to_bytes(8, "little"), offset)
    with pytest.raises(ConfigurationError, match=reason) as raised:
        Scoreboard.from_descriptor(memory_file)
    assert "\n" not in str(raised.value)
