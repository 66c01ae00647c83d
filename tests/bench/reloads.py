"""Compare how servers reload: what is lost, who has to wait, and what a broken deployment does to the service.

`make compare-reloads`, or with tests/support on PYTHONPATH: python tests/bench/reloads.py --help
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from outrider_testing import releases
from outrider_testing.http_client import Address, fetch
from outrider_testing.load import MIX, STALL, Load, Report
from outrider_testing.load_clients import Outcome
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.server_process import SUPPORT, ServerProcess
from outrider_testing.waiting import until

WORKERS = 2
RELOAD_DEADLINE = 60.0
SEEN = 20
"""Fresh connections in a row that a new release must answer to count as the one that serves."""
TAIL = 3.0
"""Seconds at the end of a load by which a broken deployment is judged."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server as it comes: its command line after `python -m`, where {port} stands for the port, and its name."""

    label: str
    command: tuple[str, ...]


GUNICORN = ("gunicorn", releases.APP, "-w", str(WORKERS), "-b", "127.0.0.1:{port}", "--no-control-socket")
PEERS = {
    "gunicorn-asgi": Peer("gunicorn `asgi`, HUP", (*GUNICORN, "-k", "asgi")),
    "uvicorn-worker": Peer("gunicorn + uvicorn-worker, HUP", (*GUNICORN, "-k", "uvicorn_worker.UvicornWorker")),
    "uvicorn": Peer(
        "uvicorn `--workers`, HUP",
        ("uvicorn", releases.APP, "--workers", str(WORKERS), "--port", "{port}", "--no-access-log"),
    ),
    "granian": Peer(
        "Granian, HUP",
        ("granian", releases.APP, "--interface", "asgi", "--workers", str(WORKERS), "--port", "{port}"),
    ),
    "h2corn": Peer(
        "h2corn, HUP",
        ("h2corn", releases.APP, "--workers", str(WORKERS), "--bind", "127.0.0.1:{port}", "--no-access-log"),
    ),
}
OUTRIDER = "outrider"
NAMES = (*PEERS, OUTRIDER)


class PeerProcess(ServerProcess):
    """One of the peers."""

    def __init__(self, directory: Path, peer: Peer) -> None:
        self._port = free_port()
        command = [word.format(port=self._port) for word in peer.command]
        path = os.pathsep.join([str(directory), str(SUPPORT)])
        env = {"PYTHONPATH": os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))}
        super().__init__(directory, command, "", {"env": env, "files": {"app.py": releases.good(1)}})

    @property
    def address(self) -> Address:
        """Where it listens."""
        return "127.0.0.1", self._port

    def reload(self) -> None:
        """Ask for a reload in the one way there is."""
        self.signal(signal.SIGHUP)


class Service:
    """A running server, whichever it is."""

    def __init__(self, name: str, directory: Path) -> None:
        self.server: PeerProcess | OutriderProcess
        if name == OUTRIDER:
            files = {"app.py": releases.good(1)}
            self.server = OutriderProcess(directory, releases.APP, "-w", str(WORKERS), files=files)
        else:
            self.server = PeerProcess(directory, PEERS[name])
        self._versions = 1

    def reload_next(self) -> None:
        """Deploy the next release, reload, and wait until it serves alone."""
        self._versions += 1
        self.deploy(releases.good(self._versions))
        self.wait_for(str(self._versions))

    def deploy(self, app: str) -> None:
        """Deploy a release and reload."""
        releases.deploy(self.server.directory, app)
        self.server.reload()

    def wait_for(self, version: str) -> None:
        """Wait until a release answers `SEEN` connections in a row."""

        def serves_alone() -> bool:
            with contextlib.suppress(OSError, ValueError, IndexError):  # of a server that does not listen yet
                return all(
                    fetch(self.server.address, "/", timeout=5.0).field("x-version") == version for _ in range(SEEN)
                )
            return False

        until(serves_alone, RELOAD_DEADLINE, what=f"release {version}\n{self.server.log_text()[-2000:]}")

    @property
    def lives(self) -> bool:
        """Whether the process that was started is still there."""
        return self.server.process.poll() is None


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a broken deployment has done: seen in the last seconds of a load."""

    lives: bool
    failing: float
    """Share of the requests that fail in the end, 0 to 1."""
    lost: int
    """Requests lost on the way."""

    def __str__(self) -> str:
        if not self.lives:
            return "**no**: the service ended"
        if self.failing:
            return f"**no**: {self.failing:.0%} fail"
        return f"yes, {self.lost} lost"


@dataclass(frozen=True, slots=True)
class Row:
    """One server's readings."""

    label: str
    report: Report
    faults: tuple[Verdict, ...]


FAULTS: dict[str, str] = {
    "survives an import error": "import no_such_module\n",
    "notices 50 % 5xx": releases.faulty(2, "half fails"),
    "survives a crash 2 s after ready": releases.faulty(2, "crashes", seconds=2.0),
}


@contextlib.contextmanager
def running(name: str) -> Iterator[Service]:
    """Run a server in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="reloads-") as directory:
        service = Service(name, Path(directory))
        try:
            service.wait_for("1")
            yield service
        finally:
            with contextlib.suppress(AssertionError):  # a peer that must be killed is no failure of the comparison
                service.server.stop()


def run_load(service: Service, options: argparse.Namespace, actions: Sequence[Callable[[], object]]) -> Report:
    """Load a service while the actions run."""
    mix = {kind: rate * options.rate for kind, rate in MIX.items()}
    return asyncio.run(Load(service.server.address, mix=mix).run(options.requests, actions))


def judge(report: Report, *, lives: bool) -> Verdict:
    """Say how the service does in the last `TAIL` seconds of a load, and what was lost in all."""
    end = max(each.begun for each in report.exchanges)
    tail = [each for each in report.exchanges if each.begun >= end - TAIL]
    failing = sum(each.outcome is not Outcome.OK for each in tail) / len(tail)
    return Verdict(lives, failing, len(report.lost))


def measure(name: str, options: argparse.Namespace) -> Row:
    """Reload a server under load, then deploy to it, each time anew, what is broken."""
    with running(name) as service:
        report = run_load(service, options, [service.reload_next] * options.reloads)
    say(f"{name}: {report}")
    verdicts = []
    for fault, app in FAULTS.items():
        with running(name) as service:
            broken = run_load(service, options, [partial(service.deploy, app)])
            verdicts.append(judge(broken, lives=service.lives))
        say(f"{name}, {fault}: {verdicts[-1]}\n{broken}")
    label = "Outrider, `outrider reload`" if name == OUTRIDER else PEERS[name].label
    return Row(label, report, tuple(verdicts))


def render(rows: Sequence[Row]) -> str:
    """The table, in Markdown."""
    kinds = [outcome for outcome in Outcome if any(row.report.count(outcome) for row in rows) and outcome != Outcome.OK]
    heads = [
        "Server",
        "requests",
        *(f"lost: {kind}" for kind in kinds),
        f"waits > {STALL * 1000:.0f} ms",
        "longest wait",
    ]
    heads += FAULTS
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for row in rows:
        report = row.report
        cells = [row.label, f"{report.requests}", *(f"{report.count(kind)}" for kind in kinds)]
        cells += [f"{len(report.stalls)}", f"{report.longest_wait * 1000:.0f} ms", *map(str, row.faults)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    """Tell how it goes."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; the exit status."""
    parser = argparse.ArgumentParser(description="Compare how servers reload.")
    parser.add_argument("--servers", default=",".join(NAMES), help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--reloads", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=20_000, help="at least, in each load (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=2.0, help="times 405 requests a second (default: %(default)s)")
    options = parser.parse_args(argv)
    names = options.servers.split(",")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"{', '.join(unknown)} is not among {', '.join(NAMES)}")
    started = time.monotonic()
    print(render([measure(name, options) for name in names]))
    say(f"in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
