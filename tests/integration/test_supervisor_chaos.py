"""Whoever is killed, at whatever moment, takes with it only what it held; the service always accepts connections.

OUTRIDER_SOAK=1 in the environment asks for the long version.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter

import psutil
import pytest

from outrider_testing import releases
from outrider_testing.load import MIX, Load, Report
from outrider_testing.load_clients import Exchange, Outcome, Pace
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.processes import read_process, session_members
from outrider_testing.serving import Supervise

SOAK = bool(os.environ.get("OUTRIDER_SOAK"))
WORKERS = 3
KILLS = 200 if SOAK else 12
REQUESTS = KILLS * (300 if SOAK else 120)
RELOAD_EVERY = 4
SEED = 7
MASTERS = 0.25
NEWS_TAKE = 1.0
LONGEST_ABSENCE = 20.0
"""Seconds without any process: the pause before the next attempt where nothing serves (5 s), and a slow boot."""

# No crash is one too many here, so none makes the next worker wait.
OPTIONS = ("--restart-intensity", "1000", "--canary-seconds", "0.3", "--canary-requests", "0")
PACE = Pace() if SOAK else Pace(silence=(0.3, 0.6), stream=(0.6, 0.8))
STOPPED = "T"


class Killer:
    """Kills processes of one server, and knows which connections each of them held."""

    def __init__(self, server: OutriderProcess, seed: int) -> None:
        self.killed: Counter[str] = Counter()
        self.blows: list[tuple[float, set[int]]] = []
        self._server = server
        self._chance = random.Random(seed)
        self._reload: subprocess.Popen[str] | None = None
        self._release = 1

    def kill_somebody(self) -> None:
        """Kill a worker or, less often, a master, in whatever state it is."""
        # There may be nobody, when all have been killed.
        self._server.until(lambda: any(self._find_victims()), LONGEST_ABSENCE, "somebody to kill")
        workers, masters = self._find_victims()
        if not workers and not masters:
            return
        is_a_master = not workers or (masters and self._chance.random() < MASTERS)
        pid, kind = self._chance.choice(masters if is_a_master else workers)
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            self._kill(pid)
            self.killed[kind] += 1

    def _find_victims(self) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
        """The pids of workers and of masters, with what they are at the moment."""
        generations = self._server.status()["generations"]
        workers = [(worker["pid"], f"{worker['state']} worker") for each in generations for worker in each["workers"]]
        masters = [(pid, f"master of {each['state']}") for each in generations if (pid := each["master_pid"])]
        return workers, masters

    def _kill(self, pid: int) -> None:
        """Kill a process, stopped before: so what it holds is known, and does not change any more."""
        os.kill(pid, signal.SIGSTOP)
        try:
            self._server.until(lambda: (row := read_process(pid)) is None or row.state in {STOPPED, "Z"}, what="stop")
            held = psutil.Process(pid).net_connections("tcp")
            self.blows.append(
                (
                    time.monotonic(),
                    {connection.raddr.port for connection in held if connection.status != psutil.CONN_LISTEN},
                )
            )
        finally:
            os.kill(pid, signal.SIGKILL)

    def has_hit(self, exchange: Exchange, lateness: float) -> bool:
        """Tell whether a process that was killed held the connection of a request.

        A client may send its request a moment later, before it has heard of the end of its connection; where the load
        was late, by so many seconds more.
        """
        return any(
            exchange.port in ports and exchange.begun - NEWS_TAKE - lateness <= when <= exchange.ended
            for when, ports in self.blows
        )

    def begin_reload(self) -> None:
        """Begin a reload, if there is none, and do not wait for it."""
        if self._reload is None or self._reload.poll() is not None:
            self.end_reload()
            self._release += 1
            releases.deploy(self._server.directory, releases.good(self._release))
            self._reload = self._server.begin("reload")

    def end_reload(self) -> None:
        """Wait for the reload, however it ends: it may be what was killed."""
        if self._reload is not None:
            completed = self._server.finish(self._reload)
            print(f"reload ended with {completed.code}: {completed.output.splitlines()[-1:]}")


def check(report: Report, killer: Killer) -> None:
    print(f"killed: {dict(killer.killed)}\n{report}")
    assert report.count(Outcome.REFUSED) == 0, f"{report}"
    assert report.count(Outcome.SERVER_ERROR, Outcome.WRONG, Outcome.NO_ANSWER) == 0, f"{report}"
    innocent = [each for each in report.lost if not killer.has_hit(each, report.lateness)]
    assert not innocent, f"{innocent}\n{report}"


@pytest.mark.timeout(1800 if SOAK else 120)
def test_killed_process_takes_with_it_only_what_it_held(supervise: Supervise) -> None:
    server = supervise(*OPTIONS, workers=WORKERS)
    killer = Killer(server, SEED)
    actions = [
        killer.begin_reload if number % RELOAD_EVERY == 0 else killer.kill_somebody
        for number in range(KILLS * RELOAD_EVERY // (RELOAD_EVERY - 1))
    ]
    report = asyncio.run(Load(server.address, mix=MIX, pace=PACE).run(REQUESTS, actions))
    killer.end_reload()
    check(report, killer)
    server.wait_until_settled(WORKERS, deadline=60.0)
    current = server.current()
    family = {server.pid, current["master_pid"], *server.workers()}
    server.until(lambda: set(session_members(server.pid)) == family, 20.0, f"nobody but {family}")
    assert server.get("/").body == b"hello"
