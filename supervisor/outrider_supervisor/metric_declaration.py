"""How a metric is declared: once, with its name, type and labels, and with what reads its values from a `Snapshot`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from outrider.scoreboard import RowSnapshot, Totals
from outrider_supervisor.status import Status
from outrider_supervisor.status_report import Usage
from outrider_supervisor.tally import Tally


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the metrics are made of. Mappings are by process id."""

    status: Status
    totals: Totals
    rows: Mapping[int, RowSnapshot]
    usage: Mapping[int, Usage]
    cpu_seconds: Mapping[int, float]
    all_cpu_seconds: float
    """Of the workers that are gone as well."""
    tally: Tally
    backlog: int | None
    """Connections that wait to be accepted."""


@dataclass(frozen=True, slots=True)
class Bucketed:
    """A histogram: numbers up to each of `meters.DURATION_BOUNDS` and in all, and the sum."""

    cumulative: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Summed:
    """A summary without quantiles."""

    count: int
    total: float


Value = float | Bucketed | Summed
Sample = tuple[tuple[str, ...], Value]
"""The values of the labels, and the value."""
Collect = Callable[[Snapshot], Iterator[Sample]]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family; a counter's name is without `_total`, an info's without `_info`."""

    name: str
    kind: str
    """counter, gauge, histogram, summary, info."""
    help: str
    labels: tuple[str, ...]
    collect: Collect

    @property
    def unit(self) -> str:
        """The unit, which the name ends with; empty for a number of things."""
        last = self.name.rpartition("_")[2]
        return last if last in ("bytes", "ratio", "seconds") else ""

    @property
    def shown_name(self) -> str:
        """The name as people write it in a query."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


class Declarations(list[Metric]):
    """The metrics that were declared, in order."""

    def collected(self, name: str, kind: str, help_: str, labels: tuple[str, ...] = ()) -> Callable[[Collect], Collect]:
        """Declare one whose samples the decorated function gives."""

        def add(collect: Collect) -> Collect:
            self.append(Metric(name, kind, help_, labels, collect))
            return collect

        return add

    def plain(self, name: str, kind: str, help_: str, read: Callable[[Snapshot], float | None]) -> None:
        """Declare one without labels; None is left out."""

        def collect(snapshot: Snapshot) -> Iterator[Sample]:
            value = read(snapshot)
            if value is not None:
                yield (), value

        self.append(Metric(name, kind, help_, (), collect))

    def by_label(
        self, name: str, kind: str, help_: str, label: str, read: Callable[[Snapshot], Mapping[str, float]]
    ) -> None:
        """Declare one with a single label, for whose values `read` gives the numbers."""

        def collect(snapshot: Snapshot) -> Iterator[Sample]:
            for value, number in read(snapshot).items():
                yield (value,), number

        self.append(Metric(name, kind, help_, (label,), collect))

    def of_worker(self, name: str, kind: str, help_: str, read: Callable[[Snapshot, int], float | None]) -> None:
        """Declare one that each worker has, by its process id; None is left out."""

        def collect(snapshot: Snapshot) -> Iterator[Sample]:
            for generation in snapshot.status["generations"]:
                for worker in generation["workers"]:
                    value = read(snapshot, worker["pid"])
                    if value is not None:
                        yield (str(generation["number"]), str(worker["pid"])), value

        self.append(Metric(name, kind, help_, ("generation", "pid"), collect))
