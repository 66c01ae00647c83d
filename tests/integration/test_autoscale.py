"""The number of workers follows the load, and no request is lost on the way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from outrider_testing.load import Load, Report
from outrider_testing.load_clients import KeepAliveClient, NewConnectionClient
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Supervise

BLOCKS = """\
import time

from outrider_testing.apps.release import make

release = make("1")


async def app(scope, receive, send):
    if scope["type"] == "http":
        time.sleep(0.05)
    await release(scope, receive, send)
"""
"""Holds its loop without using the processor: then the number of cores is no limit."""

OPTIONS = ("--max-workers", "3", "--scale-up-window", "1", "--scale-down-window", "3", "--keep-alive", "30")
HEAVY, LIGHT = 36, 6
"""Requests a second that keep 1.8 and 0.3 loops busy."""
DEADLINE = 60.0


def load(server: OutriderProcess, rate: float, workers: int) -> Report:
    """Load it until so many serve and nobody is to come or go, and a little longer."""

    def settle() -> None:
        server.until(lambda: server.is_settled(workers), DEADLINE, f"{workers} workers")

    mix = {KeepAliveClient: rate / 2, NewConnectionClient: rate / 2}
    report = asyncio.run(Load(server.address, mix=mix).run(int(rate), [settle]))
    print(report)
    return report


def seen(server: OutriderProcess, is_wanted: Callable[[float], bool]) -> str:
    """Wait until demand is as wanted; the reason that status gives meanwhile."""

    def look() -> str:
        shown = server.status()["autoscaler"]
        assert shown is not None
        assert (shown["min"], shown["max"], shown["vetoes"]) == (1, 3, [])
        return shown["reason"] if shown["demand"] is not None and is_wanted(shown["demand"]) else ""

    return server.until(look, what="a demand in the status")


def test_pool_grows_under_load_and_shrinks_after_it_and_no_request_is_lost(supervise: Supervise) -> None:
    server = supervise(*OPTIONS, workers=1, files={"app.py": BLOCKS})
    assert seen(server, lambda demand: demand < 0.5).startswith("demand 0.")
    rising = load(server, HEAVY, workers=3)
    falling = load(server, LIGHT, workers=1)
    assert rising.lost == falling.lost == []
    steps = re.findall(r"scaled (\d) → (\d): demand \d\.\d\d", server.log_text())
    targets = [after for _, after in steps]
    # Whether by one at a time depends on how late the loop is already.
    assert (steps[0][0], max(targets), targets[-1]) == ("1", "3", "1")
