"""What the metrics count is what clients count, whoever dies and whatever is reloaded meanwhile.

OUTRIDER_SOAK=1 in the environment asks for the long version.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from outrider_testing import releases
from outrider_testing.load import Load
from outrider_testing.load_clients import HalfSentPostClient, KeepAliveClient, NewConnectionClient, Outcome, Pace
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Supervise

SOAK = bool(os.environ.get("OUTRIDER_SOAK"))
WORKERS = 3
ROUNDS = 10 if SOAK else 2
"""Of a reload and a kill each."""
REQUESTS = ROUNDS * (2000 if SOAK else 300)
MIX = {KeepAliveClient: 200, NewConnectionClient: 100, HalfSentPostClient: 30}
PACE = Pace(silence=(0.0, 0.2))


def count_requests(server: OutriderProcess) -> int:
    """Return how many requests the pool has answered, of all methods and classes."""
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(server.ask_admin("/metrics").text)
        for sample in family.samples
        if sample.name == "outrider_requests_total"
    )


@pytest.mark.timeout(1800 if SOAK else 120)
def test_counters_equal_what_clients_count(supervise: Supervise) -> None:
    # No crash is one too many here, so none makes the next worker wait.
    server = supervise("--admin-bind", "127.0.0.1:0", "--no-canary", "--restart-intensity", "1000", workers=WORKERS)
    release = 1

    def reload() -> None:
        nonlocal release
        release += 1
        releases.deploy(server.directory, releases.good(release))
        server.reload().check()

    def kill() -> None:
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_until_settled(WORKERS)

    before = count_requests(server)
    report = asyncio.run(Load(server.address, mix=MIX, pace=PACE).run(REQUESTS, [reload, kill] * ROUNDS))
    counted = count_requests(server) - before
    answered = report.count(Outcome.OK)
    print(f"{counted} counted, {answered} answered\n{report}")
    # What a killed worker had in flight may have been counted, and its answer not have arrived.
    assert answered <= counted <= report.requests
