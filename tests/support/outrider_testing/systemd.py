"""A systemd of its own, booted in namespaces, for tests of unit files.

Its root is an overlay on that of the machine, or on another one's: what is done inside is gone at the end, and nothing
outside is touched. It has a network of its own with a loopback interface, a journal, and none of the machine's units.
Needs root, and a control group hierarchy of version 2, mounted anywhere.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from outrider_testing.namespaces import MAKE_DEV, in_network_of
from outrider_testing.processes import children
from outrider_testing.programs import ENDS_WITH_TEST, PATH, check_programs, check_root, run_program
from outrider_testing.waiting import until

COMMAND_DEADLINE = 60.0

_BOOT_DEADLINE = 90.0
_NEEDED = {
    "ip": "iproute2",
    "mount": "mount",
    "timeout": "coreutils",
    **dict.fromkeys(("nsenter", "pivot_root", "setpriv", "unshare"), "util-linux"),
}

# All that systemd and its journal need to reach multi-user.target.
_UNITS = (
    *("basic", "final", "local-fs", "local-fs-pre", "multi-user", "network", "network-online", "paths", "shutdown"),
    *("slices", "sockets", "swap", "sysinit", "timers", "umount"),
)
_JOURNAL = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")

# $1 is the root below, $2 an empty directory; then come pairs: a place of this machine and where it is seen inside.
_BOOT = f"""
set -e
lower=$1 scratch=$2 root=$2/root; shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$root"
mount -t overlay -o "lowerdir=$lower,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
{MAKE_DEV}
units=$scratch/units; mkdir -p "$units/sockets.target.wants" "$units/sysinit.target.wants"
for each in {" ".join(f"{name}.target" for name in _UNITS)} {" ".join(_JOURNAL)}; do
    cp "$root/usr/lib/systemd/system/$each" "$units/"
done
ln -s ../{_JOURNAL[1]} ../{_JOURNAL[2]} "$units/sockets.target.wants/"
ln -s ../{_JOURNAL[0]} "$units/sysinit.target.wants/"
mount --bind "$units" "$root/usr/lib/systemd/system"
generators="usr/lib/systemd/system-generators usr/lib/systemd/system-environment-generators"
for each in etc/systemd/system run srv tmp var/log $generators; do
    mkdir -p "$root/$each"; mount -t tmpfs -o mode=755 tmpfs "$root/$each"
done
chmod 1777 "$root/tmp"
rm -rf "$root/var/lib/private" "$root/var/lib/outrider"  # no mounts: systemd renames what is there
printf '#!/bin/sh\\nexec "$@"\\n' > "$root/usr/local/bin/sudo"
# A journal that is asked has all that was said before, however busy journald is.
printf '#!/bin/sh\\n%s --sync; exec %s "$@"\\n' /bin/journalctl /bin/journalctl > "$root/usr/local/bin/journalctl"
chmod 755 "$root/usr/local/bin/sudo" "$root/usr/local/bin/journalctl"
while [ $# -gt 0 ]; do
    mkdir -p "$root$2"; mount --bind "$1" "$root$2"; mount -o remount,bind,ro "$root$2"; shift 2
done
ip link set lo up
cd "$root"
mkdir old; pivot_root . old; umount -l old; rmdir old
exec env -i container=lxc PATH={PATH} /lib/systemd/systemd --system --unit=multi-user.target
"""


class Machine:
    """A booted systemd. Use as a context manager; its commands run as root inside."""

    def __init__(self, root: Path = Path("/"), shown: Mapping[Path, str] | None = None) -> None:
        """Describe it.

        Args:
            root: the root filesystem below the overlay; it must have systemd.
            shown: directories of this machine, and where they are seen inside, read-only.
        """
        self._root = root
        self._shown = shown or {}
        self._opened = contextlib.ExitStack()
        self.pid = 0
        """Of its process 1, as it is seen from outside."""

    def __enter__(self) -> Self:
        check_root()
        check_programs(_NEEDED)
        with contextlib.ExitStack() as stack:
            self._boot(stack)
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _boot(self, stack: contextlib.ExitStack) -> None:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="outrider-systemd-"))
        group = _control_group(Path(scratch).name)
        stack.callback(_remove_control_group, group)
        group.mkdir()
        log = Path(scratch, "log")
        shown = [word for place, inside in self._shown.items() for word in (str(place), inside)]
        with log.open("w") as output:
            unshare = subprocess.Popen(
                [
                    *("sh", "-c", 'echo 0 > "$0/cgroup.procs"; exec "$@"', str(group)),
                    *ENDS_WITH_TEST,
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--ipc", "--uts", "--cgroup", "--net"),
                    *("sh", "-c", _BOOT, "sh", str(self._root), scratch, *shown),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        stack.callback(unshare.wait)
        stack.callback(unshare.kill)

        def is_up() -> bool:
            if unshare.poll() is not None:
                message = f"systemd did not boot:\n{log.read_text()}"
                raise AssertionError(message)
            first = children(unshare.pid)
            if not first or Path(f"/proc/{first[0]}/comm").read_text() != "systemd\n":
                return False
            self.pid = first[0]
            return self.run("systemctl", "is-active", "multi-user.target").returncode == 0

        until(is_up, _BOOT_DEADLINE, what="multi-user.target")

    # -- commands

    def command(self, *words: str, environ: Mapping[str, str] | None = None, online: bool = False) -> list[str]:
        """What to start on this machine so that `words` runs inside.

        Args:
            words: the command.
            environ: more variables than PATH, HOME and LANG.
            online: with the network of this machine, in place of that inside.
        """
        variables = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **(environ or {})}
        namespaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", *(() if online else ("--net",))]
        return [
            *("nsenter", "--target", str(self.pid), *namespaces, "--root"),
            *("env", "-i", "--chdir=/root", *(f"{name}={value}" for name, value in variables.items()), *words),
        ]

    def run(self, *words: str, timeout: float = COMMAND_DEADLINE) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end; stdout and stderr are one stream.

        After `timeout` seconds it is killed, which counts as exit status 137.
        """
        return run_program(self.command("timeout", "-s", "KILL", str(timeout), *words), timeout=2 * timeout)

    def check(self, *words: str, timeout: float = COMMAND_DEADLINE) -> str:
        """Run a command that must succeed; its output."""
        done = self.run(*words, timeout=timeout)
        result = f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}"
        assert done.returncode == 0, f"{result}\n{self.journal(lines=60)}"
        return done.stdout

    def systemctl(self, *words: str) -> str:
        """Run `systemctl`, which must succeed; its output."""
        return self.check("systemctl", *words)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def journal(self, unit: str = "", lines: int = 1000, output: str = "short-monotonic") -> str:
        """Return the last lines of the journal: of all, or of a unit, the manager's own about it included."""
        selection = ["--unit", unit] if unit else []
        return self.run("journalctl", "--no-pager", f"--lines={lines}", f"--output={output}", *selection).stdout

    # -- files and sockets

    def path(self, name: str) -> Path:
        """Return where a file inside is seen from outside. Absolute links inside are not followed as inside."""
        return Path(f"/proc/{self.pid}/root{name}")

    def write(self, name: str, text: str) -> None:
        """Write a file inside, readable by all, and the directories above it."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def outer_pid(self, pid: int) -> int:
        """Return the process id that a process inside has outside (NSpid of proc_pid_status(5))."""
        inside = Path(f"/proc/{self.pid}/ns/pid").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                (numbers,) = re.findall(r"^NSpid:\t(.+)$", (process / "status").read_text(), re.MULTILINE)
                if numbers.split()[-1] == str(pid) and (process / "ns/pid").readlink() == inside:
                    return int(process.name)
        message = f"no process {pid} inside"
        raise ProcessLookupError(message)

    def network(self) -> contextlib.AbstractContextManager[None]:
        """Have this thread, and those it starts meanwhile, use the network inside; open sockets stay where they are."""
        return in_network_of(self.pid)


def _control_group(name: str) -> Path:
    """A group below that of this process, in the hierarchy of version 2."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mounted, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            place = mounted.split()[4]
            own = next(each for each in Path("/proc/self/cgroup").read_text().splitlines() if each.startswith("0::"))
            return Path(place, own.removeprefix("0::").lstrip("/"), name)
    message = "no control groups of version 2 are mounted here (mount -t cgroup2 cgroup2 DIRECTORY)"
    raise AssertionError(message)


def _remove_control_group(group: Path) -> None:
    def is_gone() -> bool:
        for directory in sorted(group.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                directory.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
        return not group.exists()

    until(is_gone, COMMAND_DEADLINE, what=f"the end of {group}")  # the kernel has still to bury the killed
