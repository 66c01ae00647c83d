"""The machine as plain data and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from outrider_supervisor.actions import Kill, Log, ReadConfiguration, Tell
from outrider_supervisor.events import (
    ConfigurationRead,
    ConfigurationRefused,
    FromGeneration,
    MasterExited,
    Observed,
    RecycleAsked,
    ReloadAsked,
    ScaleAsked,
    Started,
    UpgradeAsked,
)
from outrider_supervisor.generation import GenerationState, WorkerState
from outrider_supervisor.intents import Recycle, Reload, Scale, Upgrade
from outrider_supervisor.machine import Machine
from outrider_supervisor.machine_state import load_machine, save_machine
from outrider_supervisor.messages import BackingOff, MasterBooted, SetTarget, WorkerReady, WorkerRetiring, WorkerSpawned
from outrider_supervisor.succession import FailedReload
from outrider_testing.services import make_service

SERVICE = make_service(workers=2, canary=False, addresses=(("::1", 8000), "/run/web.sock", 3), notes=("a note",))


def started() -> Machine:
    """A machine with two workers, 11 and 12, of generation 1."""
    machine = Machine()
    machine.handle(Started(SERVICE), 100.0)
    machine.handle(FromGeneration(1, MasterBooted()), 100.5)
    serve(machine, 1, 11, 12)
    return machine


def serve(machine: Machine, number: int, *pids: int) -> None:
    for pid in pids:
        machine.handle(FromGeneration(number, WorkerSpawned(pid, 0)), 101.0)
        machine.handle(FromGeneration(number, WorkerReady(pid)), 102.0)


def over(machine: Machine) -> Machine:
    """What arrives on the other side of an execve."""
    return load_machine(json.loads(json.dumps(save_machine(machine))))


def test_generation_and_its_workers_survive() -> None:
    machine = started()
    machine.handle(FromGeneration(1, WorkerRetiring(11)), 103.0)
    successor = over(machine)
    assert successor.current is successor.fleet.generations[1]
    assert machine.current is not None
    # What it said last was said to another supervisor, which will look for itself.
    for worker in machine.current.workers.values():
        worker.accepts = False
    assert successor.current == dataclasses.replace(machine.current, heard_at=machine.current.since)
    assert successor.current.service == SERVICE
    assert [each.state for each in successor.current.workers.values()] == [WorkerState.RETIRING, WorkerState.READY]
    assert (successor.target, successor.state) == (2, "serving")


def test_wait_for_the_next_worker_survives() -> None:
    machine = started()
    machine.handle(FromGeneration(1, BackingOff(3, 4.0)), 103.0)
    assert over(machine).fleet.generations[1].is_backing_off(106.0)
    assert over(machine).fleet.generations[1].failures == 3


def test_old_generation_goes_on_ending() -> None:
    machine = started()
    machine.handle(ReloadAsked(0, canary=False), 110.0)
    machine.handle(ConfigurationRead(SERVICE), 111.0)
    serve(machine, 2, 21, 22)
    assert machine.current is not None
    assert machine.current.number == 2
    successor = over(machine)
    old = successor.fleet.generations[1]
    assert old.state is GenerationState.RETIRING
    assert old.kill_at is not None
    assert old.kill_at == machine.fleet.generations[1].kill_at
    done = successor.handle(Observed({}), old.kill_at)
    assert Kill(1, (11, 12)) in done


def test_numbers_of_generations_go_on() -> None:
    machine = over(over(started()))
    machine.handle(ReloadAsked(0, canary=False), 110.0)
    machine.handle(ConfigurationRead(SERVICE), 111.0)
    assert sorted(machine.fleet.generations) == [1, 2]


def test_target_that_was_scaled_to_survives_and_is_not_told_again() -> None:
    machine = started()
    machine.handle(ScaleAsked(0, 3), 110.0)
    serve(machine, 1, 13)
    assert machine.operation is None
    successor = over(machine)
    assert (successor.target, successor.succession.scaled_to) == (3, 3)
    assert not [each for each in successor.handle(Observed({}), 111.0) if isinstance(each, Tell)]
    assert Tell(1, SetTarget(4)) in successor.handle(ScaleAsked(0, 4), 112.0)


def test_workers_that_are_being_replaced_are_not_replaced_once_more() -> None:
    machine = started()
    machine.replacements.pids.add(11)
    assert over(machine).replacements.pids == {11}


def test_what_signals_have_asked_for_is_done_by_the_successor() -> None:
    machine = started()
    machine.handle(UpgradeAsked(7), 110.0)
    for event in (ReloadAsked(0, canary=True), ScaleAsked(0, 3), RecycleAsked(0, 12), UpgradeAsked(0)):
        machine.handle(event, 110.0)
    successor = over(machine)
    assert successor.operation is None
    assert successor.waiting == (Reload(0, canary=True), Scale(0, 3), Recycle(0, 12), Upgrade(0))
    assert ReadConfiguration() in successor.handle(Observed({}), 111.0)


def test_what_a_client_waits_for_is_not_done_by_the_successor() -> None:
    machine = started()
    machine.handle(UpgradeAsked(7), 110.0)
    machine.handle(ReloadAsked(8, canary=True), 110.0)
    successor = over(machine)
    successor.handle(Observed({}), 111.0)
    assert (successor.waiting, successor.operation) == ((), None)


def test_generation_without_master_is_recovered() -> None:
    machine = started()
    machine.handle(MasterExited(1, "was killed by SIGKILL"), 110.0)
    successor = over(machine)
    assert successor.current is not None
    assert not successor.current.has_master
    assert any(isinstance(each, Log) and "degraded" in each.text for each in successor.handle(Observed({}), 111.0))
    assert successor.operation is not None


@pytest.mark.parametrize(
    "change, error",
    [
        ({"generations": [{}]}, KeyError),
        ({"current": 9}, KeyError),
        ({"generations": None}, TypeError),
        ({"replacing": None}, TypeError),
        ({"waiting": None}, TypeError),
        ({"waiting": [{"kind": "explode"}]}, KeyError),
        ({"waiting": [{"kind": "scale", "id": 0}]}, TypeError),
    ],
)
def test_state_that_cannot_be_followed_is_an_error(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        load_machine({**save_machine(started()), **change})


@pytest.mark.parametrize(
    "change, error",
    [
        ({"state": "unheard of"}, ValueError),
        ({"service": {"addresses": [], "notes": [], "new": 1}}, TypeError),
        ({"workers": [{"pid": 1}]}, KeyError),
    ],
)
def test_generation_that_cannot_be_followed_is_an_error(change: dict[str, Any], error: type[Exception]) -> None:
    saved = save_machine(started())
    saved["generations"][0].update(change)
    with pytest.raises(error):
        load_machine(saved)


def test_reload_that_failed_is_remembered() -> None:
    machine = started()
    machine.handle(ReloadAsked(0, canary=False), 110.0)
    machine.handle(ConfigurationRefused("no such module"), 111.0)
    assert over(machine).succession.failed_reload == FailedReload("refused", "no such module", 111.0)
    assert over(started()).succession.failed_reload is None


def test_state_of_a_supervisor_that_remembers_no_failure_is_taken_over() -> None:
    saved = save_machine(started())
    del saved["failed_reload"]
    assert load_machine(saved).succession.failed_reload is None
