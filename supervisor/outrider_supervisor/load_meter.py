"""Measures what the autoscaler decides by, once a second, from shared memory, /proc and the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import psutil

from outrider.scoreboard import RowSnapshot
from outrider_supervisor.cgroup import ControlGroup, usable_cores
from outrider_supervisor.events import Load, Sample, Share
from outrider_supervisor.generation import Generation, WorkerState

PERIOD = 0.95
"""Seconds between two looks: the supervisor's tick of a second, and a little less."""
RESERVE = 0.1
"""Share of the memory that is left alone."""
_SERVING = (WorkerState.READY, WorkerState.RETIRING)


@dataclass(frozen=True, slots=True)
class _Totals:
    """Of one worker, at one moment."""

    at: float
    cpu: float
    heartbeat: int
    busy_ns: int
    requests: int


class Rows(Protocol):
    """The scoreboard: `Sampler` has it."""

    def rows(self) -> dict[int, RowSnapshot]: ...


class LoadMeter:
    """Remembers the totals of the last look, to turn them into shares."""

    def __init__(self, board: Rows, group: ControlGroup) -> None:
        self._board = board
        self._group = group
        self._measured_at = float("-inf")
        self._totals: dict[int, _Totals] = {}
        self._memory: dict[int, int] = {}

    def measure(
        self,
        generation: Generation | None,
        samples: Mapping[int, Sample],
        backlog: int | None,
        now: float,
    ) -> Load | None:
        """The load of the generation that serves; None if it is too early for another look, or it does not scale.

        Args:
            generation: the one that serves.
            samples: of its workers, for their memory.
            backlog: connections that wait to be accepted.
            now: monotonic time.
        """
        self._remember_memory(samples)
        if generation is None or not generation.service.max_workers or now - self._measured_at < PERIOD:
            return None
        self._measured_at = now
        rows = self._board.rows()
        before = self._totals
        self._totals = {
            pid: _read_totals(rows[pid], now, before.get(pid))
            for pid, worker in generation.workers.items()
            if worker.state in _SERVING and pid in rows
        }
        pairs = {pid: (before[pid], after) for pid, after in self._totals.items() if pid in before}
        return Load(
            workers={pid: _share(*pair, has_loop=generation.service.reports_state) for pid, pair in pairs.items()},
            requests_per_second=sum(_rate(*pair) for pair in pairs.values()),
            backlog=backlog,
            cores=usable_cores(self._group),
            memory_room=self._memory_room(),
            worker_memory=self._worker_memory(),
        )

    def _remember_memory(self, samples: Mapping[int, Sample]) -> None:
        self._memory = {pid: size for pid, size in self._memory.items() if pid in samples}
        self._memory.update({pid: each.memory for pid, each in samples.items() if each.memory is not None})

    def _worker_memory(self) -> int | None:
        return sum(self._memory.values()) // len(self._memory) if self._memory else None

    def _memory_room(self) -> int | None:
        """Bytes that may be used, by the control group and by what the machine has; None if that can't be read."""
        try:
            machine = psutil.virtual_memory()
        except OSError:  # as below
            return None
        room = machine.available - RESERVE * machine.total
        limited = self._group.memory()
        if limited is not None:
            room = min(room, limited.limit * (1 - RESERVE) - limited.used)
        return max(0, int(room))


def _read_totals(row: RowSnapshot, now: float, before: _Totals | None) -> _Totals:
    try:
        times = psutil.Process(row.pid).cpu_times()
        cpu = times.user + times.system
    except (OSError, psutil.Error):  # OSError: we have no descriptors left
        cpu = before.cpu if before is not None else 0.0
    return _Totals(now, cpu, row.heartbeat, row.loop_busy_ns, row.requests)


def _share(before: _Totals, after: _Totals, *, has_loop: bool) -> Share:
    """A row is written at the worker's pace: its loop was busy all the time if it was not written since."""
    cpu = max(0.0, after.cpu - before.cpu) / (after.at - before.at)
    if not has_loop:
        return Share(cpu, 0.0)
    written = after.heartbeat - before.heartbeat
    busy = (after.busy_ns - before.busy_ns) / written if written > 0 else 1.0
    return Share(cpu, min(1.0, max(0.0, busy)))


def _rate(before: _Totals, after: _Totals) -> float:
    return max(0, after.requests - before.requests) / (after.at - before.at)
