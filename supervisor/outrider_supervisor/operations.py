"""A long operation between the supervisor, which reports on it, and the one client that waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

MOST_UNREAD = 1000
"""Lines of progress that are kept for a reader; the oldest are dropped, so that nobody needs to read."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended. `code` is stable, for scripts; `message` is one sentence; `details` may be a log."""

    ok: bool
    code: str
    message: str
    details: str = ""


class Operation:
    """One operation. The supervisor calls `progress` and at last `finish`; one reader iterates over the lines.

    The reader may come late, leave early, or not come at all: the operation does not depend on it.
    """

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self._unread: deque[str] = deque(maxlen=MOST_UNREAD)
        self._changed = asyncio.Event()

    def progress(self, text: str) -> None:
        """Tell the reader how it goes; after the end it is ignored."""
        if self.outcome is None:
            self._unread.append(text)
            self._changed.set()

    def finish(self, outcome: Outcome) -> None:
        """End the operation; the first outcome counts."""
        if self.outcome is None:
            self.outcome = outcome
            self._changed.set()

    async def lines(self, patience: float) -> AsyncIterator[dict[str, Any] | None]:
        """The lines as they come, ready for JSON: `{"progress": text}` ..., and last the fields of the outcome.

        None stands for `patience` seconds in which nothing happened.
        """
        while True:
            while self._unread:
                yield {"progress": self._unread.popleft()}
            if self.outcome is not None:
                yield asdict(self.outcome)
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._changed.wait()
            except TimeoutError:
                yield None
