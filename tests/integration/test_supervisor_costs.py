"""What the supervisor itself costs: nearly nothing, as it serves no request."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from outrider_testing import releases
from outrider_testing.launchers import BUSY_MACHINE
from outrider_testing.processes import session_members
from outrider_testing.serving import Supervise

WORKERS = 4
SECONDS = 2.0
MOST_CPU = 0.01
"""Share of a core. It is 0.003 on a quiet machine."""
MOST_MEMORY = 35 << 20
"""Bytes resident."""

MEBIBYTES = 40
"""What each worker of a large release holds: a second one too many would show."""

NOT_MEASURED = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
"""What coverage would add to the costs is not the supervisor's."""

pytestmark = pytest.mark.alone


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads, to the nanosecond (proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def resident(pid: int) -> int:
    """Resident memory in bytes (proc(5), status)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def proportional(pids: list[int]) -> int:
    """Memory of processes in bytes, with what they share counted once (proc(5), smaps_rollup)."""
    total = 0
    for pid in pids:
        with suppress(OSError):  # it has ended
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def test_supervisor_of_idle_workers_takes_no_time_and_little_memory(supervise: Supervise) -> None:
    server = supervise(workers=WORKERS, env=NOT_MEASURED)
    before = cpu_seconds(server.pid)
    threading.Event().wait(SECONDS)  # what is measured is a stretch of time
    share = (cpu_seconds(server.pid) - before) / SECONDS
    memory = resident(server.pid)
    print(f"{share:.2%} of a core, {memory / (1 << 20):.1f} MiB")
    assert share <= MOST_CPU
    assert memory < MOST_MEMORY


def test_reload_takes_the_memory_of_one_more_worker_and_one_more_master(supervise: Supervise) -> None:
    server = supervise(
        *("--max-surge", "1", "--canary-seconds", "0.3", "--canary-requests", "0"),
        workers=WORKERS,
        env=NOT_MEASURED,
        launcher=BUSY_MACHINE,
    )
    releases.deploy(server.directory, releases.large(1, MEBIBYTES))
    server.reload().check()
    server.wait_until_settled(WORKERS, generation=2)
    steady = proportional(session_members(server.pid))
    master = server.current()["master_pid"]
    assert master is not None
    allowed = resident(master) + resident(server.workers()[0])
    releases.deploy(server.directory, releases.large(2, MEBIBYTES))
    reload = server.begin("reload")
    peak = 0
    while reload.poll() is None:
        peak = max(peak, proportional(session_members(server.pid)))
    server.finish(reload).check()
    print(f"{steady >> 20} MiB, at the peak {(peak - steady) >> 20} MiB more; allowed {allowed >> 20} MiB")
    assert MEBIBYTES << 20 < peak - steady <= allowed
