from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from outrider.scoreboard import Field, Row, Scoreboard, WorkerState
from outrider.worker import UvicornWorker
from outrider_supervisor.watched_worker import WatchedWorker, keeps_row

PID = os.getpid()


class TouchedFile:
    """A worker's file: it shows a date until the worker beats for the first time."""

    def __init__(self) -> None:
        self.at = time.time() + 1e9
        self.is_closed = False

    def last_update(self) -> float:
        if self.is_closed:
            raise ValueError("I/O operation on closed file")
        return self.at

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard.anonymous(2)


@pytest.fixture
def worker() -> Any:
    return SimpleNamespace(pid=PID, tmp=TouchedFile())


@pytest.fixture
def row(board: Scoreboard) -> Row:
    """The row of a worker that serves."""
    row = board.claim()
    row.adopt(PID)
    row[Field.STATE] = WorkerState.READY
    row[Field.HEARTBEAT] = 7_500_000_000
    return row


def test_master_sees_what_the_worker_writes(worker: Any, row: Row) -> None:
    watched = WatchedWorker(worker, row, keeps_row=True)
    assert (watched.state, watched.beat_at) == (WorkerState.READY, 7.5)
    row[Field.STATE] = WorkerState.DRAINING
    assert watched.state is WorkerState.DRAINING


def test_worker_that_has_not_adopted_its_row_boots(worker: Any, board: Scoreboard) -> None:
    watched = WatchedWorker(worker, board.claim(), keeps_row=True)
    assert (watched.state, watched.beat_at) == (WorkerState.BOOTING, 0.0)


def test_worker_without_a_row_is_seen_by_its_file(worker: Any, row: Row) -> None:
    row[Field.PID] = PID + 1
    watched = WatchedWorker(worker, row, keeps_row=True)
    assert watched.state is WorkerState.BOOTING
    worker.tmp.at = beat = time.monotonic()
    assert (watched.state, watched.beat_at) == (WorkerState.READY, beat)
    assert not watched.is_abrupt


def test_worker_that_is_gone_without_shutting_down_is_abrupt(worker: Any, row: Row) -> None:
    watched = WatchedWorker(worker, row, keeps_row=True)
    assert watched.is_abrupt
    row[Field.STATE] = WorkerState.EXITED
    assert not watched.is_abrupt


def test_nobody_knows_how_another_class_ends(worker: Any, row: Row) -> None:
    assert not WatchedWorker(worker, row, keeps_row=False).is_abrupt


def test_buried_worker_leaves_its_row_free_and_its_file_closed(worker: Any, row: Row, board: Scoreboard) -> None:
    watched = WatchedWorker(worker, row, keeps_row=True)
    watched.bury()
    assert board.rows()[0].state is WorkerState.EXITED
    assert worker.tmp.is_closed
    assert watched.state is WorkerState.BOOTING


def test_burial_leaves_the_row_to_the_worker_that_has_it_now(worker: Any, row: Row, board: Scoreboard) -> None:
    row[Field.PID] = PID + 1
    WatchedWorker(worker, row, keeps_row=True).bury()
    assert board.rows()[0].state is WorkerState.READY


@pytest.mark.parametrize(
    "worker_class, expected",
    [(UvicornWorker, True), (type("Ours", (UvicornWorker,), {}), True), (object, False), (len, False)],
)
def test_our_workers_keep_a_row(worker_class: object, expected: bool) -> None:
    assert keeps_row(worker_class) is expected
