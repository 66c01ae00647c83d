"""A log that a thread writes, where processes fork and end."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outrider import log_writer as module
from outrider_testing.log_stage import FullPipe, LogStage, stuck_in
from outrider_testing.waiting import PATIENCE, until


@pytest.fixture
def stage() -> Iterator[LogStage]:
    with contextlib.closing(LogStage()) as stage:
        yield stage


@pytest.fixture
def pipe() -> Iterator[FullPipe]:
    with contextlib.closing(FullPipe()) as pipe:
        yield pipe


@pytest.fixture
def stuck(stage: LogStage, pipe: FullPipe) -> Iterator[LogStage]:
    """The writer hangs in the write of "first"."""
    with stuck_in(pipe, stage):
        yield stage


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


def test_nothing_is_in_the_middle_of_a_write_while_a_process_forks(stage: LogStage) -> None:
    stream = io.StringIO()
    stage.add(stage.error, stream)
    stage.writer.start()
    stage.writer.hold()
    stage.error.warning("hello")
    assert not stage.writer.flush(0.05)
    assert stream.getvalue() == ""
    stage.writer.release()
    assert stage.writer.flush(PATIENCE)
    assert stream.getvalue() == "hello\n"


def test_fork_does_not_wait_for_a_log_that_is_stuck(stuck: LogStage) -> None:
    stuck.writer.hold()
    stuck.writer.release()
    assert stuck.writer._writing.locked(), "the thread still writes"


def test_child_of_a_fork_writes_by_itself(stage: LogStage, tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    stage.error.addHandler(logging.FileHandler(path))
    stage.writer.start()
    assert in_child(lambda: stage.error.info("child")) == 0
    stage.error.info("parent")
    assert stage.writer.flush(PATIENCE)
    assert path.read_text() == "child\nparent\n"


def test_child_of_a_child_does_not_wait_for_the_writer_either(stage: LogStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.add(stage.error, io.StringIO())
    stage.writer.start()

    def fork() -> None:
        monkeypatch.setattr(module, "_FORK_PATIENCE", 3600.0)
        assert in_child(lambda: None) == 0

    assert in_child(fork) == 0


def test_what_waits_in_the_parent_is_not_written_by_the_child(stuck: LogStage, pipe: FullPipe) -> None:
    stuck.access.info("waits")

    def stop() -> None:
        assert stuck.writer.stop(0.0)
        assert not stuck.writer.is_running

    assert in_child(stop) == 0
    assert pipe.read("waits\n").count("waits") == 1


def test_exit_writes_what_waits(stage: LogStage, tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    def run() -> None:
        stage.access.addHandler(logging.FileHandler(path))
        stage.writer._gather = 3600.0
        stage.writer.start()
        stage.access.info("hello")
        stage.writer.expect_exit(3)
        assert path.read_text() == "hello\n", "should nobody call finish"
        stage.access.info("good-bye")
        stage.writer.finish()

    assert in_child(run) == 0
    assert path.read_text() == "hello\ngood-bye\n"


def test_exit_does_not_hang_in_a_pipe_that_nobody_reads(stage: LogStage, pipe: FullPipe) -> None:
    def run() -> None:
        stage.add(stage.access, pipe.stream)
        stage.writer.start()
        stage.access.info("hello")
        stage.writer.expect_exit(3, end_by=stage.clock.now)
        stage.writer.finish()

    assert in_child(run) == 3
    pipe.stream.close()


def test_stopped_writer_leaves_handlers_as_they_were(stage: LogStage) -> None:
    stream = io.StringIO()
    handler = stage.add(stage.error, stream)
    before = dict(vars(handler))
    stage.writer.start()
    stage.error.info("through the queue")
    assert stage.writer.stop(PATIENCE)
    until(lambda: not any(thread.name == "outrider-log" for thread in threading.enumerate()))
    assert vars(handler) == before
    stage.error.info("directly")
    assert stream.getvalue() == "through the queue\ndirectly\n"
