"""The line about the service that `systemctl status` shows."""

from __future__ import annotations

import time

from outrider_supervisor.counting import count
from outrider_supervisor.generation import Generation, GenerationState
from outrider_supervisor.intents import Reload
from outrider_supervisor.machine import Machine
from outrider_supervisor.status_report import Clocks

MOST_CHARACTERS = 199
LONGEST_REASON = 110


def describe(machine: Machine, in_flight: int, clocks: Clocks) -> str:
    """What the service does, in one line of at most `MOST_CHARACTERS`.

    Args:
        machine: the state of the service.
        in_flight: requests that are being answered; only the end of the service shows them.
        clocks: this moment.
    """
    if machine.succession.boot_failure:
        text = f"Failed to start: {machine.succession.boot_failure}"
    elif machine.is_stopping:
        text = _describe_stop(machine, in_flight, clocks)
    elif machine.current is None:
        text = _describe_start(machine)
    elif machine.rollout is not None or machine.is_reading:
        text = _describe_reload(machine, machine.current)
    else:
        text = _describe_service(machine, machine.current, clocks) + _describe_failure(machine, clocks)
    return _cut(" ".join(text.split()), MOST_CHARACTERS)


def _describe_start(machine: Machine) -> str:
    generations = machine.fleet.generations.values()
    if not generations:
        return "Starting: reading the configuration"
    if not any(each.is_booted for each in generations):
        return "Starting: the master is booting"
    return f"Starting: {machine.fleet.capacity} of {count(machine.target, 'worker')} ready"


def _describe_service(machine: Machine, current: Generation, clocks: Clocks) -> str:
    what = "Degraded: serving" if machine.is_degraded else "Serving"
    text = f"{what} with {current.ready} of {count(machine.target, 'worker')} (generation {current.number})"
    faults = [*machine.faults]
    if current.is_backing_off(clocks.monotonic):
        retry = _format(clocks.to_wall(current.retry_at), "%H:%M:%S")
        faults.append(f"{count(current.failures, 'failure')} in a row, the next start is at {retry}")
    if faults:
        text += f", {', '.join(faults)}"
    if machine.operation is None or isinstance(machine.operation, Reload):  # one whose outcome is known
        return text
    return f"{text}; {type(machine.operation).__name__.lower()} under way"


def _describe_failure(machine: Machine, clocks: Clocks) -> str:
    failed = machine.succession.failed_reload
    if failed is None:
        return ""
    when = _format(clocks.to_wall(failed.at), "%Y-%m-%d %H:%M")
    return f"; reload of {when} {failed.outcome}: {failed.reason}"


def _describe_reload(machine: Machine, current: Generation) -> str:
    rollout = machine.rollout
    what = "Reloading" if current.has_master else "Recovering"
    serving = f"{count(machine.fleet.capacity, 'worker')} serving"
    if rollout is None:
        return f"{what}: reading the configuration; {serving}"
    new = rollout.new
    step = f"{new.ready} of {count(machine.target, 'worker')} ready"
    match new.state:
        case GenerationState.CANARY:
            step = f"canary for {new.service.canary_seconds:g} s"
        case GenerationState.ROLLING_BACK:
            step = f"going back: {_cut(rollout.failure, LONGEST_REASON)}"
        case GenerationState.STARTING if not new.is_booted:
            step = "the master is booting"
    return f"{what}: generation {new.number}, {step}; {serving}"


def _describe_stop(machine: Machine, in_flight: int, clocks: Clocks) -> str:
    workers = sum(len(each.workers) for each in machine.fleet.generations.values())
    kills = [each.kill_at for each in machine.fleet.generations.values() if each.kill_at is not None]
    left = f"{count(in_flight, 'request')} in flight, {count(workers, 'worker')} left"
    if machine.serves_on_until is not None:
        left = f"serving on until {_format(clocks.to_wall(machine.serves_on_until), '%H:%M:%S')}, {left}"
    elif kills:
        left += f", until {_format(clocks.to_wall(max(kills)), '%H:%M:%S')} at the latest"
    return f"Stopping: {left}"


def _format(unix_time: float, form: str) -> str:
    return time.strftime(form, time.localtime(unix_time))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
