"""Log lines are written by a thread: a pipe that nobody reads holds up the log and nothing else."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
from pathlib import Path

import pytest

from outrider import log_writer as module
from outrider.log_writer import MOST_BYTES, MOST_LINES, PIECE, REPORT_PERIOD
from outrider_testing.log_stage import FullPipe, LogStage
from outrider_testing.waiting import PATIENCE, until

# -- what flows


def test_lines_come_in_order(logs: LogStage) -> None:
    stream = io.StringIO()
    for logger in (logs.error, logs.access):
        logs.add(logger, stream)
    logs.writer.start()
    for number in range(1000):
        (logs.error if number % 3 else logs.access).info("%d", number)
    assert logs.writer.flush(PATIENCE)
    assert stream.getvalue().split() == [f"{number}" for number in range(1000)]


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_handlers_write_by_themselves_where_no_thread_can_be_started(
    logs: LogStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    logs.add(logs.error, stream)
    refuse_threads(monkeypatch)
    logs.writer.start()
    assert stream.getvalue().endswith("than that: can't start new thread\n")
    logs.error.info("written")
    assert stream.getvalue().endswith("written\n")
    assert not logs.writer.is_running
    assert logs.writer.stop(PATIENCE)


def test_lines_are_written_together_and_not_torn(logs: LogStage) -> None:
    writes: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    logs.add(logs.access, Stream())
    logs.writer.start()
    for number in range(2000):
        logs.access.info("%04d é", number)
    assert logs.writer.flush(PATIENCE)
    assert "".join(writes).splitlines() == [f"{number:04} é" for number in range(2000)]
    assert len(writes) < 100
    assert all(len(text.encode()) <= PIECE for text in writes)
    assert all(text.endswith("\n") for text in writes)


def test_each_log_gets_its_own_lines(logs: LogStage) -> None:
    errors, requests = io.StringIO(), io.StringIO()
    logs.add(logs.error, errors)
    logs.add(logs.access, requests)
    logs.writer.start()
    for _ in range(3):
        logs.error.info("error")
        logs.access.info("request")
    assert logs.writer.flush(PATIENCE)
    assert errors.getvalue() == "error\n" * 3
    assert requests.getvalue() == "request\n" * 3


def test_line_appears_without_a_flush(logs: LogStage) -> None:
    stream = io.StringIO()
    logs.add(logs.access, stream)
    logs.writer.start()
    logs.access.info("hello")
    until(stream.getvalue)


def test_warning_does_not_wait_for_others(logs: LogStage) -> None:
    logs.writer._gather = 3600.0
    stream = io.StringIO()
    logs.add(logs.error, stream)
    logs.writer.start()
    logs.error.warning("hello")
    until(stream.getvalue)


def test_fault_in_a_call_costs_nothing_but_a_sentence(logs: LogStage) -> None:
    stream = io.StringIO()
    logs.add(logs.error, stream)
    logs.writer.start()

    def fail() -> None:
        raise ValueError("no such file")

    logs.writer.call(fail)
    logs.error.info("after")
    assert logs.writer.flush(PATIENCE)
    assert "ValueError: no such file" in stream.getvalue()
    assert "after" in stream.getvalue()


def test_log_goes_on_after_a_handler_that_would_end_the_thread(logs: LogStage) -> None:
    class Exiting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit(record.getMessage())

    logs.error.addHandler(Exiting())
    logs.writer.start()
    logs.error.warning("no more")
    until(lambda: logs.writer._lines == 0)
    stream = io.StringIO()
    logs.add(logs.access, stream)
    logs.writer.attach()
    logs.access.warning("hello")
    until(stream.getvalue)


# -- what is stuck


def test_full_pipe_does_not_hold_up_who_logs(stuck_logs: LogStage, full_pipe: FullPipe) -> None:
    for number in range(100):
        stuck_logs.access.info("line %d", number)
    assert not stuck_logs.writer.flush(0.0)
    assert stuck_logs.writer.drops == 0
    text = full_pipe.read("line 99\n")
    assert text.splitlines() == ["first", *(f"line {number}" for number in range(100))]
    until(lambda: not stuck_logs.writer._is_held_up)


def test_lines_beyond_the_queue_are_counted_and_told_of(
    stuck_logs: LogStage, full_pipe: FullPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 10)
    errors = io.StringIO()
    stuck_logs.add(stuck_logs.error, errors)
    for number in range(50):
        stuck_logs.access.info("line %d", number)
    assert stuck_logs.writer.drops == 41  # of the ten that may wait, one is on its way
    full_pipe.read("line 8\n")
    until(errors.getvalue)
    assert errors.getvalue() == (
        "The log did not keep up (a slow disk, or a pipe that is not read): 41 lines dropped\n"
    )


def test_bytes_that_wait_are_limited(stuck_logs: LogStage) -> None:
    line = "x" * (MOST_BYTES // 4)
    for _ in range(10):
        stuck_logs.access.info(line)
    assert stuck_logs.writer.drops == 7


def test_what_is_written_no_longer_waits(logs: LogStage) -> None:
    logs.add(logs.access, io.StringIO())
    logs.writer.attach()
    logs.writer.is_running = True  # without its thread
    logs.access.info("12345")
    logs.access.info("12345")
    items = logs.writer._take()
    logs.access.info("123")
    logs.writer._write_out(items)
    assert (logs.writer._lines, logs.writer._bytes) == (1, 4)
    logs.writer.is_running = False


def test_count_that_went_wrong_is_right_again_when_nothing_waits(logs: LogStage) -> None:
    logs.add(logs.access, io.StringIO())
    logs.writer.start()
    logs.writer._lines, logs.writer._bytes = 7, 700
    logs.access.info("hello")
    assert until(lambda: (logs.writer._lines, logs.writer._bytes) == (0, 0))


def test_drops_are_told_of_when_there_is_room_for_that(logs: LogStage) -> None:
    errors = io.StringIO()
    logs.add(logs.error, errors)
    logs.writer.drops = 5
    for logs.writer._lines, logs.writer._bytes in ((MOST_LINES, 0), (0, MOST_BYTES)):
        logs.writer._tell_of_drops()
        assert errors.getvalue() == ""
    logs.writer._bytes = 0
    logs.writer._tell_of_drops()
    assert "5 lines dropped" in errors.getvalue()


def test_drops_are_told_of_though_nothing_more_is_logged(logs: LogStage) -> None:
    logs.writer.drops = 5
    assert logs.writer._take() == [], "it waits for a line"


def test_drops_are_told_of_once_in_a_while(logs: LogStage) -> None:
    errors = io.StringIO()
    logs.add(logs.error, errors)
    logs.writer.start()
    for _ in range(3):
        logs.writer.drops += 5
        logs.error.info("go on")
        assert logs.writer.flush(PATIENCE)
    until(lambda: "dropped" in errors.getvalue())
    assert errors.getvalue().count("dropped") == 1
    logs.clock.now += REPORT_PERIOD
    logs.error.info("go on")
    until(lambda: errors.getvalue().count("dropped") == 2)
    assert "10 lines dropped" in errors.getvalue()


def test_critical_is_written_before_the_call_returns(logs: LogStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_WORDS_PATIENCE", PATIENCE)
    logs.writer._gather = 3600.0
    stream = io.StringIO()
    logs.add(logs.error, stream)
    logs.writer.start()
    logs.error.info("before")
    logs.error.critical("last words")
    assert stream.getvalue() == "before\nlast words\n"


def test_critical_is_written_though_the_thread_hangs_in_another_log(stuck_logs: LogStage, full_pipe: FullPipe) -> None:
    errors = io.StringIO()
    stuck_logs.add(stuck_logs.error, errors)
    stuck_logs.writer.attach()
    stuck_logs.error.critical("last words")
    assert errors.getvalue() == "last words\n"
    full_pipe.read("first\n")
    assert stuck_logs.writer.flush(PATIENCE)
    assert errors.getvalue() == "last words\n", "once, though it was queued as well"


def test_critical_to_the_log_that_hangs_returns(stuck_logs: LogStage) -> None:
    stuck_logs.access.critical("last words")


def test_critical_lines_that_wait_are_limited(stuck_logs: LogStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 10)
    for _ in range(30):
        stuck_logs.access.critical("last words")
    assert stuck_logs.writer._queue.qsize() <= 10
    assert stuck_logs.writer.drops == 21, "one is the line that hangs"


def test_log_is_reopened_behind_the_lines_before(logs: LogStage, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    handler = logging.FileHandler(path)
    logs.access.addHandler(handler)
    logs.writer.start()
    logs.access.info("old")
    moved = path.rename(tmp_path / "access.log.1")

    def reopen() -> None:
        handler.close()
        handler.stream = handler._open()

    logs.writer.call(reopen)
    logs.access.info("new")
    assert logs.writer.flush(PATIENCE)
    assert (moved.read_text(), path.read_text()) == ("old\n", "new\n")


def test_signal_handler_may_log_in_the_middle_of_a_line(logs: LogStage) -> None:
    stream = io.StringIO()
    logs.add(logs.error, stream)
    logs.writer.start()
    before = signal.signal(signal.SIGUSR1, lambda *_: logs.error.critical("signal"))
    try:
        for number in range(200):
            os.kill(os.getpid(), signal.SIGUSR1)
            logs.error.info("%d", number)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert logs.writer.flush(PATIENCE)
    lines = stream.getvalue().split()
    assert [line for line in lines if line != "signal"] == [f"{number}" for number in range(200)]
