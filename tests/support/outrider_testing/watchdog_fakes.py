"""What the tests of the watchdog share: a log in memory, a switch that only notes, and a watchdog on a fake clock."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from outrider.dead_man import DeadManSwitch
from outrider.watchdog import Watchdog

PATIENCE = 10.0


class MemoryLog:
    """Keeps what is logged, formatted as logging does."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.stalls: list[dict[str, Any]] = []
        """What the records carried for the supervisor."""
        self.written = threading.Event()

    def warning(self, msg: str, *args: object, extra: Mapping[str, Any] | None = None) -> None:
        self._keep("warning", msg % args, extra)

    def critical(self, msg: str, *args: object, extra: Mapping[str, Any] | None = None) -> None:
        self._keep("critical", msg % args, extra)

    def exception(self, msg: str, *args: object) -> None:
        self._keep("exception", f"{msg % args}: {sys.exc_info()[1]!r}")

    def _keep(self, level: str, line: str, extra: Mapping[str, Any] | None = None) -> None:
        if extra is not None:
            assert extra["report"] == "stall"
            self.stalls += extra["report_data"]
        self.lines.append((level, line))
        self.written.set()


class RecordingSwitch(DeadManSwitch):
    """Notes when it was armed."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.armed: list[tuple[float, bool]] = []
        self.disarmed = 0

    def arm(self, seconds: float, *, exit: bool) -> None:  # noqa: A002  # faulthandler's name for it
        self.armed.append((seconds, exit))

    def disarm(self) -> None:
        self.disarmed += 1


class Bench:
    """A watchdog on a fake clock."""

    def __init__(
        self,
        stall_warning: float = 0,
        timeout: float = 0,
        describe: Callable[[], str | list[str]] = lambda: ["GET /slow"],
        cpu_clock: Callable[[], float] | None = None,
    ) -> None:
        self.now = 100.0
        self.cpu = 0.0
        self.log = MemoryLog()
        self.switch = RecordingSwitch()
        self.watchdog = Watchdog(
            self.log,
            describe,
            stall_warning,
            timeout,
            clock=lambda: self.now,
            cpu_clock=cpu_clock or (lambda: self.cpu),
            dead_man=self.switch,
        )

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.now += 0.25
            self.watchdog.check()
