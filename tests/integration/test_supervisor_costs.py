"""What the supervisor itself costs: nearly nothing, as it serves no request."""

from __future__ import annotations

import threading
from pathlib import Path

from outrider_testing.serving import Supervise

WORKERS = 4
SECONDS = 2.0
MOST_CPU = 0.01
"""Share of a core. It is 0.003 on a quiet machine."""
MOST_MEMORY = 35 << 20
"""Bytes resident."""

NOT_MEASURED = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
"""What coverage would add to the costs is not the supervisor's."""


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads, to the nanosecond (proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def resident(pid: int) -> int:
    """Resident memory in bytes (proc(5), status)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def test_supervisor_of_idle_workers_takes_no_time_and_little_memory(supervise: Supervise) -> None:
    server = supervise(workers=WORKERS, env=NOT_MEASURED)
    before = cpu_seconds(server.pid)
    threading.Event().wait(SECONDS)  # what is measured is a stretch of time
    share = (cpu_seconds(server.pid) - before) / SECONDS
    memory = resident(server.pid)
    print(f"{share:.2%} of a core, {memory / (1 << 20):.1f} MiB")
    assert share <= MOST_CPU
    assert memory < MOST_MEMORY
