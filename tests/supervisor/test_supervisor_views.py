"""What the supervisor shows of its workers: readiness, metrics, status, history."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from outrider.errors import ConfigurationError
from outrider.scoreboard import Field, Scoreboard, WorkerState
from outrider_supervisor import control_commands as commands
from outrider_supervisor.exposition import OPENMETRICS
from outrider_supervisor.messages import WorkerReady
from outrider_supervisor.supervisor import CALM_TICK
from outrider_testing.fake_masters import SupervisorScene
from outrider_testing.fakes import ManualLoop
from outrider_testing.services import make_service
from outrider_testing.waiting import until

MANY = 16
MOST_SCRAPE_SECONDS = 0.01


@pytest.fixture
def scene(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SupervisorScene]:
    scene = SupervisorScene(loop, tmp_path, monkeypatch)
    yield scene
    scene.close()


def test_service_is_ready_while_enough_workers_serve(scene: SupervisorScene) -> None:
    scene.service = make_service(errorlog=str(scene.log), canary=False, workers=2, min_workers=2, max_workers=4)
    supervisor = scene.supervisor
    assert supervisor.unreadiness() == "starting"
    first, _ = scene.start(workers=2)
    assert supervisor.unreadiness() == ""
    scene.end_worker(1, first, expected=False)
    scene.until(supervisor.unreadiness, "a service that is not ready")
    assert supervisor.unreadiness() == "1 of 2 workers ready"
    scene.masters[1].say(WorkerReady(scene.spawn(1)))
    scene.until(lambda: not supervisor.unreadiness(), "a service that is ready")
    supervisor.submit(commands.StopService(fast=False))
    assert supervisor.unreadiness() == "stopping"


def test_service_without_limits_is_ready_while_one_worker_serves(scene: SupervisorScene) -> None:
    scene.service = make_service(errorlog=str(scene.log), canary=False, workers=2)
    first, second = scene.start(workers=2)
    scene.end_worker(1, first, expected=False)
    scene.until(lambda: scene.supervisor.machine.fleet.capacity == 1, "a worker less")
    assert scene.supervisor.unreadiness() == ""
    scene.end_worker(1, second, expected=False)
    scene.until(scene.supervisor.unreadiness, "a service that is not ready")
    assert scene.supervisor.unreadiness() == "0 of 1 worker ready"


def test_metrics_are_those_of_the_scoreboard(scene: SupervisorScene) -> None:
    (pid,) = scene.start()
    row = Scoreboard.from_descriptor(scene.supervisor.seam.scoreboard).claim(1)
    row.adopt(pid)
    row[Field.REQUESTS] = 7
    row[Field.BYTES_OUT] = 99
    text, media_type = scene.supervisor.metrics("")
    assert media_type.startswith("text/plain; version=0.0.4")
    assert f'outrider_worker_requests_total{{generation="1",pid="{pid}"}} 7.0\n'.encode() in text
    assert b"outrider_sent_bytes_total 99.0\n" in text
    assert b"outrider_accept_backlog 0.0\n" in text


def test_status_has_rates_of_the_pool_and_of_each_worker(scene: SupervisorScene) -> None:
    (pid,) = scene.start()
    row = Scoreboard.from_descriptor(scene.supervisor.seam.scoreboard).claim(1)
    row.adopt(pid)
    row[Field.IN_FLIGHT] = 3
    telemetry = scene.supervisor.seam.telemetry
    for _ in range(2):
        telemetry._next_look = 0.0
        scene.loop.advance(CALM_TICK)
        row.meter.count("GET", 200, time.monotonic_ns())
    telemetry._next_look = 0.0
    scene.loop.advance(CALM_TICK)
    status = scene.supervisor.status()
    assert status["rates"]["in_flight"] == 3
    assert status["rates"]["requests_per_second"]
    assert status["generations"][0]["workers"][0]["requests_per_second"]


def timeslices(pids: list[int]) -> list[int]:
    """How often each process has run (proc(5), schedstat)."""
    return [int(Path(f"/proc/{pid}/schedstat").read_text().split()[2]) for pid in pids]


def test_scrape_of_many_workers_is_quick_and_wakes_none_of_them(scene: SupervisorScene) -> None:
    scene.service = make_service(errorlog=str(scene.log), canary=False, workers=MANY)
    pids = scene.start(workers=MANY)
    board = Scoreboard.from_descriptor(scene.supervisor.seam.scoreboard)
    for pid in pids:
        row = board.claim(1)
        row.adopt(pid)
        row[Field.STATE] = WorkerState.READY
        for status in (200, 304, 404, 500):
            row.meter.count("GET", status, time.monotonic_ns())
    assert scene.supervisor.metrics(OPENMETRICS)[0].count(b"\noutrider_worker_requests_total{") == MANY
    until(lambda: all(psutil.Process(pid).status() == psutil.STATUS_SLEEPING for pid in pids))
    before = timeslices(pids)
    taken = []
    trace = sys.gettrace()
    sys.settrace(None)  # what coverage would add to the costs is not the supervisor's
    for _ in range(5):
        began = time.process_time()
        scene.supervisor.metrics(OPENMETRICS)
        taken.append(time.process_time() - began)
    sys.settrace(trace)
    print(f"{min(taken) * 1000:.2f} ms")
    assert min(taken) < MOST_SCRAPE_SECONDS
    assert timeslices(pids) == before


def test_history_grows_with_time(scene: SupervisorScene) -> None:
    (pid,) = scene.start()
    before = len(scene.supervisor.history()["pool"])
    scene.supervisor.seam.telemetry._next_look = 0.0
    scene.loop.advance(CALM_TICK)
    history = scene.supervisor.history()
    assert len(history["pool"]) == before + 1
    assert history["workers"].keys() == {str(pid)}


def test_admin_endpoint_that_cannot_be_opened_ends_the_start(scene: SupervisorScene) -> None:
    scene.service = make_service(errorlog=str(scene.log), admin_bind="unix:/nowhere/admin.sock")
    with pytest.raises(ConfigurationError, match=r"^admin_bind: unix:/nowhere/admin\.sock: there is no"):
        scene.finish(scene.supervisor.start())
