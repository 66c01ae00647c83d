"""No request is lost while workers are replaced, whatever state its connection is in.

OUTRIDER_SOAK=1 in the environment asks for the long version.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from outrider_testing.gunicorn_process import PROBE
from outrider_testing.load import MIX, Load, Report
from outrider_testing.load_clients import Pace
from outrider_testing.serving import Serve

SOAK = bool(os.environ.get("OUTRIDER_SOAK"))
REQUESTS = 20_000 if SOAK else 3_000
PACE = Pace() if SOAK else Pace(silence=(0.5, 1.0), stream=(1.0, 1.2))
RELOADS = 6
RECYCLINGS = REQUESTS // 400

# Far above what a drain takes: nothing shall be lost to a deadline.
OPTIONS = ("--graceful-timeout", "30")


def check(report: Report) -> None:
    print(report)
    assert report.requests >= REQUESTS
    assert all(report.requests_of(kind) >= 50 for kind in MIX), f"too few requests of a kind\n{report}"
    assert not report.lost, f"{report}"


@pytest.mark.timeout(900)
def test_no_request_is_lost_in_six_reloads(serve: Serve) -> None:
    server = serve(PROBE, *OPTIONS, workers=2)
    before = server.workers()
    report = asyncio.run(Load(server.address, pace=PACE).run(REQUESTS, [server.reload] * RELOADS))
    check(report)
    assert len(server.booted_workers()) == len(before) * (RELOADS + 1)


@pytest.mark.timeout(900)
def test_no_request_is_lost_in_recycling(serve: Serve) -> None:
    server = serve(PROBE, *OPTIONS, "--max-requests", "300", "--max-requests-jitter", "50", workers=2)

    def wait_until_recycled() -> None:
        server.until(lambda: len(server.booted_workers()) >= 2 + RECYCLINGS, 600 if SOAK else 60)

    check(asyncio.run(Load(server.address, pace=PACE, seed=1).run(REQUESTS, [wait_until_recycled])))
