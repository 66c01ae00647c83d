"""Exit statuses: those of the `outrider` command, and in words how a process has ended."""

from __future__ import annotations

import signal
from enum import IntEnum
from typing import Self


class Exit(IntEnum):
    """The exit statuses of `outrider`; `meaning` is what `--help` and docs/reference/exit-codes.md say."""

    meaning: str

    DONE = 0, "Done. `reload`: the new generation serves. `run`: the service was stopped."
    FAILED = (
        1,
        (
            "It failed: it was refused, rolled back, or ended by a stop. `run`: the configuration can't be used. "
            "`check`: nor can the application. `status --ready`: it is not ready, or nobody answers."
        ),
    )
    USAGE = 2, "The command line is wrong. (What is wrong in `gunicorn.conf.py` or `GUNICORN_CMD_ARGS` is 1.)"
    UNREACHABLE = 3, "No supervisor answered, or it went away or fell silent. `run`: the first workers could not boot."
    BOOT_FAILED = UNREACHABLE  # of `run`; gunicorn's WORKER_BOOT_ERROR
    SUPERSEDED = 4, "A newer operation of the same kind took its place."
    INTERRUPTED = 130, "Ctrl-C; the operation goes on."

    def __new__(cls, status: int, meaning: str) -> Self:
        """A status with its meaning."""
        member = int.__new__(cls, status)
        member._value_ = status
        member.meaning = meaning
        return member


WORKER_MEANINGS = {
    3: " (failed to boot)",
    4: " (failed to load the application)",
    -signal.SIGKILL: ", perhaps out of memory",
}


def describe_exit(status: int | None) -> str:
    """Say how a process ended, so that it reads on from "the master ".

    Args:
        status: its exit code, or minus the signal that killed it; None if it was another process's child.
    """
    if status is None:
        return "is gone"
    if status >= 0:
        return f"exited with code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def describe_worker_exit(status: int) -> str:
    """The same of a worker, whose exit codes are gunicorn's: with what it means."""
    return describe_exit(status) + WORKER_MEANINGS.get(status, "")


def split_complaint(complaint: str) -> tuple[str, str]:
    """What a process wrote before it failed as a sentence, and the whole of it where that says more.

    The last line is the sentence: of a traceback it says what was raised.
    """
    sentence = complaint.rpartition("\n")[2]
    return sentence, complaint if sentence != complaint else ""
