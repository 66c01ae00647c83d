"""A log that a thread writes, where processes fork and end."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from outrider import log_writer as module
from outrider_testing.log_stage import FullPipe, LogStage
from outrider_testing.waiting import PATIENCE, until


def in_child(act: Callable[[], object]) -> int:
    """Fork, and do something there; the exit status."""
    pid = os.fork()
    if not pid:
        try:
            act()
        except BaseException:  # noqa: BLE001  # the child must not go on with the tests
            traceback.print_exc()
            os._exit(70)
        os._exit(0)
    ended: list[int] = []

    def has_ended() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended.append(os.waitstatus_to_exitcode(status))
        return bool(found)

    try:
        until(has_ended, PATIENCE, what="the end of the child")
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return ended[0]


def test_nothing_is_in_the_middle_of_a_write_while_a_process_forks(logs: LogStage) -> None:
    stream = io.StringIO()
    logs.add(logs.error, stream)
    logs.writer.start()
    logs.writer.hold()
    logs.error.warning("hello")
    assert not logs.writer.flush(0.05)
    assert stream.getvalue() == ""
    logs.writer.release()
    assert logs.writer.flush(PATIENCE)
    assert stream.getvalue() == "hello\n"


def test_fork_does_not_wait_for_a_log_that_is_stuck(stuck_logs: LogStage) -> None:
    stuck_logs.writer.hold()
    stuck_logs.writer.release()
    assert stuck_logs.writer._writing.locked(), "the thread still writes"


def test_child_of_a_fork_writes_by_itself(logs: LogStage, tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    logs.error.addHandler(logging.FileHandler(path))
    logs.writer.start()
    assert in_child(lambda: logs.error.info("child")) == 0
    logs.error.info("parent")
    assert logs.writer.flush(PATIENCE)
    assert path.read_text() == "child\nparent\n"


def test_child_of_a_child_does_not_wait_for_the_writer_either(logs: LogStage, monkeypatch: pytest.MonkeyPatch) -> None:
    logs.add(logs.error, io.StringIO())
    logs.writer.start()

    def fork() -> None:
        monkeypatch.setattr(module, "_FORK_PATIENCE", 3600.0)
        assert in_child(lambda: None) == 0

    assert in_child(fork) == 0


def test_what_waits_in_the_parent_is_not_written_by_the_child(stuck_logs: LogStage, full_pipe: FullPipe) -> None:
    stuck_logs.access.info("waits")

    def stop() -> None:
        assert stuck_logs.writer.stop(0.0)
        assert not stuck_logs.writer.is_running

    assert in_child(stop) == 0
    assert full_pipe.read("waits\n").count("waits") == 1


def test_exit_writes_what_waits(logs: LogStage, tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    def run() -> None:
        logs.access.addHandler(logging.FileHandler(path))
        logs.writer._gather = 3600.0
        logs.writer.start()
        logs.access.info("hello")
        logs.writer.expect_exit(3)
        assert path.read_text() == "hello\n", "should nobody call finish"
        logs.access.info("good-bye")
        logs.writer.finish()

    assert in_child(run) == 0
    assert path.read_text() == "hello\ngood-bye\n"


def test_exit_does_not_hang_in_a_pipe_that_nobody_reads(logs: LogStage, full_pipe: FullPipe) -> None:
    def run() -> None:
        logs.add(logs.access, full_pipe.stream)
        logs.writer.start()
        logs.access.info("hello")
        logs.writer.expect_exit(3, end_by=logs.clock.now)
        logs.writer.finish()

    assert in_child(run) == 3
    full_pipe.stream.close()


def test_stopped_writer_leaves_handlers_as_they_were(logs: LogStage) -> None:
    stream = io.StringIO()
    handler = logs.add(logs.error, stream)
    before = dict(vars(handler))
    logs.writer.start()
    logs.error.info("through the queue")
    assert logs.writer.stop(PATIENCE)
    until(lambda: not any(thread.name == "outrider-log" for thread in threading.enumerate()))
    assert vars(handler) == before
    logs.error.info("directly")
    assert stream.getvalue() == "through the queue\ndirectly\n"
