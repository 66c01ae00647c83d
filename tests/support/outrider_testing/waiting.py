"""Wait for a condition with a deadline: the one place where a test passes time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_INTERVAL = 0.01
PATIENCE = 20.0
"""Seconds to wait for what must come. How long it takes on a busy machine is not what is tested."""
_never = threading.Event()


def until(
    condition: Callable[[], T], deadline: float = PATIENCE, *, what: str = "", explain: Callable[[], str] = lambda: ""
) -> T:
    """Call `condition` until it returns something true, and return that.

    `deadline` is in seconds from now. Raises TimeoutError naming `what` when it passes, with what `explain` says then,
    such as a log.
    """
    end = time.monotonic() + deadline
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= end:
            message = f"not within {deadline} s: {what or getattr(condition, '__name__', condition)}"
            raise TimeoutError("\n".join(filter(None, [message, explain()])))
        _never.wait(POLL_INTERVAL)
