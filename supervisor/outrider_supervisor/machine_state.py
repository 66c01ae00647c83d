"""The machine as plain data and back: what a new supervisor takes over from the one it replaces.

Taken over are the generations with their workers, the target, and what signals have asked for meanwhile. Operations
that a client waits for are not: it is told to ask again.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from outrider_supervisor.generation import Generation, GenerationState, Worker, WorkerState
from outrider_supervisor.intents import Intent, Recycle, Reload, Scale, Upgrade
from outrider_supervisor.machine import Machine
from outrider_supervisor.service import Service
from outrider_supervisor.succession import FailedReload

_INTENTS: dict[str, type[Intent]] = {"reload": Reload, "scale": Scale, "recycle": Recycle, "upgrade": Upgrade}


def save_machine(machine: Machine) -> dict[str, Any]:
    """What `load_machine` reads. The machine is idle but for the upgrade itself."""
    failed = machine.succession.failed_reload
    return {
        "generations": [_save_generation(each) for each in machine.fleet.generations.values()],
        "current": machine.current.number if machine.current is not None else None,
        "last_number": machine.fleet.last_number,
        "target": machine.target,
        "scaled_to": machine.succession.scaled_to,
        "waiting": [_save_intent(each) for each in machine.waiting if not each.id],
        "replacing": sorted(machine.replacements.pids),
        "autoscaling": machine.autoscaling.to_state(),
        "failed_reload": dataclasses.asdict(failed) if failed is not None else None,
    }


def load_machine(saved: dict[str, Any]) -> Machine:
    """The machine that `save_machine` wrote down.

    Raises:
        KeyError, TypeError, ValueError: it was written by a version that this one cannot follow.
    """
    machine = Machine()
    fleet = machine.fleet
    for each in saved["generations"]:
        fleet.adopt(_load_generation(each))
    fleet.last_number = saved["last_number"]
    machine.succession.current = fleet.generations[saved["current"]]
    machine.succession.target = saved["target"]
    machine.succession.scaled_to = saved["scaled_to"]
    machine.replacements.pids = set(saved["replacing"])
    machine.autoscaling.take_state(saved["autoscaling"])
    failed = saved.get("failed_reload")  # a supervisor that was started earlier may know nothing of it
    machine.succession.failed_reload = FailedReload(**failed) if failed else None
    for each in saved["waiting"]:
        machine.agenda.add(_INTENTS[each.pop("kind")](**each), has_started=True)
    return machine


def _save_intent(intent: Intent) -> dict[str, Any]:
    match intent:
        case Reload(number, canary):
            return {"kind": "reload", "id": number, "canary": canary}
        case Scale(number, workers):
            return {"kind": "scale", "id": number, "workers": workers}
        case Recycle(number, pid):
            return {"kind": "recycle", "id": number, "pid": pid}
        case Upgrade(number):
            return {"kind": "upgrade", "id": number}


def _save_generation(generation: Generation) -> dict[str, Any]:
    return {
        "number": generation.number,
        "service": dataclasses.asdict(generation.service),
        "state": generation.state.value,
        "target": generation.target,
        "since": generation.since,
        "has_master": generation.has_master,
        "booted_at": generation.booted_at,
        "kill_at": generation.kill_at,
        "failures": generation.failures,
        "retry_at": generation.retry_at,
        "workers": [
            {"pid": each.pid, "since": each.since, "state": each.state.value, "retired_at": each.retired_at}
            for each in generation.workers.values()
        ],
    }


def _load_generation(saved: dict[str, Any]) -> Generation:
    workers = [
        Worker(each["pid"], each["since"], WorkerState(each["state"]), each["retired_at"]) for each in saved["workers"]
    ]
    return Generation(
        number=saved["number"],
        service=Service.from_fields(saved["service"]),
        state=GenerationState(saved["state"]),
        target=saved["target"],
        since=saved["since"],
        has_master=saved["has_master"],
        is_booted=True,
        booted_at=saved["booted_at"],
        kill_at=saved["kill_at"],
        failures=saved["failures"],
        retry_at=saved["retry_at"],
        heard_at=saved["since"],  # long ago: that it hangs is seen a while after the first look
        workers={worker.pid: worker for worker in workers},
    )
