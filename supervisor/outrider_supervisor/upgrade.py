"""`outrider upgrade`: another supervisor in the place of this one, with the same process id, children and sockets.

The state is written to a memory file. A child of the new version reads it first, and says whether it could take over;
then this process becomes the new one by execve(2). Signals wait meanwhile: they are blocked until it has its handlers.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from outrider_supervisor.actions import Level
from outrider_supervisor.control import ControlServer
from outrider_supervisor.control_app import ControlApp
from outrider_supervisor.events import MasterExited, UpgradeFailed
from outrider_supervisor.exits import describe_exit, split_complaint
from outrider_supervisor.handled_signals import HANDLED_SIGNALS
from outrider_supervisor.listeners import Listeners
from outrider_supervisor.machine_state import load_machine, save_machine
from outrider_supervisor.masters import Master
from outrider_supervisor.report_inbox import ReportInbox
from outrider_supervisor.seam import Seam
from outrider_supervisor.service import Service
from outrider_supervisor.supervisor import Supervisor

CHECK = "--check"
CHECK_TIMEOUT = 30.0
EXEC_PATIENCE = 10.0
"""Seconds that the service manager gives the new supervisor until it is heard of."""
STATE_VERSION = 1


_LISTENER = {"address": list | str | int, "descriptor": int, "path": str, "identity": list | None, "backlog": int}
_WORKER = {"pid": int, "since": float, "state": str, "retired_at": float | None}
_GENERATION = {
    "number": int,
    "service": dict,
    "state": str,
    "target": int,
    "since": float,
    "has_master": bool,
    "booted_at": float,
    "kill_at": float | None,
    "failures": int,
    "retry_at": float,
    "workers": [_WORKER],
}
_MACHINE = {
    "generations": [_GENERATION],
    "current": int,
    "last_number": int,
    "target": int,
    "scaled_to": int | None,
    "waiting": [dict],
    "replacing": [int],
    "autoscaling": {
        "generation": int,
        "history": {
            "since": float | None,
            "moments": [list],
            "enough": [list],
            "shrunk_at": float | None,
            "patience": int,
        },
    },
}
_STATE = {
    "argv": [str],
    "name": str,
    "since": float,
    "scoreboard": int,
    "reports": [int],
    "machine": _MACHINE,
    "masters": [{"number": int, "pid": int, "channel": int}],
    "listeners": {"adopted": [int], "open": [_LISTENER]},
    "admin": [{"bind": str, "descriptor": int, "path": str, "identity": list | None, "backlog": int}],
    "control": {"directory": str, "managed": bool, "name": str, "descriptor": int, "identity": list | None},
    "tally": {"restarts": dict, "reloads": dict, "reload_seconds": dict, "target_changes": dict},
    "telemetry": {"history": {"pool": [dict], "workers": dict}, "processor_time": {"gone": float, "last": dict}},
    "pidfile": str | None,
    "log": {
        "errorlog": str,
        "loglevel": str,
        "log_format": str,
        "events": [{"at": float, "level": str, "text": str}],
        "recorded": int,
    },
}
"""What `resume` reads: lists of one shape, objects with at least these fields, and types as JSON has them."""


def check(state: dict[str, Any]) -> None:
    """See whether `resume` can read a state, without taking anything over.

    Raises:
        KeyError, TypeError, ValueError: it cannot.
    """
    _check_shape(state, _STATE, "state")
    ours_and_theirs = 2
    if len(state["reports"]) != ours_and_theirs:
        raise ValueError(f"state.reports has {len(state['reports'])} descriptors, not {ours_and_theirs}")
    machine = load_machine(state["machine"])
    for generation in machine.fleet.generations.values():
        _check_service(generation.service)


def _check_shape(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, dict):
        _check_shape(value, dict, where)
        for name, each in shape.items():
            if name not in value:
                raise ValueError(f"{where}.{name} is missing")
            _check_shape(value[name], each, f"{where}.{name}")
    elif isinstance(shape, list):
        _check_shape(value, list, where)
        for number, each in enumerate(value):
            _check_shape(each, shape[0], f"{where}[{number}]")
    else:
        kinds = typing.get_args(shape) or (shape,)
        is_number = type(value) is int and float in kinds  # JSON has 1 for 1.0; True is no number
        if type(value) not in kinds and not is_number:
            raise ValueError(f"{where} is of type {type(value).__name__}")


def _check_service(service: Service) -> None:
    for name, kind in typing.get_type_hints(Service).items():
        value = getattr(service, name)
        _check_shape(value, typing.get_origin(kind) if typing.get_origin(kind) is tuple else kind, f"service.{name}")


async def replace(supervisor: Supervisor) -> None:
    """Become the new supervisor; returns only if that failed, and has told the machine so, or if the service stops."""
    try:
        state = os.memfd_create("outrider-state")
        try:
            await _hand_over(supervisor, state)
        finally:
            os.close(state)
    except Exception as error:  # an upgrade that is never over would keep all operations waiting
        supervisor.journal.logger.exception("the supervisor cannot be replaced")
        supervisor.enqueue(UpgradeFailed(str(error)))


async def _hand_over(supervisor: Supervisor, state: int) -> None:
    _write(state, save(supervisor))
    complaint = await _check(supervisor, state)
    if complaint:
        _fail(supervisor, complaint)
        return
    if supervisor.machine.is_stopping:  # it was told so meanwhile, which a new one would not know
        return
    supervisor.finish_upgrade()
    supervisor.is_replaced = True
    try:
        await asyncio.gather(supervisor.seam.admin.suspend(), supervisor.control_server.suspend())
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        if not supervisor.machine.is_stopping:
            _write(state, save(supervisor))  # as it is now
            _become_new(supervisor, state)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
        supervisor.is_replaced = False
        if not supervisor.seam.ended.done():
            await supervisor.control_server.start()
            supervisor.seam.admin.go_on()


def _fail(supervisor: Supervisor, complaint: str) -> None:
    """Have the machine go on; a traceback goes to who asked, and to the log."""
    reason, details = split_complaint(complaint)
    if details:
        supervisor.journal.logger.error("the new supervisor does not start:\n%s", details)
    supervisor.enqueue(UpgradeFailed(reason, details))


def save(supervisor: Supervisor) -> dict[str, Any]:
    """All that the new supervisor needs, as plain data."""
    seam = supervisor.seam
    return {
        "version": STATE_VERSION,
        "argv": list(seam.argv),
        "name": supervisor.name,
        "since": supervisor.since,
        "machine": save_machine(supervisor.machine),
        "masters": [
            {"number": each.number, "pid": each.process.pid, "channel": each.channel.fileno()} for each in _living(seam)
        ],
        "scoreboard": seam.scoreboard,
        "reports": [end.fileno() for end in seam.reports.pair],
        "listeners": seam.listeners.to_state(),
        "control": supervisor.control_server.to_state(),
        "admin": seam.admin.to_state(),
        "tally": supervisor.tally.to_state(),
        "telemetry": seam.telemetry.to_state(),
        "pidfile": seam.pidfile.path,
        "log": seam.journal.to_state(),
        "stalls": supervisor.stalls.groups(),
    }


async def resume(supervisor: Supervisor, state: dict[str, Any]) -> None:
    """Go on where `state` was saved."""
    journal = supervisor.journal
    journal.take_state(state["log"])
    supervisor.stalls.take_state(state.get("stalls"))  # a supervisor that was started earlier may know nothing of them
    supervisor.name, supervisor.since = state["name"], state["since"]
    supervisor.machine = load_machine(state["machine"])
    seam, loop = supervisor.seam, supervisor.loop
    seam.take_listeners(Listeners.from_state(state["listeners"], supervisor.warn))
    seam.pidfile.path = state["pidfile"]
    ours, theirs = (_socket(each) for each in state["reports"])
    os.set_inheritable(state["scoreboard"], False)
    seam.open_shared(state["scoreboard"], ReportInbox(loop, supervisor.note_report, (ours, theirs)))
    app = ControlApp(supervisor, supervisor.feed)
    await supervisor.open_control(ControlServer.from_state(state["control"], app, journal.logger))
    current = supervisor.machine.current
    if current is not None:  # there is one: an upgrade waits for the first
        seam.admin.take_state(state["admin"], current.service)
    supervisor.tally.take_state(state["tally"])
    seam.telemetry.take_state(state["telemetry"])
    for each in state["masters"]:
        process = seam.children.adopt(each["pid"])
        seam.adopt_master(Master(each["number"], process, _socket(each["channel"]), loop, supervisor.enqueue))
    for generation in list(supervisor.machine.fleet.generations.values()):
        for pid in list(generation.workers):
            seam.workers.add(pid, seam.master_pids.get(generation.number) if generation.has_master else None)
        if generation.has_master and generation.number not in seam.masters:
            supervisor.enqueue(MasterExited(generation.number, "is gone"))  # while the supervisor was replaced
    supervisor.begin()
    journal.write(Level.INFO, f"supervisor of {supervisor.name} replaced in place ({os.getpid()})")


async def _check(supervisor: Supervisor, state: int) -> str:
    """Why the new supervisor cannot take over; empty if it can."""
    command = [sys.executable, "-P", "-m", "outrider_supervisor.main", CHECK, f"/proc/{os.getpid()}/fd/{state}"]
    try:
        child = await supervisor.seam.children.run(command, supervisor.seam.environ, CHECK_TIMEOUT)
    except OSError as error:
        return f"{sys.executable}: {error.strerror}"
    if child.timed_out:
        return f"it does not answer within {CHECK_TIMEOUT:g} s"
    return child.complaint or f"it {describe_exit(child.status)}" if child.status else ""


def _become_new(supervisor: Supervisor, state: int) -> NoReturn:
    seam = supervisor.seam
    descriptors = [
        state,
        seam.scoreboard,
        *(end.fileno() for end in seam.reports.pair),
        *(master.channel.fileno() for master in _living(seam)),
    ]
    supervisor.journal.flush()  # no thread lives on
    supervisor.manager.ask_for_time(EXEC_PATIENCE)
    try:
        _keep_over_exec(supervisor, descriptors, keep=True)
        os.execve(  # noqa: S606  # our own program
            sys.executable,
            [sys.executable, "-P", "-m", "outrider_supervisor.main", str(state)],
            dict(seam.environ),
        )
    finally:
        _keep_over_exec(supervisor, descriptors, keep=False)


def _keep_over_exec(supervisor: Supervisor, descriptors: Iterable[int], *, keep: bool) -> None:
    supervisor.seam.listeners.set_inheritable(keep)
    supervisor.control_server.set_inheritable(keep)
    supervisor.seam.admin.set_inheritable(keep)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, keep)


def _living(seam: Seam) -> list[Master]:
    """The masters but those that have been reaped, which is about to become an event."""
    return [each for each in seam.masters.values() if not each.process.has_exited]


def _socket(descriptor: int) -> socket.socket:
    found = socket.socket(fileno=descriptor)
    found.set_inheritable(False)
    return found


def _write(descriptor: int, state: dict[str, Any]) -> None:
    data = json.dumps(state).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, data, 0)


def read(path: str) -> dict[str, Any]:
    """The state in a file.

    Raises:
        ValueError: it is of another version.
    """
    state: dict[str, Any] = json.loads(Path(path).read_text())
    if state.get("version") != STATE_VERSION:
        raise ValueError(f"the state has version {state.get('version')}, this supervisor knows {STATE_VERSION}")
    return state
