"""What a supervisor hands over to the one that replaces it, and whether the old one goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from outrider_supervisor import control_commands as commands
from outrider_supervisor.handled_signals import HANDLED_SIGNALS
from outrider_supervisor.messages import SetTarget, WorkerReady
from outrider_testing.fake_masters import SupervisorScene


def inheritable() -> set[int]:
    """The descriptors of this process that an execve would leave open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if os.get_inheritable(int(entry.name)):
                found.add(int(entry.name))
        except OSError:  # that of the listing
            continue
    return found


def blocked() -> set[int]:
    """Which of the supervisor's signals are blocked."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ())) & set(HANDLED_SIGNALS)


def descriptors_of(state: dict[str, Any]) -> list[int]:
    """The descriptors that a saved state names."""
    return [
        state["scoreboard"],
        *state["reports"],
        *(each["channel"] for each in state["masters"]),
        state["control"]["descriptor"],
        *(each["descriptor"] for each in state["listeners"]["open"]),
        *(each["descriptor"] for each in state["admin"]),
    ]


def check_goes_on(scene: SupervisorScene) -> None:
    """The supervisor serves, and takes commands."""
    status = scene.get_status()
    assert (status["state"], status["operation"]) == ("serving", None)
    assert not blocked()
    scale = scene.supervisor.submit(commands.Scale(2))
    scene.loop.run_ready()
    assert SetTarget(2) in scene.masters[1].told()
    pid = scene.spawn(1)
    scene.masters[1].say(WorkerReady(pid))
    assert scene.outcome(scale).ok
