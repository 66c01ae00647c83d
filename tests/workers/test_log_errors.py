"""Handlers that cannot write: few words on stderr, and no exception for the caller."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.log_errors import INTERVAL, quiet_handler_errors
from outrider.log_json import JSONFormatter


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_logger(name: str) -> logging.Logger:
    return logging.Logger(name)  # noqa: LOG001  # apart from the loggers that other tests see


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = make_logger("outrider.test")
    yield logger
    for handler in logger.handlers:
        handler.close()


def add_handler(logger: logging.Logger, raw: io.FileIO) -> None:
    """Add a handler that writes at once, so that nothing is left to fail when the file is closed."""
    handler = logging.StreamHandler(io.TextIOWrapper(raw, write_through=True))
    handler.close = raw.close  # type: ignore[method-assign]  # a StreamHandler closes nothing itself
    logger.addHandler(handler)


def add_full_disk(logger: logging.Logger) -> None:
    add_handler(logger, io.FileIO("/dev/full", "w"))


def test_full_disk_is_one_sentence_a_minute(
    logger: logging.Logger, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    add_full_disk(logger)
    quiet_handler_errors([logger], clock)
    for _ in range(100):
        logger.warning("lost")
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in sentence
    assert "last such message: 1." in sentence
    assert "still served" in sentence
    clock.now += INTERVAL - 1
    logger.warning("lost")
    assert capsys.readouterr().err == ""
    clock.now += 1
    logger.warning("lost")
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "last such message: 101." in sentence


def test_closed_pipe_is_one_sentence(logger: logging.Logger, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    add_handler(logger, io.FileIO(writer, "w"))
    quiet_handler_errors([logger], clock)
    logger.error("lost")
    logger.error("lost")
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "Broken pipe" in sentence


def test_bad_call_is_reported_with_its_place(
    logger: logging.Logger, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    quiet_handler_errors([logger], clock)
    logger.error("%d", "no number")
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "TypeError" in sentence
    assert f"{__file__}:" in sentence


def test_working_handler_goes_on(logger: logging.Logger, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    add_full_disk(logger)
    logger.addHandler(logging.StreamHandler(stream))
    quiet_handler_errors([logger], clock)
    logger.error("kept")
    assert stream.getvalue() == "kept\n"
    assert capsys.readouterr().err.count("\n") == 1


def test_inherited_handler_is_quiet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    parent = make_logger("parent")
    child = make_logger("child")
    child.parent = parent
    add_full_disk(parent)
    quiet_handler_errors([child], clock)
    child.error("lost")
    parent.handlers[0].close()
    assert capsys.readouterr().err.count("\n") == 1


def test_handler_above_a_logger_that_does_not_propagate_is_left_alone(clock: Clock) -> None:
    parent = make_logger("parent")
    parent.addHandler(logging.NullHandler())
    child = make_logger("child")
    child.parent = parent
    child.propagate = False
    quiet_handler_errors([child], clock)
    assert "handleError" not in vars(parent.handlers[0])


def test_second_call_keeps_count(logger: logging.Logger, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    add_full_disk(logger)
    quiet_handler_errors([logger], clock)
    logger.error("lost")
    quiet_handler_errors([logger], clock)
    logger.error("lost")
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_is_said_where_logging_is_told_to_be_silent(
    logger: logging.Logger,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    add_full_disk(logger)
    quiet_handler_errors([logger], clock)
    logger.error("lost")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stderr", ["missing", "full", "closed"])
def test_unusable_stderr_is_endured(
    logger: logging.Logger, clock: Clock, monkeypatch: pytest.MonkeyPatch, stderr: str
) -> None:
    add_full_disk(logger)
    quiet_handler_errors([logger], clock)
    closed = io.StringIO()
    closed.close()
    streams = {"missing": None, "full": logger.handlers[0].stream, "closed": closed}  # type: ignore[attr-defined]  # a StreamHandler
    monkeypatch.setattr(sys, "stderr", streams[stderr])
    logger.error("lost")


def test_log_in_json_is_told_of_in_json(
    logger: logging.Logger, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    add_full_disk(logger)
    logger.handlers[0].setFormatter(JSONFormatter(3, "gunicorn: "))
    quiet_handler_errors([logger], clock)
    logger.warning("lost")
    logger.warning("%d", "no number")
    clock.now += INTERVAL
    logger.warning("%d", "no number")
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(each["logger"], each["level"]) for each in told] == [("outrider.log", "ERROR")] * 2
    assert "No space left on device" in told[0]["message"]
    assert "TypeError" in told[1]["message"]


def test_sentence_is_an_error_in_the_journal(
    logger: logging.Logger, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_full_disk(logger)
    quiet_handler_errors([logger], clock)
    with (tmp_path / "journal").open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setattr(sys, "stderr", stream)
        logger.warning("lost")
    assert (tmp_path / "journal").read_text().startswith("<3>outrider: can't write the log")
