"""What can be seen of workers from outside: their rows of the scoreboard, processor time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from outrider.scoreboard import RowSnapshot, Scoreboard
from outrider_supervisor.events import Sample
from outrider_supervisor.generation import Generation
from outrider_supervisor.status_report import Usage

MEMORY_PERIOD = 10.0
"""Seconds between looks at the memory of workers: reading PSS walks a process's page tables."""
USAGE_PERIOD = 5.0
LATE_HEARTBEAT = 0.3
"""Seconds between heartbeats of a worker that is on time, and a little more."""


@dataclass(slots=True)
class _Mark:
    """Totals of a worker at one moment."""

    at: float
    cpu: float
    busy_ns: int


class Sampler:
    """Reads the scoreboard, and remembers enough to turn totals into shares."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._memory_at = 0.0
        self._marked_at = 0.0
        self._marks: dict[int, _Mark] = {}
        self._earlier_marks: dict[int, _Mark] = {}

    def rows(self) -> dict[int, RowSnapshot]:
        """The rows by pid."""
        return {row.pid: row for row in self._board.rows() if row.pid}

    def sample(self, generations: Iterable[Generation], now: float) -> dict[int, Sample]:
        """Look at the workers of these generations; every now and then at their memory and processor time too."""
        is_memory_due = now - self._memory_at >= MEMORY_PERIOD
        if is_memory_due:
            self._memory_at = now
        rows = self.rows()
        samples = {}
        for generation in generations:
            service = generation.service
            for pid in generation.workers.keys() & rows.keys():
                memory = read_memory(pid)[0] if is_memory_due and service.max_worker_memory else None
                lag = _lag(rows[pid]) if service.reports_state else 0.0
                samples[pid] = Sample(rows[pid].requests, rows[pid].errors_5xx, lag, memory)
        if now - self._marked_at >= USAGE_PERIOD:
            self._marked_at = now
            self._earlier_marks, self._marks = self._marks, {pid: _mark(rows[pid], now) for pid in samples}
        return samples

    def usage(
        self, pids: Iterable[int], rows: Mapping[int, RowSnapshot], now: float, dumped_at: Mapping[int, float]
    ) -> dict[int, Usage]:
        """What these workers use: memory now, processor and loop in the last 5 to 10 s; and when they were dumped."""
        usages = {}
        for pid in pids:
            memory, kind = read_memory(pid)
            mark = self._earlier_marks.get(pid) or self._marks.get(pid)
            cpu = busy = None
            if mark is not None and pid in rows and now - mark.at > LATE_HEARTBEAT:
                latest = _mark(rows[pid], now)
                seconds = now - mark.at
                cpu = round(100 * max(0.0, latest.cpu - mark.cpu) / seconds, 1)
                busy = round(min(1.0, max(0, latest.busy_ns - mark.busy_ns) / 1e9 / seconds), 3)
            usages[pid] = Usage(cpu, busy, memory, kind, dumped_at.get(pid))
        return usages


def read_memory(pid: int) -> tuple[int | None, str | None]:
    """PSS of a process in bytes, or RSS where that may not be read; (None, None) if neither may, or it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024, "pss"
    except OSError:
        pass
    try:
        return psutil.Process(pid).memory_info().rss, "rss"
    except (OSError, psutil.Error):  # OSError: we have no descriptors left
        return None, None


def _lag(row: RowSnapshot) -> float:
    """By how much the worker's loop was late with its last tick, or is with the next one."""
    silent = (time.monotonic_ns() - row.heartbeat) / 1e9
    return max(row.loop_lag_ns / 1e9, silent - LATE_HEARTBEAT)


def _mark(row: RowSnapshot, now: float) -> _Mark:
    try:
        times = psutil.Process(row.pid).cpu_times()
        cpu = times.user + times.system
    except (OSError, psutil.Error):  # as above
        cpu = 0.0
    return _Mark(now, cpu, row.loop_busy_ns)
