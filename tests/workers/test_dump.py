"""What a worker logs about itself: requests in flight, threads, tasks."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from outrider import dump as module
from outrider.dump import Dump, describe_threads
from outrider_testing.fakes import ManualLoop

PATIENCE = 10.0


class Log:
    """The part of gunicorn's logger that a dump needs; `records` has level, text and what handlers are told."""

    def __init__(self, level: int = logging.INFO) -> None:
        self.records: list[tuple[str, str, Any]] = []
        self.error_log = logging.Logger("outrider.test", level)  # noqa: LOG001  # nobody else shall see it
        self.error: Exception | None = None

    def warning(self, message: str, *args: object, extra: Any) -> None:
        self._keep("warning", message % args, extra)

    def critical(self, message: str, *args: object, extra: Any) -> None:
        self._keep("critical", message % args, extra)

    def _keep(self, level: str, text: str, extra: Any) -> None:
        if self.error is not None:
            raise self.error
        self.records.append((level, text, extra))

    @property
    def text(self) -> str:
        ((_, text, _),) = self.records
        return text


@pytest.fixture
def log() -> Log:
    return Log()


def nothing() -> list[str]:
    return []


def test_dump_lists_requests_tasks_and_threads_in_this_order(log: Log, loop: ManualLoop) -> None:
    async def wait_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    dump = Dump(log, lambda: ["GET /a", "GET /b"])
    dump.watch(loop)
    patient = loop.create_task(wait_for_ever(), name="patient")
    loop.run_ready()
    dump.log_on_request(41, None)
    ((level, text, extra),) = log.records
    assert level == "warning"
    assert extra == {"report": "dump"}
    requests, _, rest = text.partition("Task 'patient', ")
    assert requests == "Worker dump (pid: 41). Requests in flight:\nGET /a\nGET /b\n"
    tasks, _, threads = rest.partition(f"Thread MainThread ({threading.get_ident()}):\n")
    assert "in wait_for_ever\n" in tasks
    assert "in test_dump_lists_requests_tasks_and_threads_in_this_order\n" in threads
    assert not text.endswith("\n")
    assert not patient.done()  # and kept alive until here: a loop has its tasks by weak references


def test_dump_before_there_is_a_loop_has_no_tasks(log: Log) -> None:
    Dump(log, nothing).log_on_request(41, None)
    assert log.text.startswith("Worker dump (pid: 41). Requests in flight:\nnone\nThread MainThread")
    assert "Task" not in log.text


def test_dump_shows_where_the_signal_came(log: Log) -> None:
    Dump(log, nothing).log_on_request(41, sys._getframe())
    assert "    Dump(log, nothing).log_on_request(41, sys._getframe())\n" in f"{log.text}\n"
    assert "in log_on_request\n" not in log.text


def test_dump_leaves_out_what_has_called_the_function_that_runs_the_loop(log: Log, loop: ManualLoop) -> None:
    def run() -> None:
        dump.watch(loop)
        serve()

    def serve() -> None:
        dump.log_on_request(41, sys._getframe())

    dump = Dump(log, nothing)
    run()
    own = log.text.partition("Thread MainThread")[2].partition("\nThread ")[0]
    assert [line.rpartition(" ")[2] for line in own.splitlines() if line.startswith("  File ")] == ["run", "serve"]


@pytest.mark.parametrize("level, method", [(logging.WARNING, "warning"), (logging.ERROR, "critical")])
def test_dump_that_was_asked_for_comes_at_any_loglevel(level: int, method: str) -> None:
    log = Log(level)
    Dump(log, nothing).log_on_request(41, None)
    assert [each for each, _, _ in log.records] == [method]


def test_abort_is_critical_and_a_dump_as_well(log: Log) -> None:
    Dump(log, nothing).log_on_abort(41, None)
    ((level, text, extra),) = log.records
    assert level == "critical"
    assert text.startswith("Worker aborted (pid: 41). Requests in flight:\nnone\n")
    assert extra == {"report": "dump"}


def test_dump_asked_for_during_a_dump_is_one(log: Log) -> None:
    def ask_again() -> list[str]:
        dump.log_on_request(41, None)
        return []

    dump = Dump(log, ask_again)
    dump.log_on_request(41, None)
    assert len(log.records) == 1
    log.records.clear()
    dump.log_on_request(41, None)
    assert len(log.records) == 1, "the next one is due again"


def test_abort_during_a_dump_is_told(log: Log) -> None:
    def abort_once() -> list[str]:
        if not log.records:
            log.records.append(("", "", None))
            dump.log_on_abort(41, None)
        return []

    dump = Dump(log, abort_once)
    dump.log_on_request(41, None)
    assert [level for level, _, _ in log.records] == ["", "critical", "warning"]


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("reentrant call inside <_io.BufferedWriter>")])
def test_log_that_cannot_be_written_disturbs_nobody(log: Log, error: Exception) -> None:
    log.error = error
    dump = Dump(log, nothing)
    dump.log_on_request(41, None)
    dump.log_on_abort(41, None)
    log.error = None
    dump.log_on_request(41, None)
    assert len(log.records) == 1


def test_tasks_that_cannot_be_described_leave_the_rest(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> str:
        raise ValueError("odd")

    monkeypatch.setattr(module, "describe_tasks", fail)
    dump = Dump(log, nothing)
    loop = asyncio.new_event_loop()
    dump.watch(loop)
    dump.log_on_request(41, None)
    loop.close()
    assert "\nTasks: unknown (ValueError('odd'))\nThread MainThread" in log.text


def test_requests_for_which_there_is_no_room_are_counted(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES_OF_REQUESTS", 20)
    Dump(log, lambda: ["GET /a", "GET /ü-is-long", "GET /b", "GET /c"]).log_on_request(41, None)
    assert "in flight:\nGET /a\nGET /b\nRequests left out: 2\nThread" in log.text


# -- threads


def in_helper_thread(look: Callable[[], list[str]], work: Callable[[threading.Event], object]) -> list[str]:
    """What `look` returns while `work`, called with the event that ends it, runs in a thread named helper."""
    here, release = threading.Event(), threading.Event()

    def run() -> None:
        here.set()
        work(release)

    thread = threading.Thread(target=run, name="helper")
    thread.start()
    try:
        assert here.wait(PATIENCE)
        return look()
    finally:
        release.set()
        thread.join()


def wait_for_release(release: threading.Event) -> None:
    release.wait(PATIENCE)


def test_threads_are_named_with_where_they_are_the_own_one_first() -> None:
    own, *others = in_helper_thread(describe_threads, wait_for_release)
    assert own.startswith(f"Thread MainThread ({threading.get_ident()}):\n")
    assert "in test_threads_are_named_with_where_they_are_the_own_one_first\n" in own
    (helper,) = [text for text in others if text.startswith("Thread helper (")]
    assert "in run\n" in helper


def test_threads_that_python_does_not_know_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "enumerate", list)
    (own, *_) = describe_threads()
    assert own.startswith(f"Thread unknown ({threading.get_ident()}):\n")


def test_deep_stack_of_a_thread_keeps_its_innermost_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FRAMES_OF_A_THREAD", 2)
    (own, *_) = describe_threads()
    assert own.count("  File ") == 2
    assert "in describe_threads\n" in own
