"""Commands to put before gunicorn's, for what has to happen in its process before it starts."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence

_WITHOUT_SETUID = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_SETGID, CAP_SETUID = 24, 6, 7  # prctl(2), capabilities(7)
libc = ctypes.CDLL(None, use_errno=True)
if os.getuid() == 0:
    for capability in (CAP_SETGID, CAP_SETUID):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
os.execv(sys.argv[1], sys.argv[1:])
"""

_AS_SYSTEMD = """
import fcntl, os, sys
FIRST = 3  # SD_LISTEN_FDS_START
descriptors = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for number, fd in enumerate(descriptors, FIRST):
    os.dup2(fd, number)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(descriptors)))
os.execv(sys.argv[2], sys.argv[2:])
"""

_WITH = """
import importlib, os, runpy, sys
for assignment in sys.argv[1].split():
    name, value = assignment.split("=")
    module, _, name = name.rpartition(".")
    module = importlib.import_module(module)
    assert hasattr(module, name), assignment
    setattr(module, name, float(value))
module, sys.argv = sys.argv[4], sys.argv[4:]
assert sys.path[0] == "", "of -c; -m puts the working directory there, which is the same"
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

WITHOUT_SETUID = (sys.executable, "-c", _WITHOUT_SETUID)
"""Run without the right to change the user, as root too."""


_NOBODY = pwd.getpwnam("nobody")
_READING = "-all,+dac_read_search"
AS_NOBODY = (
    *("setpriv", f"--reuid={_NOBODY.pw_uid}", f"--regid={_NOBODY.pw_gid}", "--clear-groups"),
    *(f"--{kind}={_READING}" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
    *("env", "--unset=COVERAGE_PROCESS_CONFIG"),
)
"""Run as the user nobody, as only root can, with no right but to read what is installed, wherever that may be.

What is measured could not be written to where root writes it.
"""


def with_numbers(**numbers: float) -> tuple[str, ...]:
    """Run a Python module (`python -m`) with other numbers in the place of constants, named `module__CONSTANT`."""
    names = {f"outrider_supervisor.{name.replace('__', '.')}": value for name, value in numbers.items()}
    return (sys.executable, "-c", _WITH, " ".join(f"{name}={value}" for name, value in names.items()))


BUSY_MACHINE = with_numbers(canary__MOST_LAG=3, rollout__GRACE=1)
"""Where tests share two cores with others, a second or two without the processor are no fault of a canary's. And a
master that hangs is given up a second after it should be up: nobody wants to wait for it."""


def as_systemd(*descriptors: int) -> tuple[str, ...]:
    """Hand listening sockets over as systemd does (sd_listen_fds(3)). They must be inherited as well."""
    return (sys.executable, "-c", _AS_SYSTEMD, ",".join(map(str, descriptors)))


AS_PID_1 = (
    "unshare",
    *(() if os.getuid() == 0 else ("--user", "--map-root-user")),
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child",
)
"""Run as the first process of a PID namespace, as in a container (unshare(1)); the launcher waits for its end."""


WITH_JOURNAL = ("sh", "-c", 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$0" "$@"')
"""Run as if standard error were a stream to journald (systemd.exec(5))."""


def can_be_nobody() -> bool:
    """Tell whether this is root, with the rights that root should have."""
    return _works([*AS_NOBODY, sys.executable, "-c", f"import os, sys; sys.exit(os.getuid() != {_NOBODY.pw_uid})"])


def can_be_pid_1() -> bool:
    """Tell whether this system lets us make such namespaces: containers and hardened kernels may not."""
    return _works([*AS_PID_1, sys.executable, "-c", "import os, sys; sys.exit(os.getpid() != 1)"])


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
