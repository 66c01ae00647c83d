"""No request is lost while the supervisor replaces what serves, whatever state the request's connection is in.

OUTRIDER_SOAK=1 in the environment asks for the long version.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from outrider_testing import releases
from outrider_testing.launchers import BUSY_MACHINE
from outrider_testing.load import MIX, STALL, Load, Report, percentile
from outrider_testing.load_clients import Pace
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Supervise

SOAK = bool(os.environ.get("OUTRIDER_SOAK"))
WORKERS = 2
RELOADS = 20 if SOAK else 2
REQUESTS = 100_000 if SOAK else 500
# A machine that has time for the long version is taken to be faster. The short one has enough of the slowest clients.
RATES = {kind: rate * 2.5 if SOAK else max(rate, 30) for kind, rate in MIX.items()}
PACE = Pace() if SOAK else Pace(silence=(0.2, 0.5), stream=(0.4, 0.6))

# The drain's deadline is far above what a drain takes: nothing shall be lost to it.
OPTIONS = ("--graceful-timeout", "30", "--canary-requests", "10", "--canary-seconds", "2" if SOAK else "0.2")
LAUNCHER = () if SOAK else BUSY_MACHINE

SURGES = (1, WORKERS)
BINDS = ("tcp", "unix")
PRELOADS = (False, True)
SCENARIOS = tuple(itertools.product(SURGES, BINDS, PRELOADS))
if not SOAK:
    SCENARIOS = ((1, "tcp", False), (WORKERS, "unix", True))

pytestmark = pytest.mark.timeout(1800 if SOAK else 120)


def load(server: OutriderProcess, actions: list[Callable[[], object]], requests: int = REQUESTS) -> Report:
    """Load the server while the actions run, and see that nothing was lost."""
    report = asyncio.run(Load(server.address, mix=RATES, pace=PACE).run(requests, actions))
    print(report)
    assert report.requests >= requests
    assert all(report.requests_of(kind) >= 20 for kind in MIX), f"too few requests of a kind\n{report}"
    assert not report.lost, f"{report}"
    return report


def check_waits(report: Report) -> None:
    """Look at how long users waited: what a busy machine does to that must not fail a bounded run."""
    if SOAK:
        steady, acting = (percentile(report.waits(acting=acting), 99) for acting in (False, True))
        # New processes are started on the cores that serve: 20 ms are theirs.
        assert acting <= 1.5 * steady + 0.020, f"{report}"
        assert report.longest_wait <= STALL + report.lateness, f"{report}"


def reload_to_next_release(server: OutriderProcess) -> Callable[[], None]:
    """Make an action that deploys the next release and reloads."""
    versions = itertools.count(2)

    def reload() -> None:
        releases.deploy(server.directory, releases.good(next(versions)))
        server.reload().check()

    return reload


@pytest.mark.parametrize("surge, bind, preload", SCENARIOS)
def test_no_request_is_lost_in_reloads(
    supervise: Supervise, surge: int, bind: str, preload: bool, tmp_path: Path
) -> None:
    options = ["--max-surge", str(surge)]
    if bind == "unix":
        options += ["--bind", f"unix:{tmp_path}/s"]
    if preload:
        options.append("--preload")
    server = supervise(*OPTIONS, *options, workers=WORKERS, launcher=LAUNCHER)
    report = load(server, [reload_to_next_release(server)] * RELOADS)
    assert set(report.versions) == {str(number) for number in range(1, RELOADS + 2)}, f"{report}"
    server.wait_until_settled(WORKERS, generation=RELOADS + 1)
    check_waits(report)


def test_no_request_waits_for_an_app_that_imports_slowly(supervise: Supervise) -> None:
    server = supervise(*OPTIONS, workers=WORKERS, launcher=LAUNCHER)

    def reload() -> None:
        releases.deploy(server.directory, releases.slow_to_import(2, 5.0 if SOAK else 0.6))
        server.reload().check()

    report = load(server, [reload])
    assert set(report.versions) == {"1", "2"}
    check_waits(report)


def test_no_request_is_lost_in_recycling(supervise: Supervise) -> None:
    server = supervise(*OPTIONS, workers=WORKERS, launcher=LAUNCHER)
    met = set(server.workers())

    def recycle() -> None:
        server.recycle().check()
        now = set(server.workers())
        assert not now & met
        met.update(now)

    times = 20 if SOAK else 1
    report = load(server, [recycle] * times)
    assert len(met) == WORKERS * (times + 1)
    check_waits(report)


def test_no_request_is_lost_when_workers_reach_max_requests(supervise: Supervise) -> None:
    server = supervise(
        *OPTIONS, "--max-requests", "150", "--max-requests-jitter", "20", workers=WORKERS, launcher=LAUNCHER
    )
    first = set(server.workers())

    def wait_until_recycled() -> None:
        server.until(lambda: len(server.workers()) >= WORKERS and not first & set(server.workers()), 60.0)

    load(server, [wait_until_recycled])


def test_no_request_is_lost_in_upgrades(supervise: Supervise) -> None:
    server = supervise(*OPTIONS, workers=WORKERS, launcher=LAUNCHER)
    before = server.workers()

    def upgrade() -> None:
        server.upgrade().check()

    report = load(server, [upgrade] * (5 if SOAK else 1))
    assert server.process.poll() is None
    assert server.workers() == before
    check_waits(report)


def test_no_request_is_lost_in_scaling(supervise: Supervise) -> None:
    server = supervise(*OPTIONS, workers=1, launcher=LAUNCHER)

    def scale_up_and_down() -> None:
        for workers in (8 if SOAK else 4, 1):
            server.scale(workers).check()
            server.wait_until_settled(workers, generation=1)

    report = load(server, [scale_up_and_down] * (5 if SOAK else 1))
    check_waits(report)


if SOAK:  # it is all about time

    def test_four_workers_that_take_a_second_to_boot_are_rolled_in_eight(supervise: Supervise) -> None:
        canary_seconds = 2.0
        server = supervise(
            "--canary-seconds", str(canary_seconds), "--canary-requests", "0", "--max-surge", "1", workers=4
        )
        releases.deploy(server.directory, releases.slow_to_import(2, 1.0))
        begun = time.monotonic()
        server.reload().check()
        taken = time.monotonic() - begun
        print(f"{taken:.1f} s, {canary_seconds:g} of them for the canary")
        assert taken <= 8 + canary_seconds
