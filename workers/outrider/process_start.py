"""When a process was started, which tells it from a stranger that got its process id."""

from __future__ import annotations

import os
from pathlib import Path


def process_start_time(pid: int, proc: str = "/proc") -> int | None:
    """Return when `pid` started, in clock ticks after boot, or None if it is gone or a zombie.

    It is field 22 of proc(5). Where there is no /proc the result is 0 for any live process, so that a reused
    process id goes unnoticed.
    """
    try:
        stat = Path(proc, str(pid), "stat").read_bytes()
    except OSError:
        return None if Path(proc, "self").exists() else _start_time_without_proc(pid)
    # The command name may hold spaces and parentheses: the fields start after the last one.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _start_time_without_proc(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0  # it lives and belongs to somebody else
    return 0
