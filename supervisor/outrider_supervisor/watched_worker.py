"""The workers as the master makes and sees them, whatever their class.

A worker of ours keeps its row of the scoreboard itself. For another class the master claims the row, and what it
wraps around the worker fills in what can be known from outside: booting, "booted", and signs of life.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from gunicorn.errors import AppImportError

from outrider.scoreboard import Field, Row, Scoreboard, WorkerState
from outrider.supervised import ProcessTitle, Supervision
from outrider.worker import UvicornWorker
from outrider_supervisor.reports import ReportHandler

_EARLY_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class WatchedWorker:
    """A worker as the master sees it from outside."""

    def __init__(self, worker: Any, row: Row, *, keeps_row: bool) -> None:
        """Take the worker, which has been or is about to be forked, and its row.

        Args:
            worker: gunicorn's object.
            row: of this worker.
            keeps_row: the worker itself says in it when it drains and when it has shut down.
        """
        self.worker = worker
        self._row = row
        self._keeps_row = keeps_row

    @property
    def state(self) -> WorkerState:
        """What the worker says, or BOOTING or READY by its heartbeat where it has no row in the table."""
        if self._has_row():
            return WorkerState(self._row[Field.STATE])
        return WorkerState.BOOTING if self._beat_of_file() is None else WorkerState.READY

    @property
    def beat_at(self) -> float:
        """The last sign of life, in seconds on the monotonic clock; 0 without any."""
        return self._row[Field.HEARTBEAT] / 1e9 if self._has_row() else self._beat_of_file() or 0.0

    @property
    def is_abrupt(self) -> bool:
        """Whether the worker, which is gone, went without shutting down."""
        return self._keeps_row and self._has_row() and self.state is WorkerState.READY

    def bury(self) -> None:
        """The worker is gone: leave nothing of it."""
        if self._has_row():
            self._row.release()
        self.worker.tmp.close()

    def _has_row(self) -> bool:
        # Given back, the row may be another worker's by now; and there is none where the table is full.
        return bool(self._row[Field.PID] == self.worker.pid)

    def _beat_of_file(self) -> float | None:
        """When the worker's file was last touched. Until the first time that is a date, far beyond this clock."""
        try:
            beat: float = self.worker.tmp.last_update()
        except (OSError, ValueError):
            return None
        return beat if beat <= time.monotonic() else None


@dataclasses.dataclass(frozen=True, slots=True)
class Upbringing:
    """What the factory needs to know for every worker."""

    supervision: Supervision
    name: str
    """The instance's name, for the process's title."""
    scoreboard: Scoreboard
    reports: ReportHandler
    leave_master: Callable[[], None]
    """Called first in the child: lets go of what is the master's."""


class WorkerFactory:
    """Stands where gunicorn has the worker class: calling it makes a worker, all else is the class's own."""

    def __init__(self, worker_class: Any, upbringing: Upbringing, signals: queue.SimpleQueue[int]) -> None:
        """Wrap a class.

        Args:
            worker_class: a subclass of gunicorn's Worker.
            upbringing: see there.
            signals: gunicorn's queue, in which a signal lands that comes between the fork and `init_signals`.
        """
        self._worker_class = worker_class
        self._upbringing = upbringing
        self._signals = signals
        self.keeps_row = keeps_row(worker_class)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker_class, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """gunicorn: make the worker that is forked next. It has its `WatchedWorker` as `watched`."""
        worker = self._worker_class(*args, **kwargs)
        if self.keeps_row:
            # The supervisor counts its requests, and replaces it first.
            worker.max_requests = sys.maxsize
            row: Row = worker.row
        else:
            row = self._upbringing.scoreboard.claim()
        row[Field.GENERATION] = self._upbringing.supervision.generation
        worker.watched = WatchedWorker(worker, row, keeps_row=self.keeps_row)
        init_process = worker.init_process

        def run_child() -> None:
            self._upbringing.leave_master()
            if not self.keeps_row:
                _Chronicler(worker, row, self._upbringing, self._signals).begin()
            try:
                init_process()
            except AppImportError as error:  # gunicorn prints it and does not log it
                self._upbringing.reports.send("ERROR", str(error))
                raise

        worker.init_process = run_child
        return worker


def keeps_row(worker_class: Any) -> bool:
    """Whether workers of this class keep a row of the scoreboard: UvicornWorker and its subclasses do."""
    return isinstance(worker_class, type) and issubclass(worker_class, UvicornWorker)


class _Chronicler:
    """In the process of a worker that knows nothing of rows: fills its row in."""

    def __init__(self, worker: Any, row: Row, upbringing: Upbringing, signals: queue.SimpleQueue[int]) -> None:
        self._worker = worker
        self._row = row
        self._title = ProcessTitle(upbringing.supervision, upbringing.name)
        self._signals = signals
        self._notify = worker.notify
        self._init_signals = worker.init_signals
        self._post_worker_init = worker.cfg.post_worker_init

    def begin(self) -> None:
        self._row.adopt(os.getpid())
        self._row[Field.STATE] = WorkerState.BOOTING
        self._title.show("booting")
        self._worker.notify = self._note_life
        self._worker.init_signals = self._init_signals_and_catch_up
        self._worker.cfg.set("post_worker_init", self._note_booted)

    def _note_booted(self, worker: Any) -> None:
        self._post_worker_init(worker)
        self._row[Field.HEARTBEAT] = time.monotonic_ns()
        self._row[Field.STATE] = WorkerState.READY
        self._title.show("ready")

    def _note_life(self) -> None:
        self._notify()
        self._row[Field.HEARTBEAT] = time.monotonic_ns()
        self._row[Field.REQUESTS] = self._worker.nr

    def _init_signals_and_catch_up(self) -> None:
        self._init_signals()
        early: set[int] = set()
        while not self._signals.empty():
            early.add(self._signals.get_nowait())
        for number in _EARLY_SIGNALS:
            if number in early:
                os.kill(os.getpid(), number)
