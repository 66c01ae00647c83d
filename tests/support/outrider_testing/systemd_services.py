"""Services of `deploy/systemd` on a booted systemd: install them, put applications in their place, load them."""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from outrider_testing import releases
from outrider_testing.documented import REPOSITORY
from outrider_testing.http_client import HTTPConnection, Response, encode_request, fetch
from outrider_testing.load import Load, Mix, Report
from outrider_testing.load_clients import HalfSentPostClient, KeepAliveClient, NewConnectionClient, SlowStreamClient
from outrider_testing.systemd import Machine
from outrider_testing.waiting import until

T = TypeVar("T")

UNITS = REPOSITORY / "deploy" / "systemd"
TEMPLATES = tuple(sorted(path.name for path in UNITS.glob("*@.*")))
SERVICE_TEMPLATES = tuple(name for name in TEMPLATES if name.endswith(".service"))
MOST_EXPOSURE = 2.0
PATIENCE = 60.0

MIX: Mix = {KeepAliveClient: 60, NewConnectionClient: 40, HalfSentPostClient: 10, SlowStreamClient: 6}
"""Requests a second: enough for some to be in flight at any moment."""

_VENV = "/opt/venv"
_SCRIPT = f"""#!{_VENV}/bin/python
import sys
from {{module}} import {{function}}
sys.exit({{function}}())
"""
_ports = itertools.count(8001)


@contextmanager
def booted(root: Path = Path("/")) -> Iterator[Machine]:
    """Boot a machine that has our units, and an environment with the working tree and what the tests run on."""
    sources = {REPOSITORY / name: f"/opt/outrider/{name}" for name in ("workers", "supervisor", "tests/support")}
    packages = {Path(sysconfig.get_path("platlib")): "/opt/packages"}
    python = "/usr" if sys.base_prefix == "/usr" else "/opt/python"
    interpreter = {} if python == "/usr" else {Path(sys.base_prefix): python}
    with Machine(root, {**sources, **packages, **interpreter}) as machine:
        _make_environment(machine, python, [*sources.values(), *packages.values()])
        for unit in TEMPLATES:
            machine.write(f"/etc/systemd/system/{unit}", (UNITS / unit).read_text())
        machine.systemctl("daemon-reload")
        yield machine


def _make_environment(machine: Machine, python: str, paths: list[str]) -> None:
    """Make what `python -m venv` and `pip install` would, without copying what is there."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    machine.write(f"{_VENV}/pyvenv.cfg", f"home = {python}/bin\n")
    machine.write(f"{_VENV}/lib/{version}/site-packages/paths.pth", "\n".join(paths))
    commands = {"outrider": ("outrider_supervisor.cli", "main"), "gunicorn": ("gunicorn.app.wsgiapp", "run")}
    for command, (module, function) in commands.items():
        machine.write(f"{_VENV}/bin/{command}", _SCRIPT.format(module=module, function=function))
        machine.path(f"{_VENV}/bin/{command}").chmod(0o755)
    machine.path(f"{_VENV}/bin/python").symlink_to(f"{python}/bin/{version}")
    # An interpreter that is seen elsewhere than where it was installed looks for its library in its old place.
    machine.write("/etc/ld.so.conf.d/00-python.conf", f"{python}/lib\n")
    machine.check("ldconfig")


class Service:
    """An instance of one of our templates: the application in /srv/NAME, two workers, a port of its own."""

    def __init__(
        self,
        machine: Machine,
        name: str,
        app: str = "",
        *,
        config: str = "",
        drop_in: str = "",
        template: str = "outrider",
    ) -> None:
        """Put everything in its place; nothing is started.

        Args:
            machine: where.
            name: of the instance.
            app: the text of app.py, by default a release that works.
            config: more lines for gunicorn.conf.py.
            drop_in: lines for the section [Service] of this instance alone.
            template: the unit without the @.
        """
        self.machine = machine
        self.name = name
        self.unit = f"{template}@{name}.service"
        self.port = next(_ports)
        self.directory = machine.path(f"/srv/{name}")
        self.directory.mkdir()
        (self.directory / ".venv").symlink_to(_VENV)
        self.configure(f'wsgi_app = "{releases.APP}"\nworkers = 2\nbind = "127.0.0.1:{self.port}"\n{config}')
        self.deploy(app or releases.good(1))
        machine.write(f"/etc/outrider/{name}.env", f"PROBE_DIRECTORY=/var/lib/outrider/{name}\n")
        if drop_in:
            self.drop_in("test", drop_in)

    def drop_in(self, name: str, lines: str) -> None:
        """Change this instance's section [Service], with or without its heading."""
        text = lines if "[Service]" in lines else f"[Service]\n{lines}\n"
        self.machine.write(f"/etc/systemd/system/{self.unit}.d/{name}.conf", text)
        self.machine.systemctl("daemon-reload")

    def listen(self) -> str:
        """Have systemd open this instance's port, and no other; return the socket unit, which is started."""
        socket = self.unit.replace(".service", ".socket")
        lines = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{self.port}\n"
        self.machine.write(f"/etc/systemd/system/{socket}.d/test.conf", lines)
        self.machine.systemctl("daemon-reload")
        self.machine.systemctl("start", socket)
        return socket

    def configure(self, text: str) -> None:
        """Write gunicorn.conf.py."""
        (self.directory / "gunicorn.conf.py").write_text(text)

    def deploy(self, app: str) -> None:
        """Write app.py."""
        releases.deploy(self.directory, app)

    # -- what is done to it

    def systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `systemctl WORDS UNIT`."""
        return self.machine.run("systemctl", *words, self.unit)

    def start(self) -> None:
        """Start it, which must succeed."""
        self.machine.systemctl("start", self.unit)

    def outrider(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `outrider WORDS --name NAME` in root's shell."""
        return self.machine.run(f"/srv/{self.name}/.venv/bin/outrider", *words, "--name", self.name)

    def fetch(self, target: str = "/") -> Response:
        """Ask it, as a client inside."""
        with self.machine.network():
            return fetch(("127.0.0.1", self.port), target, timeout=PATIENCE)

    def connect(self) -> HTTPConnection:
        """Open a connection to it."""
        with self.machine.network():
            return HTTPConnection(("127.0.0.1", self.port), timeout=PATIENCE)

    def hold(self, connection: HTTPConnection) -> Path:
        """Send a request that is in flight until somebody makes the file that is returned."""
        state = self.machine.path(f"/var/lib/private/outrider/{self.name}")
        connection.send(encode_request("GET", "/gate/held"))
        self.until((state / "held.held").exists, "the request")
        return state / "held.open"

    def load(self, requests: int, *actions: Callable[[], object], mix: Mix = MIX) -> Report:
        """Load it while the actions happen; see `Load.run`. The report is printed."""
        with self.machine.network():
            report = asyncio.run(Load(("127.0.0.1", self.port), mix=mix).run(requests, actions))
        print(report)
        return report

    # -- what it is like

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.machine.show(self.unit, name)

    @property
    def main_pid(self) -> int:
        """Of the main process, inside."""
        return int(self.show("MainPID"))

    @property
    def generation(self) -> int:
        """The one that serves, as the status says."""
        text = self.show("StatusText")
        found = re.search(r"^Serving with .* \(generation (\d+)\)", text)
        assert found is not None, text
        return int(found[1])

    def version(self) -> str:
        """Tell which release answers."""
        return self.fetch().field("x-version")

    def journal(self, output: str = "cat") -> str:
        """Return what it and systemd have said about it."""
        return self.machine.journal(self.unit, output=output)

    def processes(self) -> list[int]:
        """Return what runs in its control group, as process ids inside; empty where that is gone."""
        return [int(each) for each in self._in_group("cat cgroup.procs").split()]

    def pid_of(self, role: str) -> int:
        """Return the lowest process id of its processes that are called so, such as `worker`, by their titles."""
        look = "for each in $(cat cgroup.procs); do echo $each $(tr '\\0' ' ' </proc/$each/cmdline); done"
        titles = self._in_group(look)
        return min(int(line.split()[0]) for line in titles.splitlines() if f" outrider: {role} " in line)

    def freeze(self, pid: int) -> None:
        """Let a process hang: it takes no signal but SIGKILL, and SIGCONT does not help."""
        self._in_group(f"mkdir hung && echo {pid} > hung/cgroup.procs && echo 1 > hung/cgroup.freeze")

    def _in_group(self, script: str) -> str:
        template = self.unit.partition("@")[0]
        slice_ = f"/sys/fs/cgroup/system.slice/system-{template}.slice"
        # The group may go at any moment.
        return self.machine.run("sh", "-c", f"exec 2>/dev/null; cd {slice_}/{self.unit} && {script}").stdout

    def until(self, condition: Callable[[], T], what: str, deadline: float = PATIENCE) -> T:
        """Wait for `condition`; on failure the status of the unit is part of the message."""
        return until(
            condition, deadline, what=what, explain=lambda: self.systemctl("status", "--no-pager", "--full").stdout
        )

    def until_state(self, state: str, substate: str = "", deadline: float = PATIENCE) -> None:
        """Wait until the unit is in a state, such as `active`."""

        def look() -> bool:
            return self.show("ActiveState") == state and substate in ("", self.show("SubState"))

        self.until(look, f"{self.unit} {state} {substate}", deadline)


def verify_units(shop: Service) -> str:
    """What `systemd-analyze verify` finds wrong with the templates, each with a service of its own."""
    Service(shop.machine, "plain", template="gunicorn")
    units = [template.replace("@", "@shop" if "outrider" in template else "@plain") for template in TEMPLATES]
    return shop.machine.check("systemd-analyze", "verify", *units)


def exposure(machine: Machine, unit: str) -> float:
    """How much a unit may do by `systemd-analyze security`; with 10 it may do everything."""
    answer = machine.check("systemd-analyze", "security", "--offline=yes", "--no-pager", f"/etc/systemd/system/{unit}")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", answer)
    assert found is not None
    print(found[0])
    return float(found[1])
