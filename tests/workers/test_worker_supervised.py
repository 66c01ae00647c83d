"""A worker under a supervisor: whose row it has, what its title says, and what it does when its master is gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from outrider.config import ServerConfig
from outrider.errors import ConfigurationError
from outrider.scoreboard import Field, WorkerState
from outrider.server import Stop
from outrider.supervised import ProcessTitle
from outrider.worker import UvicornWorker
from outrider_testing.waiting import until
from outrider_testing.worker_fakes import Fork, MakeWorker, check_config, lines_of, with_server, with_watchdog


@pytest.mark.usefixtures("supervised")
def test_row_has_the_number_of_the_generation(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_worker().row[Field.GENERATION] == 3
    monkeypatch.delenv("OUTRIDER_SUPERVISOR_PID")
    monkeypatch.delenv("OUTRIDER_SUPERVISOR_GENERATION")
    assert make_worker().row[Field.GENERATION] == 0


def test_bad_supervisor_variable_is_refused_before_the_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_SUPERVISOR_PID", "one")
    with pytest.raises(ConfigurationError, match=r"^OUTRIDER_SUPERVISOR_PID=one: a number is needed"):
        check_config()


def lose_master(worker: UvicornWorker) -> None:
    """Let it look as if the parent that there is had taken the master's place."""
    worker.ppid = os.getpid()


@pytest.mark.usefixtures("supervised")
def test_supervisor_takes_over_a_ready_worker(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stops = with_server(worker)
    with_watchdog(worker)
    worker.row[Field.STATE] = WorkerState.READY
    lose_master(worker)
    worker._tick()
    worker._tick()
    assert worker.alive
    assert stops == []
    assert worker.ppid == os.getppid()
    assert lines_of(worker) == ["The master is gone; the supervisor took over"]


@pytest.mark.usefixtures("supervised")
def test_worker_whose_supervisor_goes_as_well_drains(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker()
    stops = with_server(worker)
    with_watchdog(worker)
    worker.row[Field.STATE] = WorkerState.READY
    lose_master(worker)
    worker._tick()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    worker._tick()
    assert stops == [Stop.DRAIN]
    assert lines_of(worker)[1:] == [f"Parent changed, shutting down: {worker}"]


@pytest.mark.usefixtures("supervised")
def test_booting_worker_goes_with_its_master(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stops = with_server(worker)
    with_watchdog(worker)
    worker.row[Field.STATE] = WorkerState.BOOTING
    lose_master(worker)
    worker._tick()
    assert stops == [Stop.DRAIN]
    assert lines_of(worker) == [f"Parent changed, shutting down: {worker}"]


@pytest.mark.usefixtures("supervised")
def test_draining_worker_goes_on_draining_without_its_master(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stops = with_server(worker)
    with_watchdog(worker)
    worker.row[Field.STATE] = WorkerState.DRAINING
    worker.alive = False
    lose_master(worker)
    worker._tick()
    assert stops == []
    assert lines_of(worker) == []


@pytest.mark.usefixtures("supervised")
@pytest.mark.parametrize("is_noticed", [True, False])
@pytest.mark.parametrize("timeout, silent, is_aborted", [(4, 4.5, True), (4, 3.5, False), (0, 3600.0, False)])
def test_worker_of_the_supervisor_whose_loop_hangs_aborts_itself(
    make_worker: MakeWorker, timeout: int, silent: float, *, is_noticed: bool, is_aborted: bool
) -> None:
    worker = make_worker(timeout=timeout, graceful_timeout=7)
    worker._config = ServerConfig.from_gunicorn(worker.cfg, worker._settings)
    watchdog = with_watchdog(worker)
    if not is_noticed:
        lose_master(worker)  # the loop hangs, so that no tick has seen it
    worker._abort_if_unwatched(silent)
    worker._abort_if_unwatched(silent)
    assert len(watchdog.expiries) == is_aborted


@pytest.mark.usefixtures("supervised")
def test_worker_with_a_master_leaves_a_hang_to_it(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_SUPERVISOR_PID", "1")
    monkeypatch.setattr(os, "getppid", lambda: 41)
    worker = make_worker(timeout=4)
    worker.ppid = 41
    watchdog = with_watchdog(worker)
    worker._abort_if_unwatched(3600.0)
    assert watchdog.expiries == []


@pytest.mark.usefixtures("supervised")
def test_title_says_the_state(make_worker: MakeWorker) -> None:
    titles: list[str] = []
    worker = make_worker(proc_name="shop")
    with_watchdog(worker)
    worker._title = ProcessTitle(worker._supervision, worker.cfg.proc_name, titles.append)
    for state in (WorkerState.BOOTING, WorkerState.READY, WorkerState.READY, WorkerState.DRAINING):
        worker.row[Field.STATE] = state
        worker._tick()
    assert titles == [f"outrider: worker [shop] g3 {state}" for state in ("booting", "ready", "draining")]


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")


@pytest.mark.usefixtures("supervised")
def test_title_is_the_process_title_from_the_import_on(fork: Fork) -> None:
    titles: list[str] = []

    # The application's import runs in the worker, so what it sees comes back in an answer.
    async def tell(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": "".join(titles).encode()})

    def load() -> Any:
        titles.append(title_of(os.getpid()))
        return tell

    worker = fork(load, asgi_lifespan="off", proc_name="shop")
    assert b"outrider: worker [shop] g3 booting" in worker.get()
    until(lambda: title_of(worker.pid) == "outrider: worker [shop] g3 ready")


def test_title_without_a_supervisor_is_gunicorns(fork: Fork) -> None:
    worker = fork(proc_name="shop")
    assert worker.get()
    assert title_of(worker.pid) == "gunicorn: worker [shop]"
