"""For how long an event loop has been busy: all the time in which it was not waiting for events.

Each kind of loop can say how long it has waited. libuv measures its own waits (it is what Node's "event loop
utilization" is made of), and asyncio's loop waits in a selector, which can be timed. So a call that blocks counts as
much as one that computes, however short it is, and nothing has to run for it. For a loop of another kind there are the
processor time of its thread and the lateness of a timer, which see no blocking call that is shorter than a tick.
"""

from __future__ import annotations

import asyncio
import ctypes
import selectors
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_UV_METRICS_IDLE_TIME = 1  # of uv_loop_option


class BusyMeter(Protocol):
    """Measures one loop, whose thread calls it."""

    def take(self, lag_ns: int) -> int:
        """Return for how many nanoseconds the loop was busy since the last call; `lag_ns`: how late this one is."""


class WaitMeter:
    """Takes a loop for busy while it does not wait."""

    def __init__(self, waited_ns: Callable[[], int], clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Take what returns the total time of waiting, in nanoseconds, and a clock."""
        self._waited_ns = waited_ns
        self._clock = clock
        self._busy = clock() - waited_ns()

    def take(self, lag_ns: int) -> int:
        before, self._busy = self._busy, self._clock() - self._waited_ns()
        return max(0, self._busy - before)


class CPUMeter:
    """Takes a loop for busy while its thread uses the processor, or while a tick is late."""

    def __init__(self, cpu_ns: Callable[[], int] = time.thread_time_ns) -> None:
        self._cpu_ns = cpu_ns
        self._cpu = cpu_ns()

    def take(self, lag_ns: int) -> int:
        before, self._cpu = self._cpu, self._cpu_ns()
        return max(self._cpu - before, lag_ns)


class TimedSelector(selectors.DefaultSelector):
    """Knows how long it has waited, in nanoseconds."""

    waited_ns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        start = time.monotonic_ns()
        try:
            return super().select(timeout)
        finally:
            self.waited_ns += time.monotonic_ns() - start


class TimedLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a selector that knows how long it has waited."""

    def __init__(self) -> None:
        self.selector = TimedSelector()
        super().__init__(self.selector)


def make_meter(loop: asyncio.AbstractEventLoop) -> BusyMeter:
    """Return the best meter there is for this loop. To be called, and used, until the loop is closed."""
    waited_ns: Callable[[], int] | None = None
    if isinstance(loop, TimedLoop):
        waited_ns = partial(getattr, loop.selector, "waited_ns")
    elif (module := sys.modules.get("uvloop.loop")) is not None and isinstance(loop, module.Loop):
        waited_ns = _libuv_clock(loop, module)
    return CPUMeter() if waited_ns is None else WaitMeter(waited_ns)


def _libuv_clock(loop: asyncio.AbstractEventLoop, module: Any) -> Callable[[], int] | None:
    """Have libuv measure its waits from now on; what returns their total, None where uvloop does not let us.

    A wait then costs one more look at the sockets, which takes no time that a loop under load would have.
    """
    try:
        capsule = module.libuv_get_loop_t_ptr(loop)
        library = ctypes.PyDLL(module.__file__)  # keeps the interpreter lock: the calls are that short
        configure, idle_time = library.uv_loop_configure, library.uv_metrics_idle_time
    except (AttributeError, OSError):
        return None
    address_of = ctypes.pythonapi.PyCapsule_GetPointer
    address_of.argtypes, address_of.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
    configure.argtypes = (ctypes.c_void_p, ctypes.c_int)
    idle_time.argtypes, idle_time.restype = (ctypes.c_void_p,), ctypes.c_uint64
    address = address_of(capsule, None)
    return None if configure(address, _UV_METRICS_IDLE_TIME) else partial(idle_time, address)
