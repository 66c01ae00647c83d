"""The loads that the rules are replayed against. Rates are given as demand: loops that would be busy all the time."""

from __future__ import annotations

import math
from collections.abc import Callable

from autoscale.model import Trace, Work

ORDINARY = Work(cpu=0.02, blocking=0.0, waiting=0.06)
SLOW_DEPENDENCY = Work(cpu=0.02, blocking=0.0, waiting=2.0)
BLOCKING = Work(cpu=0.002, blocking=0.078, waiting=0.0)


def _of(demand: Callable[[float], float], work: Work = ORDINARY) -> Callable[[float], float]:
    return lambda at: demand(at) / work.loop


def _ordinary(_at: float) -> Work:
    return ORDINARY


def _between(at: float, begin: float, end: float, inside: float, outside: float) -> float:
    return inside if begin <= at < end else outside


def _ramp(at: float) -> float:
    up, down = (at - 180) / 300, (900 - at) / 300
    return 0.4 + 4.2 * max(0.0, min(1.0, up, down))


def _diurnal(at: float) -> float:
    return 2.4 - 2.1 * math.cos(2 * math.pi * (at - 120) / 1200)


TRACES = (
    Trace("constant", 1020, _of(lambda _at: 1.6), _ordinary),
    Trace("step", 960, _of(lambda at: _between(at, 180, 540, 3.2, 0.4)), _ordinary),
    Trace("ramp", 1140, _of(_ramp), _ordinary),
    Trace("spike", 900, _of(lambda at: _between(at, 300, 330, 4.5, 0.4)), _ordinary),
    Trace("diurnal", 1320, _of(_diurnal), _ordinary),
    Trace("flapping", 1020, _of(lambda at: 2.4 if at % 60 >= 30 else 0.8), _ordinary),
    Trace(
        "slow dependency",
        900,
        _of(lambda _at: 0.9),
        lambda at: SLOW_DEPENDENCY if 200 <= at < 600 else ORDINARY,
    ),
    Trace("blocking handler", 900, _of(lambda at: _between(at, 180, 600, 2.4, 0.4), BLOCKING), lambda _at: BLOCKING),
    Trace("boot 5 s", 960, _of(lambda at: _between(at, 180, 540, 3.2, 0.4)), _ordinary, boot=5.0),
)
"""`constant` is for the count of direction changes; it is not one of those that are compared."""
