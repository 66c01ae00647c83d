"""Asking workers for their stacks: each worker for one answer at a time, and none for ever."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

from outrider_supervisor.actions import Code
from outrider_supervisor.machine import Machine
from outrider_supervisor.operations import Operation, Outcome

DUMP_PATIENCE = 5.0
"""Seconds in which a worker answers a request for its stacks."""


class Dumps:
    """The requests that wait. `moments` says by process id when a worker last wrote its stacks, in Unix time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.moments: dict[int, float] = {}
        self._loop = loop
        self._waiting: dict[int, Operation] = {}

    def ask(
        self, pid: int, operation: Operation, machine: Machine, send: Callable[[int, signal.Signals], bool]
    ) -> None:
        """Ask a worker, or refuse to; `send` sends a signal and says whether the process was there."""
        generations = machine.fleet.generations.values()
        owner = next((each for each in generations if pid in each.workers), None)
        problem = ""
        if owner is None:
            problem = f"{pid} is no worker; `outrider status` lists them"
        elif not owner.service.reports_state:
            problem = f"workers of {owner.service.worker_class} can't dump their stacks"
        elif pid in self._waiting:
            problem = f"worker {pid} is writing its stacks already"
        if problem:
            operation.finish(Outcome(ok=False, code=Code.REFUSED.value, message=problem))
            return
        self._waiting[pid] = operation
        self._loop.call_later(DUMP_PATIENCE, self._give_up, pid, operation)
        if not send(pid, signal.SIGUSR2):
            self._fail(pid, "the worker has ended")

    def take(self, pid: int, text: str) -> bool:
        """A worker has written its stacks; whether somebody had asked."""
        self.moments[pid] = time.time()
        operation = self._waiting.pop(pid, None)
        if operation is None:
            return False
        operation.finish(Outcome(ok=True, code=Code.DONE.value, message=f"worker {pid}", details=text))
        return True

    def forget(self, pid: int) -> None:
        """The worker has ended."""
        self._fail(pid, "the worker has ended")
        self.moments.pop(pid, None)

    def _give_up(self, pid: int, operation: Operation) -> None:
        if self._waiting.get(pid) is operation:  # and not a later one
            self._fail(pid, f"no answer within {DUMP_PATIENCE:g} s; look in its log")

    def _fail(self, pid: int, problem: str) -> None:
        operation = self._waiting.pop(pid, None)
        if operation is not None:
            operation.finish(Outcome(ok=False, code=Code.FAILED.value, message=f"worker {pid}: {problem}"))
