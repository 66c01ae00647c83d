"""What a container may use, by its control groups: processor time and memory. Versions 1 and 2 (cgroups(7)).

A limit may be set at any level: the lowest one on the way up counts. Inside a container the path in /proc/self/cgroup
is often one of the host that cannot be seen here; then the group is the root of what is mounted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60
"""Version 1 has a number of about 2**63 where there is no limit of memory."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `used` is without the page cache, of which the kernel would give back what is not in active use."""

    limit: int
    used: int

    @property
    def room(self) -> int:
        """How much more may be used."""
        return max(0, self.limit - self.used)


class ControlGroup:
    """The groups of this process. Limits are read anew each time: they may be changed while it runs."""

    def __init__(self, root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> None:
        """Find the groups.

        Args:
            root: where the hierarchies are mounted.
            membership: the file that names this process's group in each of them.
        """
        self._unified: Path | None = None
        self._by_controller: dict[str, Path] = {}
        self._root = root
        for line in _read(membership).splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                self._find(controller, path.lstrip("/"))

    def _find(self, controller: str, path: str) -> None:
        if controller:
            hierarchy = self._root / controller
            if hierarchy.is_dir():
                self._by_controller[controller] = _existing(hierarchy, path)
        elif (self._root / "cgroup.controllers").is_file():
            self._unified = _existing(self._root, path)

    def cores(self) -> float:
        """How many cores' time may be used; infinite without a limit."""
        if self._unified is not None:
            shares = [_quota(*_read(group / "cpu.max").split()[:2]) for group in self._levels(self._unified)]
        else:
            shares = [
                _quota(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))
                for group in self._levels(self._by_controller.get("cpu"))
            ]
        return min(shares, default=math.inf)

    def memory(self) -> Memory | None:
        """The limit that is closest to be reached, and what is used of it; None without a limit."""
        version2 = self._unified is not None
        limit, usage = ("memory.max", "memory.current") if version2 else _VERSION1_MEMORY
        inactive = "inactive_file" if version2 else "total_inactive_file"
        found = []
        for group in self._levels(self._unified if version2 else self._by_controller.get("memory")):
            most, used = _number(_read(group / limit)), _number(_read(group / usage))
            if most is not None and used is not None and most < _UNLIMITED:
                found.append(Memory(most, max(0, used - _stat(group, inactive))))
        return min(found, key=lambda memory: memory.room, default=None)

    def _levels(self, group: Path | None) -> Iterator[Path]:
        """The group and those it is in."""
        while group is not None:
            yield group
            group = group.parent if group.parent.is_relative_to(self._root) and group != self._root else None


_VERSION1_MEMORY = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def usable_cores(group: ControlGroup) -> float:
    """How many cores this process and its children may use: by affinity, and by the limit of their group."""
    return min(float(len(os.sched_getaffinity(0))), group.cores())


def _existing(hierarchy: Path, path: str) -> Path:
    group = hierarchy / path
    return group if ".." not in path.split("/") and group.is_dir() else hierarchy


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


def _quota(quota: str = "", period: str = "") -> float:
    """Cores; infinite where the file says "max" or -1, or is not there, as in the root."""
    most, length = _number(quota), _number(period)
    return most / length if most and length else math.inf


def _stat(group: Path, name: str) -> int:
    for line in _read(group / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _number(value) or 0
    return 0
