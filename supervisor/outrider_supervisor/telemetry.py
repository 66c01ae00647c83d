"""What the workers do, looked at every two seconds: rates, history, and what the processes use.

Status, dashboard and metrics read what was found at the last look; none of them makes the supervisor look again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from outrider.scoreboard import RowSnapshot, Totals
from outrider_supervisor.history import PERIOD, History, WorkerPoint
from outrider_supervisor.machine import Machine
from outrider_supervisor.measure import Sampler, lag_of
from outrider_supervisor.metric_declaration import Snapshot
from outrider_supervisor.rates import Rates, Reading, Window, milliseconds
from outrider_supervisor.status import RatesStatus, Status
from outrider_supervisor.status_report import Usage
from outrider_supervisor.tally import Tally

RATE_STEPS = 5
"""Looks that the rates in the status are taken over: ten seconds."""


class Board(Protocol):
    """The part of the scoreboard that counts."""

    def totals(self) -> Totals: ...
    def totals_of(self, row: int) -> Totals: ...


class ProcessorTime:
    """Processor seconds of all workers there ever were; never less than before."""

    def __init__(self) -> None:
        self._gone = 0.0
        self.last: dict[int, float] = {}
        """By process id, of the living."""

    def look(self, usage: Mapping[int, Usage]) -> None:
        """Take in what the living have used."""
        for pid in self.last.keys() - usage.keys():
            self._gone += self.last.pop(pid)
        for pid, each in usage.items():
            self.last[pid] = max(self.last.get(pid, 0.0), each.cpu_seconds or 0.0)

    @property
    def total(self) -> float:
        """Seconds."""
        return self._gone + sum(self.last.values())

    def to_state(self) -> dict[str, Any]:
        """What `take_state` needs in the supervisor that replaces this one."""
        return {"gone": self._gone, "last": {str(pid): seconds for pid, seconds in self.last.items()}}

    def take_state(self, state: Mapping[str, Any]) -> None:
        """Go on where another supervisor stopped."""
        self._gone = state["gone"]
        self.last = {int(pid): seconds for pid, seconds in state["last"].items()}


class Telemetry:
    """The last look, and what is remembered of those before it."""

    def __init__(self, board: Board, sampler: Sampler) -> None:
        self.history = History()
        self.processor_time = ProcessorTime()
        self._board = board
        self._sampler = sampler
        self._usage: dict[int, Usage] = {}
        self._pool = Window(RATE_STEPS)
        self._workers: dict[int, Window] = {}
        self._next_look = 0.0

    def look(self, machine: Machine, backlog: int | None, now: float, wall: float) -> None:
        """Look, if it is time; at this monotonic and Unix time."""
        if now < self._next_look:
            return
        # From when it was due and not from now: what comes a little late shall not add up.
        self._next_look += PERIOD
        if self._next_look <= now:
            self._next_look = now + PERIOD
        serving = _pids(machine)
        self._usage = self._sampler.usage(serving, self._sampler.rows(), now)
        self.processor_time.look(self._usage)
        pool = self._pool.add(Reading.of(self._board.totals(), now))
        reporting = self.rows(machine)
        points = self._look_at_workers(serving, reporting, now, round(wall, 1))
        lags = [point[2] for point in points.values() if point[2] is not None]
        shares = [point[3] for point in points.values() if point[3] is not None]
        sizes = [point[4] for point in points.values() if point[4] is not None]
        self.history.add(
            {
                "at": round(wall, 1),
                "requests_per_second": round(pool.requests, 2),
                "p50_ms": milliseconds(pool.median),
                "p99_ms": milliseconds(pool.p99),
                "in_flight": sum(row.in_flight for row in reporting.values()),
                "lag_ms": max(lags, default=None),
                "busy": round(sum(shares) / len(shares), 3) if shares else None,
                "memory_bytes": sum(sizes) if sizes else None,
                "workers": machine.fleet.capacity,
                "target": machine.target,
                "backlog": backlog,
            },
            points,
        )

    def _look_at_workers(
        self, pids: Iterable[int], rows: Mapping[int, RowSnapshot], now: float, wall: float
    ) -> dict[int, WorkerPoint]:
        self._workers = {pid: window for pid, window in self._workers.items() if pid in rows}
        points: dict[int, WorkerPoint] = {}
        for pid in pids:
            usage = self._usage[pid]
            row = rows.get(pid)
            if row is None:
                points[pid] = (wall, None, None, None, usage.memory_bytes)
                continue
            rates = self._look_at_worker(pid, row, now)
            lag = None if row.is_booting else round(lag_of(row) * 1000, 1)
            points[pid] = (wall, round(rates.requests, 2), lag, usage.busy, usage.memory_bytes)
        return points

    def _look_at_worker(self, pid: int, row: RowSnapshot, now: float) -> Rates:
        window = self._workers.setdefault(pid, Window(RATE_STEPS))
        return window.add(Reading.of(self._board.totals_of(row.row), now))

    def rates(self, in_flight: int) -> RatesStatus:
        """The rates of the whole pool."""
        rates = self._pool.rates()
        return {
            "requests_per_second": round(rates.requests, 2) if rates else None,
            "errors_per_second": round(rates.errors, 2) if rates else None,
            "p50_ms": milliseconds(rates.median) if rates else None,
            "p99_ms": milliseconds(rates.p99) if rates else None,
            "in_flight": in_flight,
        }

    def worker_rates(self) -> dict[int, Rates]:
        """The rates of each worker of which they are known."""
        found = {pid: window.rates() for pid, window in self._workers.items()}
        return {pid: rates for pid, rates in found.items() if rates is not None}

    def usage(self, machine: Machine, now: float) -> dict[int, Usage]:
        """What the workers use: as of the last look, and of those that are new since, of now."""
        pids = _pids(machine)
        new = [pid for pid in pids if pid not in self._usage]
        if new:
            self._usage |= self._sampler.usage(new, self._sampler.rows(), now)
        return {pid: self._usage[pid] for pid in pids}

    def rows(self, machine: Machine) -> dict[int, RowSnapshot]:
        """The rows by process id, of workers whose class keeps one, of now."""
        rows = self._sampler.rows()
        generations = machine.fleet.generations.values()
        reporting = [pid for each in generations if each.service.reports_state for pid in each.workers]
        return {pid: rows[pid] for pid in reporting if pid in rows}

    def snapshot(self, machine: Machine, status: Status, tally: Tally, backlog: int | None) -> Snapshot:
        """What the metrics are made of."""
        return Snapshot(
            status=status,
            totals=self._board.totals(),
            rows=self.rows(machine),
            usage=self._usage,
            cpu_seconds=self.processor_time.last,
            all_cpu_seconds=self.processor_time.total,
            tally=tally,
            backlog=backlog,
        )

    def to_state(self) -> dict[str, Any]:
        """What `take_state` needs in the supervisor that replaces this one."""
        return {"history": self.history.to_state(), "processor_time": self.processor_time.to_state()}

    def take_state(self, state: Mapping[str, Any]) -> None:
        """Go on where another supervisor stopped."""
        self.history.take_state(state["history"])
        self.processor_time.take_state(state["processor_time"])


def _pids(machine: Machine) -> list[int]:
    return [pid for each in machine.fleet.generations.values() for pid in each.workers]
