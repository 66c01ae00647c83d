"""An event loop that runs only when the test says so, on a clock that the test sets."""

from __future__ import annotations

import asyncio
from typing import Any

MOST_ROUNDS = 10_000


class ManualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with a clock of its own.

    `unhandled` collects what would have gone to the loop's exception handler: a test expects it to stay empty.
    """

    def __init__(self) -> None:
        self.clock = 1000.0
        super().__init__()
        self.unhandled: list[dict[str, Any]] = []
        # What waits refers to the loop, not the loop to it: until the end, it must not be collected as garbage.
        self.kept: list[object] = []
        self.set_exception_handler(self._keep)

    def time(self) -> float:
        """The clock, in seconds."""
        return self.clock

    def run_ready(self) -> None:
        """Run callbacks and timers until nothing is left that can run now."""
        for _ in range(MOST_ROUNDS):
            self.run_turn()
            if not self._ready:  # type: ignore[attr-defined]  # asyncio has no public way to ask
                return
        raise AssertionError("the loop does not come to rest")

    def run_turn(self) -> None:
        """Run what can run now, but not what that calls for."""
        self.call_soon(self.stop)
        self.run_forever()

    def advance(self, seconds: float) -> None:
        """Move the clock on, then run what is due."""
        self.clock += seconds
        self.run_ready()

    def close(self) -> None:
        """Cancel what still waits, and close."""
        if not self.is_closed():
            for task in asyncio.all_tasks(self):
                task.cancel()
            self.run_ready()
        super().close()
        self.kept.clear()

    def _keep(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # These two have left the loop already, through run_ready; their task tells of them once more at its end.
        if not isinstance(context.get("exception"), SystemExit | KeyboardInterrupt):
            self.unhandled.append(context)
