"""A Debian of its own for tests that need a clean machine: made once by debootstrap, copied for each user.

It holds `PACKAGES` and what they need, and no compiler. The machine's name servers, certificates and pip configuration
are carried over when a copy is made; nothing else of the machine is seen inside. An `outrider` that is installed there
is patient with canaries. Needs root.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider_testing.namespaces import MAKE_DEV
from outrider_testing.processes import children
from outrider_testing.programs import DEADLINE, ENDS_WITH_TEST, PATH, check_programs, check_root, run_program
from outrider_testing.waiting import until

SUITE = "trixie"
PACKAGES = ("ca-certificates", "curl", "make", "python3", "python3-venv", "systemd")
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""Where the machine's certificates are inside."""

_MAKING = 600.0  # seconds; 30 with a near mirror
# Every Python inside runs this. As with `launchers.BUSY_MACHINE`, a second without the processor is no canary's fault.
_PATIENCE = """\
try:
    from outrider_supervisor import canary
except ImportError:  # it is not installed in this environment
    pass
else:
    canary.MOST_LAG = 3
"""
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

# Runs in namespaces of its own, so all that is mounted goes with them. $1 is the root, then come places of the machine
# to show inside, "--", and what `env` is told.
_ENTER = f"""
set -e
root=$1; shift
ip link set lo up
mount --bind "$root" "$root"
while [ "$1" != -- ]; do mount --bind -o ro "$1" "$root$1"; shift; done; shift
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
{MAKE_DEV}
for each in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${{each%:*}}" "$root/dev/${{each#*:}}"; done
exec chroot "$root" env --chdir=/ "$@"
"""


@dataclass(frozen=True)
class Debian:
    """A root filesystem at `path`. `shown` are places of the machine that are visible inside, read only, as pip's."""

    path: Path
    shown: tuple[Path, ...] = ()

    def command(self, *words: str) -> list[str]:
        """What to start on this machine so that `words` runs inside as root, as process 1 of namespaces of its own.

        Its network is a loopback interface. Its end is the end of all that it has started. SIGKILL to what is started
        here ends it, too, and so does the end of the thread that has started that.
        """
        alone = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
        places = (str(self.path), *map(str, self.shown))
        return [*ENDS_WITH_TEST, *alone, "sh", "-c", _ENTER, "sh", *places, "--", *_environment(online=False), *words]


def init_of(process: subprocess.Popen[Any]) -> int:
    """Return the pid, on this machine, of process 1 in namespaces that `process` has made (`unshare --pid --fork`)."""
    return until(lambda: children(process.pid), DEADLINE, what=f"a child of {process.pid}")[0]


def enter(init: int, *words: str, online: bool = False) -> list[str]:
    """What to start so that `words` runs as root where a process is.

    Args:
        init: its pid on this machine.
        words: the command.
        online: with the network of this machine, in place of that inside.
    """
    places = ("--mount", "--pid", *(() if online else ("--net",)), "--root", "--wd")
    return ["nsenter", "--target", str(init), *places, "env", *_environment(online=online), *words]


def _environment(*, online: bool) -> list[str]:
    """What `env` is told inside."""
    proxies = [f"{name}={os.environ[name]}" for name in _PROXIES if online and name in os.environ]
    return ["-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8", *proxies]


@contextlib.contextmanager
def debian() -> Iterator[Debian]:
    """A copy that is the caller's alone; it is removed at the end."""
    base = make_base()
    with tempfile.TemporaryDirectory(prefix="outrider-debian-", ignore_cleanup_errors=True) as directory:
        root, upper, work = (Path(directory, name) for name in ("root", "upper", "work"))
        for each in (root, upper, work):
            each.mkdir()
        overlay = f"lowerdir={base},upperdir={upper},workdir={work}"
        mount = ["mount", "-t", "overlay", "overlay", "-o", overlay, str(root)]
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        if not is_mounted:  # as in a container, whose root is one already
            subprocess.run(["cp", "--archive", "--reflink=auto", f"{base}/.", root], check=True)
        try:
            for place in root.glob("etc/python3.*"):  # where /usr/lib/python3.*/sitecustomize.py leads
                (place / "sitecustomize.py").write_text(_PATIENCE)
            yield Debian(root, tuple(_carry_over(root)))
        finally:
            if is_mounted:
                subprocess.run(["umount", "--lazy", root], check=True)


def make_base() -> Path:
    """Return the directory that is copied, and is nobody's to write to; make it unless that has been done.

    It is kept in `$OUTRIDER_CACHE`, or else beside other temporary files.
    """
    check_root()
    check_programs({"debootstrap": "debootstrap", "setpriv": "util-linux", "unshare": "util-linux"})
    cache = Path(os.environ.get("OUTRIDER_CACHE") or Path(tempfile.gettempdir(), f"outrider-cache-{os.getuid()}"))
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    base = cache / f"debian-{SUITE}-{key}"
    with Path(cache, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may be making it
        if not base.exists():
            _bootstrap(base)
    return base


def _bootstrap(base: Path) -> None:
    unfinished = base.with_name(f"{base.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    # Packages that are installed run their scripts: they see neither the machine's processes nor its mounts.
    alone = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
    words = ("--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(unfinished), _find_mirror())
    done = run_program([*ENDS_WITH_TEST, *alone, "debootstrap", *words], timeout=_MAKING)
    assert done.returncode == 0, f"debootstrap failed ({done.returncode}):\n{done.stdout[-4000:]}"
    for archive in Path(unfinished, "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    unfinished.rename(base)


def _find_mirror() -> str:
    """Return the first of the machine's own package mirrors that has `SUITE`."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=True
    ).stdout.split()
    mirrors = list(dict.fromkeys(listed))
    for mirror in mirrors:
        with contextlib.suppress(OSError, urllib.error.URLError):
            release = urllib.request.urlopen(f"{mirror.rstrip('/')}/dists/{SUITE}/InRelease", timeout=30)  # noqa: S310  # of apt's own sources
            if b"\nOrigin: Debian\n" in release.read():
                return mirror
    message = f"none of this machine's package mirrors has Debian {SUITE}: {', '.join(mirrors) or 'it has no mirror'}"
    raise AssertionError(message)


# -- what is carried over


def _carry_over(root: Path) -> Iterator[Path]:
    """Let network and pip work inside; yields the places that must be shown for that."""
    for name in ("/etc/resolv.conf", "/etc/hosts"):
        shutil.copyfile(name, _inside(root, name))
    certificates = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if certificates:
        shutil.copyfile(certificates, _inside(root, BUNDLE))
    lines = ["[global]"]
    for name, value in _pip_configuration().items():
        if name == "cert":
            lines.append(f"cert = {BUNDLE}")
            continue
        lines.append(f"{name} = {' '.join(value.split())}")
        for word in value.split():
            # The pages of an index name files beside it.
            place = Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word)
            if place.is_absolute() and place.exists():
                yield _show(root, place)
    _inside(root, "/etc/pip.conf").write_text("\n".join([*lines, ""]))


def _pip_configuration() -> dict[str, str]:
    """Return the machine's settings of pip that hold for any user and command, variables included."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):  # variables count most
        section, _, setting = line.partition(".")
        name, _, value = setting.partition("=")
        if section in {":env:", "global"}:
            found[name] = str(ast.literal_eval(value))
    return found


def _inside(root: Path, name: str) -> Path:
    """Return the path on this machine of a file inside, with no link in its place."""
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def _show(root: Path, place: Path) -> Path:
    inside = root / str(place).lstrip("/")
    if place.is_dir():
        inside.mkdir(parents=True, exist_ok=True)
    else:
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.touch()
    return place
