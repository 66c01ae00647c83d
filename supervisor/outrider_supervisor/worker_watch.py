"""Workers as processes: they are the masters' children, and ours once their master has died."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from outrider_supervisor.processes import Children, Process


class WorkerWatch:
    """Holds a pidfd of each worker, so that one that has no master any more can be signalled, and is missed."""

    def __init__(self, children: Children, on_gone: Callable[[int], None]) -> None:
        self._children = children
        self._on_gone = on_gone
        self._workers: dict[int, Process] = {}

    def add(self, pid: int, master: int | None) -> None:
        """Watch the worker `pid` of the process `master`; None for one whose master is gone."""
        try:
            process = self._children.adopt(pid)
        except OSError:
            self._on_gone(pid)
            return
        # Only now the id cannot change hands: is it still the one that was meant?
        if parent_of(pid) not in (master, os.getpid()):
            process.close()
            self._on_gone(pid)
            return
        self._workers[pid] = process
        process.watch(lambda _how, _status: self._note_exit(pid))

    def signal(self, pid: int, number: int) -> bool:
        """Send a signal; False if the worker is gone."""
        process = self._workers.get(pid)
        return process is not None and process.signal(number)

    def _note_exit(self, pid: int) -> None:
        self._workers.pop(pid, None)
        self._on_gone(pid)


def parent_of(pid: int) -> int | None:
    """The parent of a process: field 4 of proc(5). None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[1])
