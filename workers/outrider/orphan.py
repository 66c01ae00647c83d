"""A worker must not outlive its master, even where no Python code of the worker can run to notice."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def die_with_parent(parent: int, sig: signal.Signals | None) -> None:
    """Have the kernel send `sig` to this process when its parent dies; None takes that back.

    It is for the boot, when an import may hang for ever: later the tick and the watchdog look after it. `parent` is
    the process that must still be there, since it may have died before the call (PR_SET_PDEATHSIG(2const)). A system
    without prctl has only the tick and the watchdog.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        return
    prctl(_PR_SET_PDEATHSIG, 0 if sig is None else int(sig), 0, 0, 0)
    if sig is not None and os.getppid() != parent:
        os.kill(os.getpid(), sig)
