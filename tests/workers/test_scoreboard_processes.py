"""The scoreboard between real processes: workers that are forked and killed, masters that claim at once."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable

from outrider.scoreboard import Field, Scoreboard, WorkerState


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


def test_adopting_dead_process_leaves_no_start_time() -> None:
    child = Child(lambda: None)
    child.reap()
    row = Scoreboard.anonymous(1).claim()
    row.adopt(child.pid)
    assert row[Field.START_TIME] == 0
