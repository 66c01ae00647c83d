"""How a worker is told to stop: by signals, by its parent's death, at a deadline, after so many requests."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from outrider.config import ServerConfig
from outrider.scoreboard import Field
from outrider.server import Stop
from outrider_testing.worker_fakes import MakeWorker, lines_of, with_server, with_watchdog


def test_quick_stop_runs_worker_int_once(make_worker: MakeWorker) -> None:
    calls: list[Any] = []
    worker = make_worker(worker_int=calls.append)
    worker._request_quick_stop()
    stops = with_server(worker)
    worker._request_quick_stop()
    assert calls == [worker]
    assert stops == [Stop.QUICK]
    assert not worker.alive


def test_failing_worker_int_does_not_hinder_the_stop(make_worker: MakeWorker) -> None:
    def worker_int(_: Any) -> None:
        raise ValueError("no")

    worker = make_worker(worker_int=worker_int)
    stops = with_server(worker)
    worker._request_quick_stop()
    assert stops == [Stop.QUICK]
    assert lines_of(worker) == ["Exception in worker_int hook"]


def test_failing_worker_abort_does_not_hinder_the_abort(make_worker: MakeWorker) -> None:
    def worker_abort(_: Any) -> None:
        raise ValueError("no")

    with pytest.raises(SystemExit) as ending:
        make_worker(worker_abort=worker_abort).handle_abort(signal.SIGABRT, None)
    assert ending.value.code == 1


def test_drain_may_be_asked_for_before_there_is_a_server(make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker._request_drain()
    assert not worker.alive


def test_tick_tells_of_lines_that_the_log_dropped(make_worker: MakeWorker) -> None:
    worker = make_worker()
    with_watchdog(worker)
    worker.log_writer.drops = 5
    worker._tick()
    assert worker.row[Field.LOG_DROPS] == 5


def test_worker_of_another_parent_drains(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stops = with_server(worker)
    watchdog = with_watchdog(worker)
    worker._tick()
    assert watchdog.beats == 1
    assert stops == []
    worker.ppid += 1
    worker._tick()
    worker._tick()
    assert stops == [Stop.DRAIN]
    assert lines_of(worker) == [f"Parent changed, shutting down: {worker}"]


@pytest.mark.parametrize(
    "timeout, silent, is_orphan, is_aborted",
    [(4, 4.5, True, True), (4, 3.5, True, False), (4, 4.5, False, False), (0, 8.0, True, True), (0, 6.0, True, False)],
)
def test_orphan_whose_loop_hangs_aborts_itself(
    make_worker: MakeWorker, timeout: int, silent: float, *, is_orphan: bool, is_aborted: bool
) -> None:
    worker = make_worker(timeout=timeout, graceful_timeout=7)
    worker._config = ServerConfig.from_gunicorn(worker.cfg, worker._settings)
    watchdog = with_watchdog(worker)
    worker.ppid += is_orphan
    worker._abort_if_unwatched(silent)
    worker._abort_if_unwatched(silent)  # the abort does not come at once; it must not be asked for again
    assert len(watchdog.expiries) == is_aborted


def test_stalls_are_in_the_row_though_the_loop_hangs(make_worker: MakeWorker) -> None:
    worker = make_worker()
    with_watchdog(worker).stalls = 3
    worker._guard(0.0)
    assert worker.row[Field.STALLS] == 3


def test_byte_in_the_pipe_is_taken(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stops = with_server(worker)
    worker.PIPE = os.pipe()
    os.set_blocking(worker.PIPE[0], False)
    os.write(worker.PIPE[1], b"11")
    worker._note_stop()
    with pytest.raises(BlockingIOError):
        os.read(worker.PIPE[0], 1)
    assert stops == []
    worker.alive = False  # as the reloader's thread does
    worker._note_stop()
    assert stops == [Stop.DRAIN]
    for descriptor in worker.PIPE:
        os.close(descriptor)


def test_max_requests_retires_the_worker(make_worker: MakeWorker) -> None:
    worker = make_worker(max_requests=5)
    stops = with_server(worker)
    worker._retire_after_max_requests()
    assert stops == [Stop.DRAIN]
    assert lines_of(worker) == ["Autorestarting worker after 5 requests."]


def test_deadline_is_given_to_the_watchdog(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker()
    watchdog = with_watchdog(worker)
    worker._expect_end_by(7.0)
    ((deadline, action),) = watchdog.expiries
    assert deadline == 7.0
    killed: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    action()
    assert killed == [(os.getpid(), signal.SIGABRT)]


def test_abort_tells_what_ran(make_worker: MakeWorker) -> None:
    aborted: list[Any] = []
    worker = make_worker(worker_abort=aborted.append)
    with pytest.raises(SystemExit) as ending:
        worker.handle_abort(signal.SIGABRT, None)
    assert ending.value.code == 1
    assert aborted == [worker]
    (line,) = lines_of(worker)
    assert line.startswith(f"Worker aborted (pid: {worker.pid}). Requests in flight:\nnone\n")
    assert "test_abort_tells_what_ran" in line
