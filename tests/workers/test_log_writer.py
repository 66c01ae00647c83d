"""Log lines are written by a thread: a pipe that nobody reads holds up the log and nothing else."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider import log_writer as module
from outrider.log_writer import MOST_BYTES, MOST_LINES, PIECE, REPORT_PERIOD
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


# -- what flows


def test_lines_come_in_order(stage: LogStage) -> None:
    stream = io.StringIO()
    for logger in (stage.error, stage.access):
        stage.add(logger, stream)
    stage.writer.start()
    for number in range(1000):
        (stage.error if number % 3 else stage.access).info("%d", number)
    assert stage.writer.flush(PATIENCE)
    assert stream.getvalue().split() == [f"{number}" for number in range(1000)]


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_handlers_write_by_themselves_where_no_thread_can_be_started(
    stage: LogStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    stage.add(stage.error, stream)
    refuse_threads(monkeypatch)
    stage.writer.start()
    assert stream.getvalue().endswith("than that: can't start new thread\n")
    stage.error.info("written")
    assert stream.getvalue().endswith("written\n")
    assert not stage.writer.is_running
    assert stage.writer.stop(PATIENCE)


def test_lines_are_written_together_and_not_torn(stage: LogStage) -> None:
    writes: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    stage.add(stage.access, Stream())
    stage.writer.start()
    for number in range(2000):
        stage.access.info("%04d é", number)
    assert stage.writer.flush(PATIENCE)
    assert "".join(writes).splitlines() == [f"{number:04} é" for number in range(2000)]
    assert len(writes) < 100
    assert all(len(text.encode()) <= PIECE for text in writes)
    assert all(text.endswith("\n") for text in writes)


def test_each_log_gets_its_own_lines(stage: LogStage) -> None:
    errors, requests = io.StringIO(), io.StringIO()
    stage.add(stage.error, errors)
    stage.add(stage.access, requests)
    stage.writer.start()
    for _ in range(3):
        stage.error.info("error")
        stage.access.info("request")
    assert stage.writer.flush(PATIENCE)
    assert errors.getvalue() == "error\n" * 3
    assert requests.getvalue() == "request\n" * 3


def test_line_appears_without_a_flush(stage: LogStage) -> None:
    stream = io.StringIO()
    stage.add(stage.access, stream)
    stage.writer.start()
    stage.access.info("hello")
    until(stream.getvalue)


def test_warning_does_not_wait_for_others(stage: LogStage) -> None:
    stage.writer._gather = 3600.0
    stream = io.StringIO()
    stage.add(stage.error, stream)
    stage.writer.start()
    stage.error.warning("hello")
    until(stream.getvalue)


def test_fault_in_a_call_costs_nothing_but_a_sentence(stage: LogStage) -> None:
    stream = io.StringIO()
    stage.add(stage.error, stream)
    stage.writer.start()

    def fail() -> None:
        raise ValueError("no such file")

    stage.writer.call(fail)
    stage.error.info("after")
    assert stage.writer.flush(PATIENCE)
    assert "ValueError: no such file" in stream.getvalue()
    assert "after" in stream.getvalue()


def test_log_goes_on_after_a_handler_that_would_end_the_thread(stage: LogStage) -> None:
    class Exiting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit(record.getMessage())

    stage.error.addHandler(Exiting())
    stage.writer.start()
    stage.error.warning("no more")
    until(lambda: stage.writer._lines == 0)
    stream = io.StringIO()
    stage.add(stage.access, stream)
    stage.writer.attach()
    stage.access.warning("hello")
    until(stream.getvalue)


# -- what is stuck


def test_full_pipe_does_not_hold_up_who_logs(stuck: LogStage, pipe: FullPipe) -> None:
    for number in range(100):
        stuck.access.info("line %d", number)
    assert not stuck.writer.flush(0.0)
    assert stuck.writer.drops == 0
    text = pipe.read("line 99\n")
    assert text.splitlines() == ["first", *(f"line {number}" for number in range(100))]
    until(lambda: not stuck.writer._is_held_up)


def test_lines_beyond_the_queue_are_counted_and_told_of(
    stuck: LogStage, pipe: FullPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 10)
    errors = io.StringIO()
    stuck.add(stuck.error, errors)
    for number in range(50):
        stuck.access.info("line %d", number)
    assert stuck.writer.drops == 41  # of the ten that may wait, one is on its way
    pipe.read("line 8\n")
    until(errors.getvalue)
    assert errors.getvalue() == (
        "The log did not keep up (a slow disk, or a pipe that is not read): 41 lines dropped\n"
    )


def test_bytes_that_wait_are_limited(stuck: LogStage) -> None:
    line = "x" * (MOST_BYTES // 4)
    for _ in range(10):
        stuck.access.info(line)
    assert stuck.writer.drops == 7


def test_what_is_written_no_longer_waits(stage: LogStage) -> None:
    stage.add(stage.access, io.StringIO())
    stage.writer.attach()
    stage.writer.is_running = True  # without its thread
    stage.access.info("12345")
    stage.access.info("12345")
    items = stage.writer._take()
    stage.access.info("123")
    stage.writer._write_out(items)
    assert (stage.writer._lines, stage.writer._bytes) == (1, 4)
    stage.writer.is_running = False


def test_count_that_went_wrong_is_right_again_when_nothing_waits(stage: LogStage) -> None:
    stage.add(stage.access, io.StringIO())
    stage.writer.start()
    stage.writer._lines, stage.writer._bytes = 7, 700
    stage.access.info("hello")
    assert until(lambda: (stage.writer._lines, stage.writer._bytes) == (0, 0))


def test_drops_are_told_of_when_there_is_room_for_that(stage: LogStage) -> None:
    errors = io.StringIO()
    stage.add(stage.error, errors)
    stage.writer.drops = 5
    for stage.writer._lines, stage.writer._bytes in ((MOST_LINES, 0), (0, MOST_BYTES)):
        stage.writer._tell_of_drops()
        assert errors.getvalue() == ""
    stage.writer._bytes = 0
    stage.writer._tell_of_drops()
    assert "5 lines dropped" in errors.getvalue()


def test_drops_are_told_of_though_nothing_more_is_logged(stage: LogStage) -> None:
    stage.writer.drops = 5
    assert stage.writer._take() == [], "it waits for a line"


def test_drops_are_told_of_once_in_a_while(stage: LogStage) -> None:
    errors = io.StringIO()
    stage.add(stage.error, errors)
    stage.writer.start()
    for _ in range(3):
        stage.writer.drops += 5
        stage.error.info("go on")
        assert stage.writer.flush(PATIENCE)
    until(lambda: "dropped" in errors.getvalue())
    assert errors.getvalue().count("dropped") == 1
    stage.clock.now += REPORT_PERIOD
    stage.error.info("go on")
    until(lambda: errors.getvalue().count("dropped") == 2)
    assert "10 lines dropped" in errors.getvalue()


def test_critical_is_written_before_the_call_returns(stage: LogStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_WORDS_PATIENCE", PATIENCE)
    stage.writer._gather = 3600.0
    stream = io.StringIO()
    stage.add(stage.error, stream)
    stage.writer.start()
    stage.error.info("before")
    stage.error.critical("last words")
    assert stream.getvalue() == "before\nlast words\n"


def test_critical_is_written_though_the_thread_hangs_in_another_log(stuck: LogStage, pipe: FullPipe) -> None:
    errors = io.StringIO()
    stuck.add(stuck.error, errors)
    stuck.writer.attach()
    stuck.error.critical("last words")
    assert errors.getvalue() == "last words\n"
    pipe.read("first\n")
    assert stuck.writer.flush(PATIENCE)
    assert errors.getvalue() == "last words\n", "once, though it was queued as well"


def test_critical_to_the_log_that_hangs_returns(stuck: LogStage) -> None:
    stuck.access.critical("last words")


def test_critical_lines_that_wait_are_limited(stuck: LogStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 10)
    for _ in range(30):
        stuck.access.critical("last words")
    assert stuck.writer._queue.qsize() <= 10
    assert stuck.writer.drops == 21, "one is the line that hangs"


def test_log_is_reopened_behind_the_lines_before(stage: LogStage, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    handler = logging.FileHandler(path)
    stage.access.addHandler(handler)
    stage.writer.start()
    stage.access.info("old")
    moved = path.rename(tmp_path / "access.log.1")

    def reopen() -> None:
        handler.close()
        handler.stream = handler._open()

    stage.writer.call(reopen)
    stage.access.info("new")
    assert stage.writer.flush(PATIENCE)
    assert (moved.read_text(), path.read_text()) == ("old\n", "new\n")


def test_signal_handler_may_log_in_the_middle_of_a_line(stage: LogStage) -> None:
    stream = io.StringIO()
    stage.add(stage.error, stream)
    stage.writer.start()
    before = signal.signal(signal.SIGUSR1, lambda *_: stage.error.critical("signal"))
    try:
        for number in range(200):
            os.kill(os.getpid(), signal.SIGUSR1)
            stage.error.info("%d", number)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert stage.writer.flush(PATIENCE)
    lines = stream.getvalue().split()
    assert [line for line in lines if line != "signal"] == [f"{number}" for number in range(200)]
