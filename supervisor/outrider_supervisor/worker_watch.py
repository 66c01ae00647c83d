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
        self._late: dict[int, int | None] = {}
        """Workers, by their masters, for which no descriptor was left."""

    def add(self, pid: int, master: int | None) -> None:
        """Watch the worker `pid` of the process `master`; None for one whose master is gone."""
        try:
            process = self._hold(pid, master)
        except ProcessLookupError:
            self._on_gone(pid)
        except OSError:
            self._late[pid] = master
        else:
            self._workers[pid] = process
            process.watch(lambda _how, _status: self._note_exit(pid))

    def catch_up(self) -> None:
        """Watch the workers for which no descriptor was left."""
        late, self._late = self._late, {}
        for pid, master in late.items():
            self.add(pid, master)

    def _hold(self, pid: int, master: int | None) -> Process:
        process = self._children.adopt(pid)
        try:
            # Only now the id cannot change hands: is it still the one that was meant?
            if parent_of(pid) not in (master, os.getpid()):
                raise ProcessLookupError(pid)
        except OSError:
            process.close()
            raise
        return process

    def signal(self, pid: int, number: int) -> bool:
        """Send a signal; False if the worker is gone."""
        process = self._workers.get(pid)
        return process is not None and process.signal(number)

    def _note_exit(self, pid: int) -> None:
        self._workers.pop(pid, None)
        self._on_gone(pid)


def parent_of(pid: int) -> int:
    """The parent of a process: field 4 of proc(5).

    Raises:
        ProcessLookupError: it is gone.
        OSError: no descriptor is left to see that.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    return int(stat.rpartition(b")")[2].split()[1])


def is_inherited(pid: int) -> bool:
    """Whether a process of a master that has died is our child now, as a subreaper's are."""
    try:
        return parent_of(pid) == os.getpid()
    except OSError:
        return False
