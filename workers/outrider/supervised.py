"""What a worker knows of the supervisor above its master: the environment says so, and nothing without one.

The supervisor is a subreaper (PR_SET_CHILD_SUBREAPER(2const)): a worker whose master dies becomes its child.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping

from setproctitle import setproctitle

from outrider.errors import ConfigurationError

SUPERVISOR_PID = "OUTRIDER_SUPERVISOR_PID"
SUPERVISOR_GENERATION = "OUTRIDER_SUPERVISOR_GENERATION"


@dataclasses.dataclass(frozen=True, slots=True)
class Supervision:
    """The supervisor's process id, and the number of the generation that this process belongs to."""

    pid: int
    generation: int


def read_supervision(environ: Mapping[str, str] = os.environ) -> Supervision | None:
    """Read the environment; None without a supervisor.

    Raises:
        ConfigurationError: a variable is no number, or there is one without the other.
    """
    if SUPERVISOR_PID not in environ and SUPERVISOR_GENERATION not in environ:
        return None
    return Supervision(_number(environ, SUPERVISOR_PID), _number(environ, SUPERVISOR_GENERATION))


def _number(environ: Mapping[str, str], variable: str) -> int:
    value = environ.get(variable, "")
    if not (value.isascii() and value.isdigit()):
        raise ConfigurationError(
            f"{variable}={value}: a number is needed. The supervisor sets {SUPERVISOR_PID} and "
            f"{SUPERVISOR_GENERATION}; without one unset both."
        )
    return int(value)


class ProcessTitle:
    """The name of the process for ps and top: `outrider: worker [shop] g3 ready`. gunicorn's own stays without one."""

    def __init__(
        self, supervision: Supervision | None, name: str, set_title: Callable[[str], None] = setproctitle
    ) -> None:
        """Take the instance's name, which is gunicorn's proc_name."""
        self._prefix = f"outrider: worker [{name}] g{supervision.generation} " if supervision else ""
        self._set_title = set_title
        self._shown = ""

    def show(self, state: str) -> None:
        """Name the state of the worker. Cheap if it is the same as before."""
        if self._prefix and state != self._shown:
            self._shown = state
            self._set_title(self._prefix + state)
