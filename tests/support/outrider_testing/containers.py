"""Build an image with buildah and run it with crun: a Dockerfile and a container runtime, and no engine. Needs root.

The base image, which the network may not have, is made from `debian` under the name that the Dockerfile gives it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outrider_testing.debian import Debian, debian
from outrider_testing.documented import REPOSITORY
from outrider_testing.network import Host
from outrider_testing.outrider_process import Completed
from outrider_testing.programs import ENDS_WITH_TEST, check_programs, run_program
from outrider_testing.waiting import until

BASE = "docker.io/library/python:3.13-slim-trixie"
DOCKER = REPOSITORY / "deploy" / "docker"
BUILDING = 300.0  # seconds; 45 with a near registry
PATIENCE = 30.0

# crun 1.8 does not run beside control groups of both versions, so it sees version 2 alone. They are left as they are.
_CRUN = """
mount --make-rprivate / && mount -t tmpfs tmpfs /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
exec crun --cgroup-manager=disabled "$@"
"""
_SECCOMP = Path("/usr/share/containers/seccomp.json")
"""The default profile of Podman and CRI-O, which is about that of Docker and containerd; it comes with buildah."""
# As docker run --read-only --tmpfs /tmp --tmpfs /dev/shm does.
_TMPFS = ["nosuid", "nodev", "noexec", "mode=1777"]
_MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": _TMPFS},  # noqa: S108  # the container's
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": _TMPFS},  # noqa: S108  # as above
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
]


@dataclass(frozen=True)
class Image:
    """What was built: its root filesystem, what its Dockerfile says of running it, and its size in bytes."""

    root: Path
    config: Mapping[str, Any]
    size: int
    base_size: int
    log: str

    @property
    def healthcheck(self) -> list[str]:
        """The command of HEALTHCHECK."""
        kind, *command = map(str, self.config["Healthcheck"]["Test"])
        assert kind == "CMD", "a shell form would need a shell"
        return command


@dataclass
class Container:
    """One container, as `docker run --read-only --cap-drop ALL --security-opt no-new-privileges` starts it.

    Its network is that of `host`, which no other container shares, and which takes it along when the test is killed.
    """

    image: Image
    directory: Path
    host: Host
    arguments: tuple[str, ...] = ()
    """In the place of CMD, if there are any."""
    environ: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[Path, str] = field(default_factory=dict)
    """Places of this machine and where they are inside, read-only."""
    _process: subprocess.Popen[bytes] | None = None

    # Acting

    def start(self) -> Container:
        """Start it; it is not waited for."""
        self.directory.mkdir()
        (self.directory / "config.json").write_text(json.dumps(self._bundle()))
        with self._log_path.open("wb") as log:
            command = [*self._crun("run"), "--bundle", str(self.directory), "it"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.until(lambda: self._state().get("status") == "running", "a container that runs")
        return self

    def execute(self, *words: str, deadline: float = PATIENCE) -> Completed:
        """Run a command inside, as `docker exec` does: with the user and the environment of the image."""
        config = self.image.config
        environ = [word for name, value in self._environment().items() for word in ("--env", f"{name}={value}")]
        where = ("--cwd", config["WorkingDir"], "--user", config["User"], "--cap", "")
        done = run_program([*self._crun("exec"), *where, *environ, "it", *words], timeout=deadline)
        return Completed(words, done.returncode, done.stdout)

    def check_health(self) -> Completed:
        """Run the command of HEALTHCHECK."""
        return self.execute(*self.image.healthcheck)

    def fetch(self, path: str = "/", *, seconds: float = PATIENCE) -> str:
        """Send a request to port 8000, from its network but by this machine's curl; the body of a 200, else empty."""
        done = subprocess.run(self.fetch_command(path, seconds), capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    def fetch_command(self, path: str, seconds: float = PATIENCE) -> list[str]:
        """What to start on this machine for `fetch`."""
        curl = ("curl", "--silent", "--fail", "--max-time", str(seconds), f"http://127.0.0.1:8000{path}")
        return self.host.command(*curl)

    def signal(self, name: str) -> None:
        """Send a signal to process 1."""
        subprocess.run([*self._crun("kill"), "it", name], check=True)

    def stop(self, deadline: float) -> int:
        """Send STOPSIGNAL as `docker stop` does, and wait for the end: the exit status."""
        self.signal(self.image.config["StopSignal"])
        return self.wait(deadline)

    def wait(self, deadline: float) -> int:
        """Wait for the end: the exit status."""
        assert self._process is not None
        try:
            return self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            message = f"the container still runs after {deadline} s\n{self.log()}"
            raise TimeoutError(message) from None

    def close(self) -> None:
        """Leave nothing of it behind."""
        if self._process is not None:
            subprocess.run([*self._crun("delete"), "--force", "it"], capture_output=True, check=False)
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait(PATIENCE)

    # Looking

    @property
    def pid(self) -> int:
        """Process 1 of the container, as this machine numbers it."""
        return int(self._state()["pid"])

    def log(self) -> str:
        """What it has written."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def until(self, condition: Any, what: str, deadline: float = PATIENCE) -> Any:
        """Wait for something true; on failure show the log."""
        return until(condition, deadline, what=what, explain=lambda: f"--- log ---\n{self.log()}")

    def until_healthy(self) -> Container:
        """Wait until HEALTHCHECK says so."""
        self.until(lambda: self.check_health().code == 0, "a healthy container")
        return self

    # How

    @property
    def _log_path(self) -> Path:
        return self.directory / "log"

    def _crun(self, command: str) -> list[str]:
        options = ("--root", str(self.directory / "state"))
        return ["unshare", "--mount", "sh", "-c", _CRUN, "sh", *options, command]

    def _state(self) -> dict[str, Any]:
        done = subprocess.run([*self._crun("state"), "it"], capture_output=True, text=True, check=False)
        state: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return state

    def _environment(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.image.config["Env"]) | dict(self.environ)

    def _bundle(self) -> dict[str, Any]:
        config = self.image.config
        uid, _, gid = config["User"].partition(":")
        return {
            "ociVersion": "1.0.0",
            "root": {"path": str(self.image.root), "readonly": True},
            "mounts": [
                *_MOUNTS,
                *(
                    {"destination": inside, "source": str(place), "type": "bind", "options": ["rbind", "ro"]}
                    for place, inside in self.volumes.items()
                ),
            ],
            "process": {
                "user": {"uid": int(uid), "gid": int(gid)},
                "args": [*config["Entrypoint"], *(self.arguments or config["Cmd"])],
                "env": [f"{name}={value}" for name, value in self._environment().items()],
                "cwd": config["WorkingDir"],
                "capabilities": {},
                "noNewPrivileges": True,
            },
            "linux": {
                "namespaces": [
                    *({"type": each} for each in ("pid", "ipc", "uts", "mount")),
                    {"type": "network", "path": f"/proc/{self.host.pid}/ns/net"},
                ],
                "seccomp": _seccomp(),
            },
        }


def _seccomp() -> dict[str, Any]:
    """The default profile as a runtime takes it: what holds here, for a process without capabilities."""
    profile = json.loads(_SECCOMP.read_text())
    machine = os.uname().machine
    name = {"x86_64": "amd64", "aarch64": "arm64"}[machine]

    def holds(rule: Mapping[str, Any]) -> bool:
        condition = rule.get("includes") or {}
        return "caps" not in condition and name in condition.get("arches", [name])

    kept = ("names", "action", "args", "errnoRet")
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [f"SCMP_ARCH_{machine.upper()}"],
        "syscalls": [
            {key: rule[key] for key in kept if rule.get(key) is not None} for rule in profile["syscalls"] if holds(rule)
        ],
    }


@contextlib.contextmanager
def built(context: Path, named: Mapping[str, Path]) -> Iterator[Image]:
    """Build the Dockerfile in `context`; the image is there as long as this lasts.

    Args:
        context: the directory of the build.
        named: further build contexts, by their names in the Dockerfile.
    """
    check_programs({each: each for each in ("buildah", "crun", "curl")})
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="outrider-image-"))
        # In memory, about 700 MB: a disk would spend more time on removing it than all the rest takes.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g", "tmpfs", directory], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", directory], check=True)
        base = stack.enter_context(debian())
        store = stack.enter_context(contextlib.closing(_Store(Path(directory))))
        store.import_base(base)
        contexts = [word for name, path in named.items() for word in ("--build-context", f"{name}={path}")]
        shown = [word for place in base.shown for word in ("--volume", f"{place}:{place}:ro")]
        how = ("--isolation", "chroot", "--pull-never", "--format", "docker", "--tag", "built")
        log = store.run("bud", *how, *contexts, *shown, str(context))
        config = json.loads(store.run("inspect", "--type", "image", "built"))["Docker"]["config"]
        root = Path(store.run("mount", store.run("from", "--pull-never", "built").strip()).strip())
        yield Image(root, config, _size_of(root), _size_of(base.path), log)


class _Store:
    """Images of buildah's in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # Within a container the kernel may have no overlays; plain copies take longer and need nothing.
        is_usable = self._start("overlay", "info").returncode == 0
        self._driver = "overlay" if is_usable else "vfs"

    def run(self, *words: str) -> str:
        done = self._start(self._driver, *words)
        assert done.returncode == 0, f"buildah {words[0]} ended with {done.returncode}\n{done.stdout[-6000:]}"
        return done.stdout

    def _start(self, driver: str, *words: str) -> subprocess.CompletedProcess[str]:
        places = ("--root", str(self._directory / "root"), "--runroot", str(self._directory / "run"))
        return run_program(
            [*ENDS_WITH_TEST, "buildah", *places, "--storage-driver", driver, *words],
            env=os.environ | {"TMPDIR": str(self._directory)},
            timeout=BUILDING,
        )

    def close(self) -> None:
        """Unmount what is mounted."""
        self.run("umount", "--all")
        subprocess.run(
            ["umount", "--recursive", self._directory / "root" / "overlay"], capture_output=True, check=False
        )

    def import_base(self, base: Debian) -> None:
        container = self.run("from", "scratch").strip()
        self.run("copy", "--quiet", container, str(base.path), "/")
        self.run("commit", "--quiet", "--rm", container, BASE)


def _size_of(root: Path) -> int:
    """Bytes of all files."""
    return sum(
        os.lstat(os.path.join(directory, name)).st_size  # noqa: PTH118  # hundreds of thousands of them
        for directory, _, names in os.walk(root)
        for name in names
    )
