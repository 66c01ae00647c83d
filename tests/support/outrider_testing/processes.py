"""The process table in /proc: who runs in a session, who is whose child."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

ZOMBIE = "Z"


@dataclass(frozen=True)
class Process:
    """One row of the process table."""

    pid: int
    state: str
    parent: int
    session: int


def read_process(pid: int) -> Process | None:
    """Return the process `pid`, or None when there is none (proc(5), /proc/pid/stat)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may hold spaces and parentheses itself.
    state, parent, _group, session = text.rpartition(")")[2].split()[:4]
    return Process(pid, state, int(parent), int(session))


def process_table() -> list[Process]:
    """Return every process, zombies included."""
    found = (read_process(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for process in found if process is not None]


def processes() -> list[Process]:
    """Return every process that has not been reduced to a zombie."""
    return [process for process in process_table() if process.state != ZOMBIE]


def is_running(pid: int) -> bool:
    """Tell whether `pid` still executes; a zombie that waits to be reaped does not."""
    process = read_process(pid)
    return process is not None and process.state != ZOMBIE


def children(parent: int) -> list[int]:
    """Return the pids of the living children of `parent`, lowest first."""
    return sorted(process.pid for process in processes() if process.parent == parent)


def all_children(parent: int) -> set[int]:
    """Return the pids of the children of `parent`, zombies included."""
    return {process.pid for process in process_table() if process.parent == parent}


def session_members(session: int) -> list[int]:
    """Return the pids that live in a session, whoever their parent is by now."""
    return sorted(process.pid for process in processes() if process.session == session)


def signal_session(session: int, number: signal.Signals) -> None:
    """Send a signal to all that live in a session."""
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def zombies(session: int) -> list[int]:
    """Return the pids in a session that have ended and that nobody has waited for."""
    return sorted(each.pid for each in process_table() if each.session == session and each.state == ZOMBIE)
