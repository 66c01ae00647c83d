"""Measure one server under one load, once."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h2load
import held
import procstat
import unix_client
import websocket_client
import wrk
from loads import Load, Tool
from process import RunningServer, ServerError
from servers import Server

_LOGGED_SHARE = 0.99


@dataclass(frozen=True, slots=True)
class Setup:
    """What is the same for all measurements."""

    seconds: int
    server_core: int
    load_core: int
    max_connections: int
    """How many idle connections the limit of open files allows."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement; what a load does not measure is 0."""

    requests_per_second: float = 0.0
    cpu_us: float = 0.0
    """CPU of all the server's processes, microseconds per request or message."""
    p50_us: float = 0.0
    p99_us: float = 0.0
    rss_kib: int = 0
    """Resident memory of the worker after the load."""
    pss_kib: int = 0
    core_use: float = 0.0
    """Share of its core that the server used."""
    foreign_use: float = 0.0
    """Share of the server's core that others used."""
    kib_per_connection: float = 0.0
    idle_use: float = 0.0
    """Share of its core that the server used with no connection open."""
    faults: dict[str, int] = field(default_factory=dict)
    """What went wrong, by kind: the figures hold only with that said."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A measurement that could not be made."""

    reason: str


def measure(server: Server, load: Load, setup: Setup) -> Sample | Failure:
    """Start ``server``, put ``load`` on it, stop it and return what was seen."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        workdir = Path(name)
        try:
            with RunningServer(server, load, setup.server_core, workdir) as running:
                if load.tool is Tool.IDLE:
                    return _measure_idle(running, load, setup)
                return _measure_requests(running, load, setup, workdir)
        except (ServerError, wrk.LoadError, OSError) as error:
            return Failure(str(error))


def _measure_requests(running: RunningServer, load: Load, setup: Setup, workdir: Path) -> Sample:
    at_rest = procstat.memory(running.tree())
    with contextlib.ExitStack() as opened:
        connections = opened.enter_context(held.idle_connections(running.address, load, load.held))
        generate = opened.enter_context(_generator(running, load, setup, workdir))
        holding = procstat.memory(running.tree())
        lines_before = running.logged_lines()
        busy_before = procstat.core_busy(setup.server_core)
        before = procstat.usage(running.tree())
        started = time.monotonic()
        result = generate()
        after = procstat.usage(running.tree())
        elapsed = time.monotonic() - started
        busy = procstat.core_busy(setup.server_core) - busy_before
        running.check_alive()
        closed = len(connections) - held.still_open(connections)
    if not result.requests:
        raise ServerError(f"answered no {load.unit} of the load")
    logged = running.logged_lines() - lines_before if load.access_log else result.requests
    cpu = procstat.cpu_seconds(before, after)
    worker = procstat.memory([procstat.busiest(before, after)])
    return Sample(
        requests_per_second=result.requests / result.seconds,
        cpu_us=cpu / result.requests * 1e6,
        p50_us=result.p50_us if load.pipeline == 1 else 0.0,
        p99_us=result.p99_us if load.pipeline == 1 else 0.0,
        rss_kib=worker.rss,
        pss_kib=worker.pss,
        core_use=cpu / elapsed,
        foreign_use=max(0.0, (busy - cpu) / elapsed),
        kib_per_connection=(holding.pss - at_rest.pss) / load.held if load.held else 0.0,
        faults=_faults(result, closed, logged),
    )


def _faults(result: wrk.Result, closed: int, logged: int) -> dict[str, int]:
    not_logged = result.requests - logged
    tolerated = (1 - _LOGGED_SHARE) * result.requests  # lines of the last requests may still be on their way
    found = {
        **result.errors,
        "idle connections closed": closed,
        "requests not logged": not_logged if not_logged > tolerated else 0,
    }
    return {kind: count for kind, count in found.items() if count}


@contextlib.contextmanager
def _generator(running: RunningServer, load: Load, setup: Setup, workdir: Path) -> Iterator[Callable[[], wrk.Result]]:
    """Prepare what is not measured, and give a function that makes the load."""
    address, seconds, core = running.address, setup.seconds, setup.load_core
    if load.tool is Tool.WEBSOCKET_CLIENT:
        with held.websockets(address, load, load.connections) as websockets:
            yield lambda: websocket_client.run(websockets, load, seconds, core)
    elif load.tool is Tool.H2LOAD:
        yield lambda: h2load.run(load, address, seconds, core)
    elif address.uds is not None:
        path = address.uds
        yield lambda: unix_client.run(load, path, seconds, core)
    else:
        yield lambda: wrk.run(load, address, seconds, core, workdir)


def _measure_idle(running: RunningServer, load: Load, setup: Setup) -> Sample:
    count = min(load.held, setup.max_connections)
    idle_use = _use_of_core(running, setup.seconds)
    at_rest = procstat.memory(running.tree())
    with held.idle_connections(running.address, load, count) as connections:
        holding = procstat.memory(running.tree())
        core_use = _use_of_core(running, setup.seconds)
        running.check_alive()
        closed = count - held.still_open(connections)
    faults = {
        "idle connections closed": closed,
        "connections too few (limit of open files)": load.held - count,
    }
    return Sample(
        rss_kib=holding.rss,
        pss_kib=holding.pss,
        core_use=core_use,
        kib_per_connection=(holding.pss - at_rest.pss) / count,
        idle_use=idle_use,
        faults={kind: number for kind, number in faults.items() if number},
    )


def _use_of_core(running: RunningServer, seconds: float) -> float:
    before = procstat.usage(running.tree())
    started = time.monotonic()
    time.sleep(seconds)
    after = procstat.usage(running.tree())
    return procstat.cpu_seconds(before, after) / (time.monotonic() - started)
