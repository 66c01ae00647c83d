"""Outrider itself under wrk, from one worker to four and back.

The handler blocks its loop without using the processor, so that four loops are of use on a machine with two cores.
wrk's clients think between two requests, so that the load is what the phase says, if it is answered in time.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import matplotlib as mpl
from matplotlib.figure import Figure

import wrk
from outrider_supervisor.status import Status
from outrider_testing.outrider_process import OutriderProcess

BLOCK_SECONDS = 0.02
THINK_SECONDS = 0.3
MAX_WORKERS = 4
SAMPLE_PERIOD = 0.5
APP = f"""\
import time

HEADERS = [(b"content-length", b"2"), (b"content-type", b"text/plain")]


async def app(scope, receive, send):
    if scope["type"] == "http":
        time.sleep({BLOCK_SECONDS})
        await send({{"type": "http.response.start", "status": 200, "headers": HEADERS}})
        await send({{"type": "http.response.body", "body": b"ok"}})
"""
_SCRIPT = """
delay = function() return {think} end
{done}
"""


@dataclass(frozen=True, slots=True)
class Phase:
    """A load for a while."""

    seconds: int
    connections: int

    @property
    def demand(self) -> float:
        """Loops that it keeps busy where none is late."""
        return self.connections * BLOCK_SECONDS / (BLOCK_SECONDS + THINK_SECONDS)


PHASES = (Phase(20, 5), Phase(70, 48), Phase(110, 20), Phase(100, 5))


@dataclass(frozen=True, slots=True)
class Moment:
    """The service at a time."""

    at: float
    serving: int
    target: int
    demand: float | None
    p99_ms: float | None
    """Of the last ten seconds."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it."""

    moments: tuple[Moment, ...]
    results: tuple[wrk.Result, ...]
    log: str

    @property
    def errors(self) -> int:
        """What wrk counts as an error: connections, reads, writes, statuses above 399, timeouts."""
        return sum(sum(result.errors.values()) for result in self.results)


def measure(phases: tuple[Phase, ...] = PHASES) -> Run:
    """Serve, load, look."""
    with tempfile.TemporaryDirectory() as name:
        workdir = Path(name)
        server = OutriderProcess(workdir, "app:app", "--max-workers", str(MAX_WORKERS), files={"app.py": APP})
        try:
            server.wait_until_ready(1)
            with _Sampler(server.status) as sampler:
                results = tuple(_load(server, phase, workdir) for phase in phases)
            return Run(tuple(sampler.moments), results, server.log_text())
        finally:
            server.stop()


def _load(server: OutriderProcess, phase: Phase, workdir: Path) -> wrk.Result:
    script = workdir / "think.lua"
    script.write_text(_SCRIPT.format(think=int(1000 * THINK_SECONDS), done=wrk.DONE))
    address = server.address
    assert isinstance(address, tuple)
    options = ["-t1", f"-c{phase.connections}", f"-d{phase.seconds}s", "--timeout", "30s", "-s", str(script)]
    done = subprocess.run(
        ["wrk", *options, f"http://{address[0]}:{address[1]}/"],
        capture_output=True,
        text=True,
        timeout=phase.seconds + 60,
        check=False,
    )
    return wrk.parse(done.stdout + done.stderr)


class _Sampler(threading.Thread):
    """Asks for the status in a thread of its own, while the context lasts."""

    def __init__(self, status: Callable[[], Status]) -> None:
        super().__init__(daemon=True)
        self.moments: list[Moment] = []
        self._status = status
        self._ends = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self.join()

    def run(self) -> None:
        """Look until the context ends."""
        begun = time.monotonic()
        while not self._ends.wait(SAMPLE_PERIOD):
            status = self._status()
            autoscaler = status["autoscaler"]
            demand = autoscaler["demand"] if autoscaler is not None else None
            p99 = status["rates"]["p99_ms"]
            self.moments.append(Moment(time.monotonic() - begun, status["capacity"], status["target"], demand, p99))


def render(run: Run, phases: tuple[Phase, ...] = PHASES) -> str:
    """A table of the phases, and the decisions."""
    lines = ["| Seconds | Connections | Demand | Requests | p99 ms | Errors |", "|---|---|---|---|---|---|"]
    for phase, result in zip(phases, run.results, strict=True):
        errors = sum(result.errors.values())
        lines.append(
            f"| {phase.seconds} | {phase.connections} | {phase.demand:.1f} | {result.requests} "
            f"| {result.p99_us / 1000:.0f} | {errors} |"
        )
    return "\n".join([*lines, "", *(line for line in run.log.splitlines() if "scaled " in line)])


def draw(run: Run, path: Path, phases: tuple[Phase, ...] = PHASES) -> None:
    """Write a PNG: workers and demand above, the latency below."""
    mpl.use("Agg")
    figure = Figure(figsize=(10, 5), layout="constrained")
    workers, latency = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    times = [moment.at for moment in run.moments]
    workers.step(times, [moment.serving for moment in run.moments], where="post", color="#c8501e", label="workers")
    workers.step(
        times, [moment.target for moment in run.moments], where="post", color="#c8501e", ls=":", label="target"
    )
    workers.plot(times, [moment.demand for moment in run.moments], color="#5b7a99", lw=0.9, label="demand, measured")
    begins = 0
    for number, phase in enumerate(phases):
        ends = begins + phase.seconds
        workers.hlines(phase.demand, begins, ends, color="#7a9a5b", label=None if number else "demand, offered")
        begins = ends
    workers.set_ylim(0, MAX_WORKERS + 0.5)
    workers.legend(fontsize=8, loc="upper right")
    latency.plot(times, [moment.p99_ms for moment in run.moments], color="#2b4c6f", lw=0.9)
    latency.set_yscale("log")
    latency.set_ylabel("p99, ms", fontsize=8)
    latency.set_xlabel("seconds", fontsize=8)
    requests = sum(result.requests for result in run.results)
    workers.set_title(f"{requests} requests, {run.errors} errors", fontsize=10, loc="left")
    figure.savefig(path, dpi=110)
