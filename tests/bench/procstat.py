"""CPU and memory of a tree of processes, from /proc (proc_pid_stat(5), schedstat, smaps_rollup)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_TICK = 1 / os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat counted from the one after the command's closing parenthesis (state is 0).
_PARENT, _SESSION, _USER, _SYSTEM = 1, 3, 11, 12
# Fields of a cpuN line of /proc/stat that say that the core was taken; guest time is already within user.
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
_CPU_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time used so far by a set of processes."""

    threads: dict[tuple[int, int], int]
    """Nanoseconds on a CPU by (process, thread); empty where the kernel does not tell."""
    processes: dict[int, float]
    """User and system seconds by process, of all its threads, ended ones too; in steps of a tick."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in KiB: resident, and with shared pages divided among those that share them."""

    rss: int
    pss: int


def parse_stat(text: str) -> list[str]:
    """Return the fields of a /proc/PID/stat line that follow the command, which may hold spaces."""
    return text.rpartition(")")[2].split()


def _stat(pid: int) -> list[str]:
    return parse_stat((PROC / str(pid) / "stat").read_text())


def process_tree(root: int) -> list[int]:
    """Return ``root`` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[_PARENT]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def session(leader: int) -> list[int]:
    """Return the processes of the session that ``leader`` made, which may itself have ended."""
    members = []
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if int(_stat(int(entry.name))[_SESSION]) == leader:
                    members.append(int(entry.name))
    return members


def usage(pids: Iterable[int]) -> Usage:
    """Read the CPU time of ``pids``; those that are gone are left out."""
    threads: dict[tuple[int, int], int] = {}
    processes: dict[int, float] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            processes[pid] = (int(fields[_USER]) + int(fields[_SYSTEM])) * _TICK
            for task in (PROC / str(pid) / "task").iterdir():
                threads[pid, int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return Usage(threads, processes)


def cpu_seconds(before: Usage, after: Usage) -> float:
    """Return the CPU seconds used between two readings.

    Exact to the nanosecond by thread. Where a thread ended meanwhile, or the kernel keeps no such figures, by
    process in steps of a tick: those figures include threads that ended.
    """
    if after.threads and before.threads.keys() <= after.threads.keys():
        return sum(ns - before.threads.get(key, 0) for key, ns in after.threads.items()) / 1e9
    return sum(seconds - before.processes.get(pid, 0.0) for pid, seconds in after.processes.items())


def busiest(before: Usage, after: Usage) -> int:
    """Return the process that used the most CPU between two readings: the worker."""
    spent = {pid: used - before.processes.get(pid, 0.0) for pid, used in after.processes.items()}
    for (pid, tid), ns in after.threads.items():
        spent[pid] += (ns - before.threads.get((pid, tid), 0)) / 1e9
    return max(spent, key=lambda pid: spent[pid])


def parse_smaps_rollup(text: str) -> Memory:
    """Return the resident and proportional sizes of a /proc/PID/smaps_rollup."""
    sizes = {}
    for line in text.splitlines()[1:]:
        name, _, size = line.partition(":")
        sizes[name] = int(size.split()[0])
    return Memory(sizes["Rss"], sizes["Pss"])


def memory(pids: Iterable[int]) -> Memory:
    """Return the summed memory of ``pids``; those that are gone are left out."""
    rss = pss = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            one = parse_smaps_rollup((PROC / str(pid) / "smaps_rollup").read_text())
            rss += one.rss
            pss += one.pss
    return Memory(rss, pss)


def parse_core_busy(text: str, core: int) -> float:
    """Return the seconds since boot that ``core`` was not idle, from the text of /proc/stat.

    Raises:
        KeyError: there is no such core.

    """
    for line in text.splitlines():
        name, *values = line.split()
        if name == f"cpu{core}":
            by_name = dict(zip(_CPU_FIELDS, map(int, values), strict=False))
            return sum(by_name[field] for field in _BUSY) * _TICK
    raise KeyError(core)


def core_busy(core: int) -> float:
    """Return the seconds since boot that ``core`` was not idle, whoever used it."""
    return parse_core_busy((PROC / "stat").read_text(), core)
