"""Whether the service manager's watchdog is fed: it restarts the whole service when it is not.

A restart cuts every request, and runs the code that is on disk. So it is for a service that is dead: nobody has served
for longer than it takes to notice and to replace whoever hangs, and nothing that has its own end is under way.
"""

from __future__ import annotations

from collections.abc import Mapping

from outrider_supervisor.fleet import OVERTIME
from outrider_supervisor.generation import Generation, Worker, WorkerState
from outrider_supervisor.machine import Machine

GRACE = 10.0
"""Seconds for which the watchdog is still fed once nobody serves: a worker that died is replaced sooner."""


def is_alive(machine: Machine, heartbeats: Mapping[int, float], now: float) -> bool:
    """Whether somebody serves, or is legitimately on the way.

    A start, reload or stop has a limit of its own, and so has whatever brings workers back: a boot (`boot_timeout`),
    the pause after failures, another generation in the place of one whose master is gone.

    Args:
        machine: the state of the service.
        heartbeats: when the loop of each worker last ran, by pid; a worker without one is its master's affair alone.
        now: on the monotonic clock, as the heartbeats are.
    """
    deadline = machine.deadline
    if deadline is not None and now <= deadline:
        return True
    if machine.is_stopping:
        return False
    if machine.current is None:
        return deadline is None  # there is nothing yet: the configuration has only just been read
    if not machine.current.has_master:
        return True  # a recovery is on its way
    return any(_has_prospects(each, heartbeats, now) for each in machine.fleet.generations.values())


def _has_prospects(generation: Generation, heartbeats: Mapping[int, float], now: float) -> bool:
    if generation.is_backing_off(now):
        return True
    return any(_is_sound(worker, generation, heartbeats, now) for worker in generation.workers.values())


def _is_sound(worker: Worker, generation: Generation, heartbeats: Mapping[int, float], now: float) -> bool:
    service = generation.service
    match worker.state:
        case WorkerState.BOOTING:
            return now - worker.since <= service.boot_timeout + OVERTIME
        case WorkerState.READY | WorkerState.STUCK:
            # One that hangs is soon killed and replaced; with timeout=0 nobody is to be killed for that.
            silent = now - heartbeats.get(worker.pid, now)
            return not service.timeout or silent <= service.timeout + OVERTIME
        case WorkerState.RETIRING:
            return False
