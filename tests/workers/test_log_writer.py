"""Log lines are written by a thread: a pipe that nobody reads holds up the log and nothing else."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from outrider import log_writer as module
from outrider.log_writer import MOST_BYTES, MOST_LINES, PIECE, REPORT_PERIOD, LogWriter
from outrider_testing.waiting import until

PATIENCE = 20.0


class FullPipe:
    """The write end of a pipe that nobody reads, and that has no room left, as a stream."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self.filling = 0
        with suppress(BlockingIOError):
            while True:
                self.filling += os.write(writer, bytes(65536))
        os.set_blocking(writer, True)
        self.stream = io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True)

    def read(self, until_text: str) -> str:
        """Read what comes after the filling, up to a text."""
        data = b""
        while until_text.encode() not in data[self.filling :]:
            data += os.read(self.reader, 65536)
        return data[self.filling :].decode()

    def close(self) -> None:
        """Let a writer that is stuck fail."""
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """An error log and an access log, and what writes them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.streams: list[Any] = []
        self.error = logging.Logger("error")  # noqa: LOG001  # apart from the loggers that other tests see
        self.access = logging.Logger("access")  # noqa: LOG001  # as above
        self.writer = LogWriter((self.error, self.access), self.error, self.clock)

    def add(self, logger: logging.Logger, stream: Any) -> logging.StreamHandler[Any]:
        """Have a logger write to a stream."""
        handler = logging.StreamHandler(stream)
        logger.addHandler(handler)
        self.streams.append(stream)
        return handler

    def close(self) -> None:
        """Leave nothing open."""
        self.writer.stop(PATIENCE)
        for handler in (*self.error.handlers, *self.access.handlers):
            handler.close()
        for stream in self.streams:
            stream.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture
def pipe() -> Iterator[FullPipe]:
    pipe = FullPipe()
    yield pipe
    pipe.close()


@pytest.fixture
def stuck(stage: Stage, pipe: FullPipe) -> Iterator[Stage]:
    """The writer hangs in the write of "first"."""
    stage.add(stage.access, pipe.stream)
    stage.writer.start()
    stage.access.info("first")
    until(lambda: stage.writer._busy_with)
    yield stage
    pipe.close()  # for the thread to end


# -- what flows


def test_lines_come_in_order(stage: Stage) -> None:
    stream = io.StringIO()
    for logger in (stage.error, stage.access):
        stage.add(logger, stream)
    stage.writer.start()
    for number in range(1000):
        (stage.error if number % 3 else stage.access).info("%d", number)
    assert stage.writer.flush(PATIENCE)
    assert stream.getvalue().split() == [f"{number}" for number in range(1000)]


def test_lines_are_written_together_and_not_torn(stage: Stage) -> None:
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


def test_each_log_gets_its_own_lines(stage: Stage) -> None:
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


def test_line_appears_without_a_flush(stage: Stage) -> None:
    stream = io.StringIO()
    stage.add(stage.access, stream)
    stage.writer.start()
    stage.access.info("hello")
    until(stream.getvalue)


def test_warning_does_not_wait_for_others(stage: Stage) -> None:
    stage.writer._gather = 3600.0
    stream = io.StringIO()
    stage.add(stage.error, stream)
    stage.writer.start()
    stage.error.warning("hello")
    until(stream.getvalue)


def test_fault_in_a_call_costs_nothing_but_a_sentence(stage: Stage) -> None:
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


def test_log_goes_on_after_a_handler_that_would_end_the_thread(stage: Stage) -> None:
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


def test_full_pipe_does_not_hold_up_who_logs(stuck: Stage, pipe: FullPipe) -> None:
    for number in range(100):
        stuck.access.info("line %d", number)
    assert not stuck.writer.flush(0.0)
    assert stuck.writer.drops == 0
    text = pipe.read("line 99\n")
    assert text.splitlines() == ["first", *(f"line {number}" for number in range(100))]
    until(lambda: not stuck.writer._is_held_up)


def test_lines_beyond_the_queue_are_counted_and_told_of(
    stuck: Stage, pipe: FullPipe, monkeypatch: pytest.MonkeyPatch
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


def test_bytes_that_wait_are_limited(stuck: Stage) -> None:
    line = "x" * (MOST_BYTES // 4)
    for _ in range(10):
        stuck.access.info(line)
    assert stuck.writer.drops == 7


def test_what_is_written_no_longer_waits(stage: Stage) -> None:
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


def test_count_that_went_wrong_is_right_again_when_nothing_waits(stage: Stage) -> None:
    stage.add(stage.access, io.StringIO())
    stage.writer.start()
    stage.writer._lines, stage.writer._bytes = 7, 700
    stage.access.info("hello")
    assert until(lambda: (stage.writer._lines, stage.writer._bytes) == (0, 0))


def test_drops_are_told_of_when_there_is_room_for_that(stage: Stage) -> None:
    errors = io.StringIO()
    stage.add(stage.error, errors)
    stage.writer.drops = 5
    for stage.writer._lines, stage.writer._bytes in ((MOST_LINES, 0), (0, MOST_BYTES)):
        stage.writer._tell_of_drops()
        assert errors.getvalue() == ""
    stage.writer._bytes = 0
    stage.writer._tell_of_drops()
    assert "5 lines dropped" in errors.getvalue()


def test_drops_are_told_of_though_nothing_more_is_logged(stage: Stage) -> None:
    stage.writer.drops = 5
    assert stage.writer._take() == [], "it waits for a line"


def test_drops_are_told_of_once_in_a_while(stage: Stage) -> None:
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


def test_critical_is_written_before_the_call_returns(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_WORDS_PATIENCE", PATIENCE)
    stage.writer._gather = 3600.0
    stream = io.StringIO()
    stage.add(stage.error, stream)
    stage.writer.start()
    stage.error.info("before")
    stage.error.critical("last words")
    assert stream.getvalue() == "before\nlast words\n"


def test_critical_is_written_though_the_thread_hangs_in_another_log(stuck: Stage, pipe: FullPipe) -> None:
    errors = io.StringIO()
    stuck.add(stuck.error, errors)
    stuck.writer.attach()
    stuck.error.critical("last words")
    assert errors.getvalue() == "last words\n"
    pipe.read("first\n")
    assert stuck.writer.flush(PATIENCE)
    assert errors.getvalue() == "last words\n", "once, though it was queued as well"


def test_critical_to_the_log_that_hangs_returns(stuck: Stage) -> None:
    stuck.access.critical("last words")


def test_critical_lines_that_wait_are_limited(stuck: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 10)
    for _ in range(30):
        stuck.access.critical("last words")
    assert stuck.writer._queue.qsize() <= 10
    assert stuck.writer.drops == 21, "one is the line that hangs"


def test_log_is_reopened_behind_the_lines_before(stage: Stage, tmp_path: Path) -> None:
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


def test_signal_handler_may_log_in_the_middle_of_a_line(stage: Stage) -> None:
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


# -- processes


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


def test_nothing_is_in_the_middle_of_a_write_while_a_process_forks(stage: Stage) -> None:
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


def test_fork_does_not_wait_for_a_log_that_is_stuck(stuck: Stage) -> None:
    stuck.writer.hold()
    stuck.writer.release()
    assert stuck.writer._writing.locked(), "the thread still writes"


def test_child_of_a_fork_writes_by_itself(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    stage.error.addHandler(logging.FileHandler(path))
    stage.writer.start()
    assert in_child(lambda: stage.error.info("child")) == 0
    stage.error.info("parent")
    assert stage.writer.flush(PATIENCE)
    assert path.read_text() == "child\nparent\n"


def test_child_of_a_child_does_not_wait_for_the_writer_either(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.add(stage.error, io.StringIO())
    stage.writer.start()

    def fork() -> None:
        monkeypatch.setattr(module, "_FORK_PATIENCE", 3600.0)
        assert in_child(lambda: None) == 0

    assert in_child(fork) == 0


def test_what_waits_in_the_parent_is_not_written_by_the_child(stuck: Stage, pipe: FullPipe) -> None:
    stuck.access.info("waits")

    def stop() -> None:
        assert stuck.writer.stop(0.0)
        assert not stuck.writer.is_running

    assert in_child(stop) == 0
    assert pipe.read("waits\n").count("waits") == 1


def test_exit_writes_what_waits(stage: Stage, tmp_path: Path) -> None:
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


def test_exit_does_not_hang_in_a_pipe_that_nobody_reads(stage: Stage, pipe: FullPipe) -> None:
    def run() -> None:
        stage.add(stage.access, pipe.stream)
        stage.writer.start()
        stage.access.info("hello")
        stage.writer.expect_exit(3, end_by=stage.clock.now)
        stage.writer.finish()

    assert in_child(run) == 3
    pipe.stream.close()


def test_stopped_writer_leaves_handlers_as_they_were(stage: Stage) -> None:
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
