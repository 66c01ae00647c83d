"""The scoreboard: one table in shared memory, one row per worker, one writer per row.

The master makes (or is handed) the table and claims a row before it forks; the worker adopts the row and is
from then on its only writer. Everybody else reads: other workers to find out who has the fewest connections,
the supervisor for status, metrics and scaling. No row is ever locked: every cell is one aligned 64-bit word.

What a worker has counted stays in its row when it is gone, and is added to what is kept for all of them when another
one gets the row: no total ever falls. `scoreboard_memory` has the layout.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from enum import IntEnum
from operator import add
from typing import TYPE_CHECKING, NamedTuple

from outrider.meters import Histogram, Meter, histograms_of
from outrider.process_start import process_start_time
from outrider.scoreboard_memory import (
    FIRST_ROW,
    HIGH_WATER_AT,
    METERS_FROM,
    ROW_WORDS,
    ROWS_AT,
    make_in,
    make_private_row,
    make_shared,
    open_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEFAULT_ROWS = 1024
MOST_WORKERS = DEFAULT_ROWS // 2
"""In a reload there may be twice as many, each with a row."""
UNFORKED_CLAIM_NS = 60 * 1_000_000_000
"""Age in nanoseconds at which a row that was claimed and never adopted is free again (its fork failed)."""


class WorkerState(IntEnum):
    """Life of a worker; FREE is a row that nobody has claimed."""

    FREE = 0
    SPAWNED = 1
    BOOTING = 2
    READY = 3
    DRAINING = 4
    EXITED = 5
    STUCK = 6
    BACKOFF = 7


class Field(IntEnum):
    """Columns of a row. Append only: a change of order or meaning is a new `LAYOUT_VERSION`."""

    GENERATION = 0
    PID = 1
    START_TIME = 2
    """Clock ticks after boot, from /proc/<pid>/stat: tells a worker from a stranger with its process id."""
    STATE = 3
    HEARTBEAT = 4
    """CLOCK_MONOTONIC, nanoseconds."""
    IN_FLIGHT = 5
    CONNECTIONS = 6
    WEBSOCKETS = 7
    REQUESTS = 8
    ERRORS_5XX = 9
    LOOP_BUSY_NS = 10
    LOOP_LAG_NS = 11
    BYTES_IN = 12
    BYTES_OUT = 13
    HTTP2_CONNECTIONS = 14
    """Of the connections."""
    WEBSOCKETS_OPENED = 15
    STALLS = 16
    LOG_DROPS = 17
    """Log lines that were given up because the log took none."""


_TOTALS = (
    Field.BYTES_IN,
    Field.BYTES_OUT,
    Field.WEBSOCKETS_OPENED,
    Field.STALLS,
    Field.LOG_DROPS,
)
"""What `Totals` is made of, beside the meters."""

# An enum member costs an attribute look-up each time; the accept gate reads these per connection.
_PID = int(Field.PID)
_START_TIME = int(Field.START_TIME)
_STATE = int(Field.STATE)
_HEARTBEAT = int(Field.HEARTBEAT)
_CONNECTIONS = int(Field.CONNECTIONS)
_READY = int(WorkerState.READY)
_VACANT = (int(WorkerState.FREE), int(WorkerState.EXITED))


class RowSnapshot(NamedTuple):
    """A copy of one row; after `row`, the attributes are those of `Field`, in order."""

    row: int
    generation: int
    pid: int
    start_time: int
    state: WorkerState
    heartbeat: int
    in_flight: int
    connections: int
    websockets: int
    requests: int
    errors_5xx: int
    loop_busy_ns: int
    loop_lag_ns: int
    bytes_in: int
    bytes_out: int
    http2_connections: int
    websockets_opened: int
    stalls: int
    log_drops: int

    @property
    def is_booting(self) -> bool:
        """Whether the worker serves nobody yet: its loop is neither busy nor late for anybody."""
        return self.state in (WorkerState.SPAWNED, WorkerState.BOOTING)


class Totals(NamedTuple):
    """What all workers have counted since the table was made, or one has."""

    bytes_in: int
    bytes_out: int
    websockets_opened: int
    stalls: int
    log_drops: int
    requests: dict[tuple[str, int], Histogram]
    """By method and class of status; see `meters`."""


class Row:
    """One worker's row: `row[Field.CONNECTIONS] = 3`.

    A *private* row, with None for its `index`, is in no table. It is what `Scoreboard.claim` returns when the
    table is full, so that the worker serves all the same (it sees its peers, they do not see it), and what a row
    turns into when it is released, so that a late write cannot reach the worker that has the row next.
    """

    __slots__ = ("_first", "_own", "_table", "index")

    def __init__(self, table: memoryview[int], index: int | None) -> None:
        self._table = table
        self.index = index
        self._first = 0
        if index is None:
            self._own = make_private_row()
        else:
            self._first = FIRST_ROW + ROW_WORDS * index
            self._own = table[self._first : self._first + ROW_WORDS]

    def __getitem__(self, field: Field) -> int:
        return self._own[field]

    def __setitem__(self, field: Field, value: int) -> None:
        """Store `value`, 0 to 2**64 - 1.

        Raises:
            ValueError: for a value outside that range.
        """
        self._own[field] = value

    @property
    def meter(self) -> Meter:
        """Counts requests in this row; only for as long as it is not released."""
        return Meter(self._own[METERS_FROM:])

    def adopt(self, pid: int) -> None:
        """Make process `pid` the writer of this row; the worker calls it right after the fork."""
        if self._own[_PID] not in (0, pid):
            # The claim lapsed before the fork and somebody else has the row.
            self._leave_table()
        # The pid is last: a row with a pid is judged by its start time.
        self._own[_START_TIME] = process_start_time(pid) or 0
        self._own[_PID] = pid

    def release(self) -> None:
        """Give the row back (state EXITED); what is written from here on is seen by nobody."""
        self._own[_STATE] = WorkerState.EXITED
        self._leave_table()

    def least_loaded_peer(self, now_ns: int, stale_after_ns: int) -> int | None:
        """Return the fewest connections that any other worker has, or None without another worker.

        Counted are the workers that are READY and whose heartbeat is at most `stale_after_ns` nanoseconds
        before `now_ns` (CLOCK_MONOTONIC). Called per accepted connection: it reads words and allocates
        nothing.
        """
        table = self._table
        own = self._first
        oldest = now_ns - stale_after_ns
        fewest = None
        for first in range(FIRST_ROW, FIRST_ROW + ROW_WORDS * table[HIGH_WATER_AT], ROW_WORDS):
            if first == own or table[first + _STATE] != _READY or table[first + _HEARTBEAT] < oldest:
                continue
            connections = table[first + _CONNECTIONS]
            if fewest is None or connections < fewest:
                fewest = connections
        return fewest

    def _leave_table(self) -> None:
        self.index = None
        self._first = 0
        self._own = make_private_row()


class Scoreboard:
    """The table. Make one with `anonymous` or `create_in`, open one with `from_descriptor`."""

    def __init__(
        self,
        words: memoryview[int],
        descriptor: int | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        start_time_of: Callable[[int], int | None] = process_start_time,
    ) -> None:
        """Wrap the words of a table whose header is valid.

        Args:
            words: the whole table, header included.
            descriptor: of the memory file, to lock it while a row is claimed; None if one process claims.
            clock: CLOCK_MONOTONIC in nanoseconds.
            start_time_of: a process's start time, None for a dead one; see `process_start_time`.
        """
        self._words = words
        self._descriptor = descriptor
        self._clock = clock
        self._start_time_of = start_time_of
        self.capacity = words[ROWS_AT]

    @classmethod
    def anonymous(cls, rows: int = DEFAULT_ROWS) -> Scoreboard:
        """Make a table that this process and those it forks share. Memory is used per claimed row only."""
        return cls(make_shared(rows))

    @classmethod
    def create_in(cls, descriptor: int, rows: int = DEFAULT_ROWS) -> Scoreboard:
        """Make a table in an empty memory file, for processes that open it with `from_descriptor`."""
        make_in(descriptor, rows)
        return cls.from_descriptor(descriptor)

    @classmethod
    def from_descriptor(cls, descriptor: int) -> Scoreboard:
        """Open the table in an inherited memory file; the descriptor stays the caller's.

        Raises:
            ConfigurationError: it is not open, not a table, or one of another layout.
        """
        return cls(open_table(descriptor), os.dup(descriptor))

    def claim(self, generation: int = 0) -> Row:
        """Take a row for a worker that is about to be forked and reset it to SPAWNED, heartbeat now.

        The row is one given back, else one whose worker is dead, else a new one. When all are in use the
        result is a private row (see `Row`), not an error: a worker must not fail because it cannot be
        watched.
        """
        with self._exclusive():
            now = self._clock()
            index = self._find_vacant(now)
            if index is None:
                return Row(self._words, None)
            if index < self._words[HIGH_WATER_AT]:
                self._keep_counts(index)
            row = Row(self._words, index)
            row[Field.GENERATION] = generation
            row[Field.HEARTBEAT] = now
            row[Field.STATE] = WorkerState.SPAWNED
            self._words[HIGH_WATER_AT] = max(self._words[HIGH_WATER_AT], index + 1)
            return row

    def rows(self) -> list[RowSnapshot]:
        """Copy every row that is or was in use, dead workers' rows included, in order of index."""
        snapshots = []
        for index in range(self._words[HIGH_WATER_AT]):
            first = FIRST_ROW + ROW_WORDS * index
            words = self._words[first : first + len(Field)].tolist()
            if words[_STATE] != WorkerState.FREE:
                words[_STATE] = WorkerState(words[_STATE])
                snapshots.append(RowSnapshot._make((index, *words)))
        return snapshots

    def totals(self) -> Totals:
        """Add up what all workers have counted, those that are gone included. No total is ever below an earlier one."""
        with self._exclusive():
            blocks = 1 + self._words[HIGH_WATER_AT]
            sums = [0] * ROW_WORDS
            for first in range(ROW_WORDS, ROW_WORDS * (1 + blocks), ROW_WORDS):
                sums = list(map(add, sums, self._words[first : first + ROW_WORDS].tolist()))
        return _totals_of(sums)

    def totals_of(self, row: int) -> Totals:
        """What the worker with this row has counted."""
        first = FIRST_ROW + ROW_WORDS * row
        return _totals_of(self._words[first : first + ROW_WORDS].tolist())

    def _keep_counts(self, index: int) -> None:
        """Empty a row whose worker is gone; what that has counted is added to the second block."""
        first = FIRST_ROW + ROW_WORDS * index
        left = self._words[first : first + ROW_WORDS]
        kept = self._words[ROW_WORDS:FIRST_ROW]
        for cell in (*_TOTALS, *range(METERS_FROM, ROW_WORDS)):
            if left[cell]:
                kept[cell] += left[cell]
        left[:] = make_private_row()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other masters from claiming. The kernel drops a record lock when its process dies."""
        if self._descriptor is None:
            yield
            return
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _find_vacant(self, now_ns: int) -> int | None:
        used = self._words[HIGH_WATER_AT]
        for index in range(used):
            if self._words[FIRST_ROW + ROW_WORDS * index + _STATE] in _VACANT:
                return index
        for index in range(used):
            if self._is_abandoned(FIRST_ROW + ROW_WORDS * index, now_ns):
                return index
        return used if used < self.capacity else None

    def _is_abandoned(self, first: int, now_ns: int) -> bool:
        pid = self._words[first + _PID]
        if pid == 0:
            return now_ns - self._words[first + _HEARTBEAT] > UNFORKED_CLAIM_NS
        # None is a dead process, another time a stranger that got its process id.
        return self._start_time_of(pid) != self._words[first + _START_TIME]


def _totals_of(words: list[int]) -> Totals:
    return Totals(
        words[Field.BYTES_IN],
        words[Field.BYTES_OUT],
        words[Field.WEBSOCKETS_OPENED],
        words[Field.STALLS],
        words[Field.LOG_DROPS],
        histograms_of(words[METERS_FROM:]),
    )
