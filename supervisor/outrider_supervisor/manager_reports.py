"""What the service manager is told as time goes on: how the service is, that it lives, that it needs more time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from outrider.scoreboard import RowSnapshot
from outrider_supervisor.intents import Intent
from outrider_supervisor.liveness import GRACE, is_alive
from outrider_supervisor.machine import Machine
from outrider_supervisor.notify import Notifier
from outrider_supervisor.status_line import describe
from outrider_supervisor.status_report import Clocks

STATUS_PERIOD = 1.0
"""Seconds between two lines while the service does the same."""
EXTENSION_PERIOD = 5.0
EXTENSION = 10.0
"""Seconds asked for each time: a little more than until the next time, so that a supervisor that hangs is found."""
FEEDS_PER_PERIOD = 3
"""So often the watchdog is fed in its period: one that comes late does no harm."""
LONGEST_ABSENCE = 5.0
"""Seconds without a look after which this process is taken to have stood still, and its workers with it."""

Rows = Callable[[], Mapping[int, RowSnapshot]]
_Phase = tuple[str, type[Intent] | None]
_NONE: _Phase = ("", None)


class ManagerReports:
    """Says what is new, and not too often."""

    def __init__(self, notifier: Notifier, rows: Rows) -> None:
        """Take the notifier, and what reads the workers' rows of the scoreboard."""
        self.notifier = notifier
        self._rows = rows
        self._line = ""
        self._told_phase = self._extended_phase = _NONE
        self._told_at = 0.0
        self._extend_at = 0.0
        self._alive_at = 0.0
        self._looked_at = 0.0

    @property
    def longest_pause(self) -> float | None:
        """Seconds within which `feed` is to be called again; None without a watchdog."""
        period = self.notifier.watchdog
        return None if period is None else period / FEEDS_PER_PERIOD

    def ask_for_time(self, seconds: float) -> None:
        """This process says nothing for so long, and has a reason."""
        if self.notifier.watchdog is not None:
            self.notifier.keep_alive()
        self.notifier.extend(seconds)

    def tell(self, machine: Machine, clocks: Clocks) -> None:
        """Say how the service is, if that has changed. To be called after each event, before READY is told."""
        phase = _phase_of(machine)
        if phase == self._told_phase and clocks.monotonic - self._told_at < STATUS_PERIOD:
            return
        self._told_phase = phase
        line = describe(machine, self._in_flight(machine) if machine.is_stopping else 0, clocks)
        if line != self._line and self.notifier.status(line):
            self._line = line
            self._told_at = clocks.monotonic

    def _in_flight(self, machine: Machine) -> int:
        pids = [pid for each in machine.fleet.generations.values() for pid in each.workers]
        rows = self._rows() if pids else {}  # without a generation there is no scoreboard yet
        return sum(rows[pid].in_flight for pid in pids if pid in rows)

    def extend(self, machine: Machine, now: float) -> None:
        """Ask for more time while something is under way, which has been told. To be called every second or so."""
        phase, deadline = _phase_of(machine), machine.deadline
        if phase != self._extended_phase:
            self._extended_phase = phase
            self._extend_at = now
        if deadline is not None and self._extend_at <= now <= deadline:
            self._extend_at = now + EXTENSION_PERIOD
            self.notifier.extend(EXTENSION)

    def feed(self, machine: Machine, now: float) -> None:
        """Feed the watchdog, unless the service is dead. To be called by the control loop alone."""
        if self.notifier.watchdog is None:
            return
        has_been_away = now - self._looked_at > LONGEST_ABSENCE
        self._looked_at = now
        beats = {pid: row.heartbeat / 1e9 for pid, row in self._rows().items()}
        if has_been_away or is_alive(machine, beats, now):
            self._alive_at = now
        if now - self._alive_at <= GRACE:
            self.notifier.keep_alive()


def _phase_of(machine: Machine) -> _Phase:
    """What is told at once when it changes."""
    return machine.state, type(machine.operation) if machine.operation is not None else None
