"""Three hosts with a service, HAProxy in front of them, and a desk from which deployments are done."""

from __future__ import annotations

import contextlib
import csv
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from outrider_supervisor.status import Status
from outrider_testing import releases
from outrider_testing.documented import REPOSITORY, files
from outrider_testing.http_client import fetch
from outrider_testing.launchers import BUSY_MACHINE
from outrider_testing.network import Host, network
from outrider_testing.programs import DEADLINE, check_programs, run_program
from outrider_testing.server_process import SUPPORT
from outrider_testing.waiting import until

PROXY_CONFIG = REPOSITORY / "deploy/haproxy/many-hosts.cfg"
SHOPS = {"shop1": "10.0.0.11", "shop2": "10.0.0.12", "shop3": "10.0.0.13"}
START_DEADLINE = 40.0
HOME = "/srv/shop"
# The canary need not be thorough here.
OPTIONS = "--canary-seconds 0.5 --canary-requests 5"

_SSH = """\
#!/bin/sh
# What ssh does: run a command in the shell of another machine.
while [ "${1#-}" != "$1" ]; do
    [ "$1" = -o ] && shift
    shift
done
host=$1
shift
exec nsenter --target "$(cat "PIDS/$host")" --net --mount --wdns=/ -- sh -c "$*"
"""
# What a virtual environment of the release would have, without installing anything.
_PIP = "#!/bin/sh\n"
_COMMAND = shlex.join([*BUSY_MACHINE, sys.executable, "-m", "outrider_supervisor.cli"])
_OUTRIDER = f'#!/bin/sh\nexec {_COMMAND} "$@"\n'


class Shop:
    """One host with its service, in the directories of the page."""

    def __init__(self, host: Host, log: Path, environ: Mapping[str, str]) -> None:
        """Put release 1 there."""
        self.host = host
        self._log = log
        self._environ = {**environ, "PWD": f"{HOME}/current", "GUNICORN_CMD_ARGS": OPTIONS}
        self._process: subprocess.Popen[bytes] | None = None
        home = host.path(HOME)
        home.mkdir()
        (script,) = [each for each in files("docs/how-to/zero-downtime.md") if each.path == "deploy.sh"]
        (home / "deploy.sh").write_text(script.text)
        (home / "token").write_text("0123456789abcdef\n")
        self.write_release("1", releases.good(1))
        host.run("ln", "-s", "releases/1", f"{HOME}/current")

    def write_release(self, name: str, app: str) -> None:
        """Have a release with this app.py, beside the others or in the place of one."""
        write_release(self.host.path(f"{HOME}/releases/{name}"), app)

    @property
    def release(self) -> str:
        """The name of the release that is current."""
        return Path(self.host.run("readlink", f"{HOME}/current").strip()).name

    def start(self) -> None:
        """Start the service, as its unit would."""
        words = [f"{HOME}/current/.venv/bin/outrider", "run", "shop:app", "--name", "shop"]
        with self._log.open("ab") as log:
            self._process = self.host.start(
                *words,
                directory=f"{HOME}/current",
                env=self._environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> int:
        """Wait for the end of the service; its exit status."""
        assert self._process is not None
        return self._process.wait(DEADLINE)

    def status(self) -> Status:
        """Of the service; raises OSError if there is none."""
        return cast("Status", fetch(str(self.host.path("/run/outrider/shop.sock")), "/v1/status").json())

    @property
    def generation(self) -> int:
        """Of the service."""
        (current,) = (each for each in self.status()["generations"] if each["state"] == "current")
        return current["number"]

    def kill_workers(self) -> None:
        """Kill all workers; the master makes new ones."""
        for each in (worker for generation in self.status()["generations"] for worker in generation["workers"]):
            os.kill(each["pid"], signal.SIGKILL)

    def wait_until_serving(self) -> None:
        """Wait until all workers are ready."""

        def is_serving() -> bool:
            with contextlib.suppress(OSError):
                status = self.status()
                return status["state"] == "serving" and status["capacity"] == status["target"]
            return False

        until(is_serving, START_DEADLINE, what=f"workers on {self.host.name}", explain=self.log_text)

    def version(self) -> str:
        """Which release answers here."""
        with self.host.entered():
            return fetch(("127.0.0.1", 8000), "/").field("x-version")

    def log_text(self) -> str:
        """What the service has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def write_release(directory: Path, app: str) -> None:
    """Write what a release consists of: this app, and gunicorn.conf.py of the page."""
    (configuration,) = files("docs/how-to/many-machines.md")
    programs = directory / ".venv/bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, script in (("pip", _PIP), ("outrider", _OUTRIDER)):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    (directory / "shop.py").write_text(app)
    (directory / configuration.path).write_text(configuration.text)


class Site:
    """The hosts, the proxy, and `client`, from which all is used."""

    def __init__(self, hosts: dict[str, Host], directory: Path) -> None:
        self.client = hosts["client"]
        self.proxy = hosts["proxy"]
        self.directory = directory
        self._log = directory / "haproxy.log"
        self._desk = directory / "desk"
        programs = directory / "bin"
        pids = directory / "pids"
        for each in (self._desk, programs, pids):
            each.mkdir()
        (self._desk / "deploy").symlink_to(REPOSITORY / "deploy")
        (programs / "ssh").write_text(_SSH.replace("PIDS", str(pids)))
        (programs / "ssh").chmod(0o755)
        for name, host in hosts.items():
            (pids / name).write_text(str(host.pid))
        self._environ = {
            **os.environ,
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(SUPPORT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PROBE_DIRECTORY": str(directory),
        }
        self.shops = {name: Shop(hosts[name], directory / f"{name}.log", self._environ) for name in SHOPS}

    def start(self) -> None:
        """Start all services and HAProxy, and wait until it uses all hosts."""
        for shop in self.shops.values():
            shop.start()
        for shop in self.shops.values():
            shop.wait_until_serving()
        self.proxy.path("/run/haproxy").mkdir()
        haproxy = self.start_proxy(PROXY_CONFIG.read_text())

        def is_up() -> bool:
            assert haproxy.poll() is None, self._log.read_text()
            return self.all_up()

        until(is_up, START_DEADLINE, what="HAProxy to use all hosts")

    def start_proxy(self, configuration: str) -> subprocess.Popen[bytes]:
        """Start a HAProxy."""
        path = self.proxy.path("/srv/haproxy.cfg")
        path.write_text(configuration)
        with self._log.open("ab") as log:
            return self.proxy.start("haproxy", "-db", "-f", str(path), stdout=log, stderr=subprocess.STDOUT)

    # What HAProxy says

    def _rows(self) -> list[dict[str, str]]:
        """HAProxy's statistics of the hosts, in each of the backends; none before it has started."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.proxy.path("/run/haproxy/admin.sock")))
            sock.sendall(b"show stat\n")
            text = b"".join(iter(lambda: sock.recv(1 << 16), b"")).decode()
            return [row for row in csv.DictReader(text.removeprefix("# ").splitlines()) if row["svname"] in SHOPS]
        return []

    def all_up(self) -> bool:
        """Whether HAProxy has asked each host, and uses it."""
        asked = [(row["status"], row["check_status"]) for row in self._rows() if row["pxname"] == "shop"]
        return asked == [("UP", "L7OK")] * len(SHOPS)

    def state_of(self, shop: Shop) -> str:
        """UP, DOWN, or something between them."""
        (row,) = (row for row in self._rows() if (row["pxname"], row["svname"]) == ("shop", shop.host.name))
        return row["status"]

    def in_flight(self, shop: Shop) -> int:
        """How many requests HAProxy has at a host."""
        return sum(int(row["scur"]) for row in self._rows() if row["svname"] == shop.host.name)

    def reused(self, backend: str) -> int:
        """How many requests of a backend have been sent on a connection that had been used before."""
        return sum(int(row["reuse"]) for row in self._rows() if row["pxname"] == backend)

    # What is done

    def build(self, app: str) -> None:
        """Have a release on the desk, to be brought to the hosts."""
        write_release(self._desk / "release", app)

    def bring(self, name: str, app: str, **others: str) -> None:
        """Bring a release to the hosts, with another app to some of them."""
        for shop in self.shops.values():
            shop.write_release(name, others.get(shop.host.name, app))

    def type(self, command: str, status: int = 0) -> str:
        """Type a command in a shell on the desk; it must end with this status. What it has written."""
        done = run_program(self.client.command("bash", "-c", command, directory=self._desk), env=self._environ)
        print(f"$ {command}\n{done.stdout}")
        assert done.returncode == status, f"{command}: exit status {done.returncode}\n{done.stdout}"
        return done.stdout

    def versions(self) -> list[str]:
        """Which release each host serves."""
        return [shop.version() for shop in self.shops.values()]

    def releases(self) -> list[str]:
        """Which release each host would serve after a reload."""
        return [shop.release for shop in self.shops.values()]

    def print_logs(self) -> None:
        """For who looks into a failure."""
        for shop in self.shops.values():
            print(f"--- {shop.host.name} ---\n{shop.log_text()}")
        if self._log.exists():
            print(f"--- HAProxy ---\n{self._log.read_text(errors='replace')}")


@contextlib.contextmanager
def running_site(directory: Path) -> Iterator[Site]:
    """The hosts with release 1, and HAProxy, which uses them."""
    check_programs({"haproxy": "haproxy"})
    with network(client="10.0.0.2", proxy="10.0.0.10", **SHOPS) as hosts:
        site = Site(hosts, directory)
        try:
            site.start()
            yield site
        finally:
            site.print_logs()
