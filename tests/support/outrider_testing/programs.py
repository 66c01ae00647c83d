"""Programs that are not ours: find them, say what to install where one is missing, run them to their end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a machine of the tests finds programs, as Debian's root does."""
DEADLINE = 60.0

ENDS_WITH_TEST = ("setpriv", "--pdeathsig", "KILL")
"""Run something that is killed with the thread that started it, whatever ends that (prctl(2), PR_SET_PDEATHSIG)."""


def program(name: str, how: str) -> str:
    """The path of a program, also of one that pip has installed; without it, an error that says `how` to get it."""
    path = _find(name)
    assert path, f"{name} is not installed: {how}"
    return path


def check_programs(packages: Mapping[str, str]) -> None:
    """Say what to install where one of these programs, given with its Debian package, is missing."""
    missing = sorted({package for name, package in packages.items() if _find(name) is None})
    assert not missing, f"missing on this machine: apt-get install {' '.join(missing)}"


def check_root() -> None:
    """Say so where this is not root."""
    assert os.geteuid() == 0, "namespaces, mounts and control groups need root"


def run_program(
    command: Sequence[str | Path], *, timeout: float = DEADLINE, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with further options of Popen; stdout and stderr are one stream.

    Raises:
        subprocess.TimeoutExpired: it was killed after `timeout` seconds.
    """
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
        **options,
    )


def check_program(command: Sequence[str | Path], *, timeout: float = DEADLINE, **options: Any) -> str:
    """Run a command, which must end with 0, as `run_program` does; what it has written."""
    done = run_program(command, timeout=timeout, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}"
    return done.stdout


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
