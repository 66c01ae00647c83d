"""How processes end, in words."""

from __future__ import annotations

import signal

_MEANINGS = {
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
    return describe_exit(status) + _MEANINGS.get(status, "")


def split_complaint(complaint: str) -> tuple[str, str]:
    """What a process wrote before it failed as a sentence, and the whole of it where that says more.

    The last line is the sentence: of a traceback it says what was raised.
    """
    sentence = complaint.rpartition("\n")[2]
    return sentence, complaint if sentence != complaint else ""
