"""What a process costs while something is done to it: CPU and resident memory, as the kernel counts them."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import psutil

MEBIBYTE = 1 << 20


class Footprint:
    """Measures the process `pid` between entering and leaving.

    `cpu` is in seconds; `growth` is in bytes, and is how far its resident memory is above the first, at the highest of
    all moments at which `look` was called and the end.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.cpu = 0.0
        self.growth = 0

    def __enter__(self) -> Self:
        self._cpu = self._total_cpu()
        self._memory = self._process.memory_info().rss
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.look()
        self.cpu = self._total_cpu() - self._cpu

    def look(self) -> None:
        """Take the memory of this moment into account."""
        self.growth = max(self.growth, self._process.memory_info().rss - self._memory)

    def _total_cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
