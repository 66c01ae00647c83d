"""What somebody wants of the running service. `id` names who waits for the outcome; 0 is nobody."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Reload:
    """A new generation; with `canary` its first worker is judged, if the configuration wants that."""

    id: int
    canary: bool


@dataclass(slots=True)
class Scale:
    """Another number of workers, reached by the deadline."""

    id: int
    workers: int
    deadline: float = 0.0


@dataclass(slots=True)
class Recycle:
    """Another worker in the place of `pid`, or of each with 0. `left` are those still to be replaced, oldest first.

    The deadline is that of the next one to be replaced.
    """

    id: int
    pid: int
    left: deque[int] = field(default_factory=deque)
    count: int = 0
    deadline: float = 0.0


@dataclass(slots=True)
class Upgrade:
    """Another supervisor in the place of this one."""

    id: int


Intent = Reload | Scale | Recycle | Upgrade
