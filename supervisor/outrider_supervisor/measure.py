"""What can be seen of workers from outside: their rows of the scoreboard, processor time and memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from outrider.scoreboard import RowSnapshot, Scoreboard, WorkerState
from outrider_supervisor.events import Sample
from outrider_supervisor.generation import Generation
from outrider_supervisor.status_report import Usage

MEMORY_PERIOD = 10
"""Seconds between looks at the memory of workers: reading PSS walks a process's page tables."""
USAGE_PERIOD = 5.0
LATE_HEARTBEAT = 0.3
"""Seconds between heartbeats of a worker that is on time, and a little more."""


@dataclass(slots=True)
class _Mark:
    """Totals of a worker at one moment."""

    at: float
    cpu: float
    busy_ns: int | None
    """None while it boots."""
    resident: int | None


class _Memory(NamedTuple):
    """Memory of a worker at one moment."""

    at: float
    size: int | None
    kind: str | None


class Sampler:
    """Reads the scoreboard, and remembers enough to turn totals into shares."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._memory: dict[int, _Memory] = {}
        self._marked_at = 0.0
        self._marks: dict[int, _Mark] = {}
        self._earlier_marks: dict[int, _Mark] = {}

    def rows(self) -> dict[int, RowSnapshot]:
        """The rows by pid."""
        return {row.pid: row for row in self._board.rows() if row.pid}

    def sample(self, generations: Iterable[Generation], now: float) -> dict[int, Sample]:
        """Look at the workers of these generations; every now and then at their memory and processor time too."""
        rows = self.rows()
        memory = self._look_at_memory([pid for generation in generations for pid in generation.workers], now)
        samples = {}
        for generation in generations:
            service = generation.service
            for pid in generation.workers.keys() & rows.keys():
                row = rows[pid]
                lag = lag_of(row) if service.reports_state else 0.0
                accepts = service.reports_state and row.state == WorkerState.READY
                samples[pid] = Sample(row.requests, row.errors_5xx, lag, memory.get(pid), accepts)
        if now - self._marked_at >= USAGE_PERIOD:
            self._marked_at = now
            self._earlier_marks, self._marks = self._marks, {pid: _mark(rows[pid], now) for pid in samples}
        return samples

    def _look_at_memory(self, pids: Collection[int], now: float) -> dict[int, int | None]:
        """Read what is due, but not all at once: that would hold up the supervisor where workers are many and large."""
        self._memory = {pid: self._memory[pid] for pid in self._memory.keys() & pids}
        due = [pid for pid in pids if pid not in self._memory]
        old = [pid for pid, memory in self._memory.items() if now - memory.at >= MEMORY_PERIOD]
        due += sorted(old, key=lambda pid: self._memory[pid].at)[: 1 + int(len(pids) / MEMORY_PERIOD)]
        return {pid: self._read_memory(pid, now).size for pid in due}

    def _read_memory(self, pid: int, now: float) -> _Memory:
        found = self._memory[pid] = _Memory(now, *read_memory(pid))
        return found

    def usage(self, pids: Iterable[int], rows: Mapping[int, RowSnapshot], now: float) -> dict[int, Usage]:
        """What these workers use: memory lately, processor and loop in the last 5 to 10 s."""
        usages = {}
        for pid in pids:
            memory = self._memory.get(pid) or self._read_memory(pid, now)
            if pid not in rows:
                usages[pid] = Usage(memory_bytes=memory.size, memory_kind=memory.kind)
                continue
            latest = _mark(rows[pid], now)
            cpu = busy = None
            for mark in (self._marks.get(pid), self._earlier_marks.get(pid)):  # the older one counts, if it can
                if mark is None or now - mark.at <= LATE_HEARTBEAT:
                    continue
                seconds = now - mark.at
                cpu = round(100 * max(0.0, latest.cpu - mark.cpu) / seconds, 1)
                if latest.busy_ns is not None and mark.busy_ns is not None:
                    busy = round(min(1.0, max(0, latest.busy_ns - mark.busy_ns) / 1e9 / seconds), 3)
            lag = 0.0 if rows[pid].is_booting else lag_of(rows[pid])
            usages[pid] = Usage(cpu, busy, memory.size, memory.kind, latest.cpu, latest.resident, lag)
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


def lag_of(row: RowSnapshot) -> float:
    """By how much the worker's loop was late with its last tick, or is with the next one."""
    silent = (time.monotonic_ns() - row.heartbeat) / 1e9
    return max(row.loop_lag_ns / 1e9, silent - LATE_HEARTBEAT)


def _mark(row: RowSnapshot, now: float) -> _Mark:
    busy_ns = None if row.is_booting else _busy_ns_of(row)
    try:
        process = psutil.Process(row.pid)
        times = process.cpu_times()
        return _Mark(now, times.user + times.system, busy_ns, process.memory_info().rss)
    except (OSError, psutil.Error):  # as above
        return _Mark(now, 0.0, busy_ns, None)


def _busy_ns_of(row: RowSnapshot) -> int:
    """For how long the worker's loop was busy in all, with what holds it now: that will only be in the row later."""
    silent_ns = time.monotonic_ns() - row.heartbeat
    return row.loop_busy_ns + max(0, silent_ns - int(LATE_HEARTBEAT * 1e9))
