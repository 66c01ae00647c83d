"""The supervisor's log, and what it remembers of it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from outrider import log_writer
from outrider_supervisor import journal as journal_module
from outrider_supervisor.actions import Level
from outrider_supervisor.journal import KEPT_EVENTS, KEPT_PROCESSES, KEPT_REPORTS, LONGEST_REPORT, Journal

PATIENCE = 20.0


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Not that of capsys, which is another one in a fixture than in the test."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.fixture
def journal(stderr: io.StringIO) -> Iterator[Journal]:
    assert stderr.getvalue() == ""
    journal = Journal()
    yield journal
    journal.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "error.log"


def test_lines_look_like_those_of_gunicorn(journal: Journal, stderr: io.StringIO) -> None:
    journal.write(Level.WARNING, "degraded: 1 of 2")
    (line,) = stderr.getvalue().splitlines()
    assert line.startswith("[20")
    assert line.endswith(f"] [{os.getpid()}] [WARNING] degraded: 1 of 2")


@pytest.mark.parametrize(
    "log_format, pattern",
    [
        ("auto", r"<4>one\n<4>two\n"),
        ("json", r'<4>\{.*"message":"one\\ntwo"\}\n'),
        ("text", r"\[.*\] \[\d+\] \[WARNING\] one\ntwo\n"),
    ],
)
def test_lines_for_systemds_journal_have_a_priority(
    log_format: str, pattern: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with path.open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setattr(sys, "stderr", stream)
        journal = Journal()
        journal.configure("-", "info", log_format)
        journal.write(Level.WARNING, "one\ntwo")
        journal.configure(str(path.with_name("other")), "info", "auto")
        journal.write(Level.WARNING, "to a file")
        journal.close()
    assert re.fullmatch(pattern, path.read_text())
    assert path.with_name("other").read_text().startswith("[20")


def test_closed_journal_is_silent(journal: Journal, stderr: io.StringIO) -> None:
    journal.close()
    journal.write(Level.INFO, "hello")
    assert stderr.getvalue() == ""


def test_log_goes_to_the_file_once_it_is_known(journal: Journal, path: Path, stderr: io.StringIO) -> None:
    journal.configure(str(path), "warning")
    journal.write(Level.INFO, "too quiet")
    journal.write(Level.ERROR, "loud")
    assert path.read_text().endswith("[ERROR] loud\n")
    assert "too quiet" not in path.read_text()
    assert stderr.getvalue() == ""


def test_log_returns_to_stderr(
    journal: Journal, path: Path, stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)  # pytest has its own in each phase of a test
    journal.configure(str(path), "info")
    journal.configure("-", "info")
    journal.write(Level.INFO, "hello")
    assert path.read_text() == ""
    assert "hello" in stderr.getvalue()


def test_same_file_is_not_opened_again(journal: Journal, path: Path) -> None:
    journal.configure(str(path), "info")
    path.rename(path.with_suffix(".1"))
    journal.configure(str(path), "debug")
    assert not path.exists()
    assert journal.logger.level == logging.DEBUG


def test_level_that_is_not_known_is_info(journal: Journal) -> None:
    journal.configure("-", "chatty")
    assert journal.logger.level == logging.INFO


def test_file_that_cannot_be_opened_leaves_the_log_where_it_is(
    journal: Journal, path: Path, stderr: io.StringIO
) -> None:
    missing = path.parent / "missing" / "error.log"
    journal.configure(str(missing), "info")
    journal.write(Level.INFO, "hello")
    complaint, line = stderr.getvalue().splitlines()
    assert complaint.endswith(
        f"errorlog {missing} cannot be opened (No such file or directory): the log stays where it is"
    )
    assert line.endswith("hello")
    missing.parent.mkdir()
    journal.configure(str(missing), "info")  # the next reload
    journal.write(Level.INFO, "at last")
    assert "at last" in missing.read_text()


def test_file_that_was_moved_away_is_opened_anew(journal: Journal, path: Path) -> None:
    journal.configure(str(path), "info")
    journal.write(Level.INFO, "old")
    moved = path.rename(path.with_suffix(".1"))
    journal.reopen()
    journal.write(Level.INFO, "new")
    assert "old" in moved.read_text()
    assert "new" not in moved.read_text()
    assert "new" in path.read_text()


def test_file_that_cannot_be_opened_anew_is_written_on(journal: Journal, path: Path) -> None:
    directory = path.parent / "logs"
    directory.mkdir()
    journal.configure(str(directory / "log"), "info")
    moved = directory.rename(path.parent / "moved")
    journal.reopen()
    journal.write(Level.INFO, "hello")
    assert "hello" in (moved / "log").read_text()
    directory.mkdir()
    journal.reopen()
    journal.write(Level.INFO, "at last")
    assert "at last" in (directory / "log").read_text()


def test_stderr_stays_when_files_are_reopened(journal: Journal, stderr: io.StringIO) -> None:
    journal.reopen()
    journal.write(Level.INFO, "hello")
    assert stderr.getvalue().count("hello") == 1


def test_events_are_kept_whatever_the_level(journal: Journal) -> None:
    journal.configure("-", "error")
    journal.write(Level.INFO, "hello")
    (event,) = journal.events
    assert (event["level"], event["text"]) == ("info", "hello")
    for number in range(KEPT_EVENTS):
        journal.write(Level.ERROR, f"{number}")
    assert len(journal.events) == KEPT_EVENTS
    assert journal.events[-1]["text"] == f"{KEPT_EVENTS - 1}"


def test_successor_logs_where_this_one_did_and_knows_its_events(journal: Journal, path: Path) -> None:
    journal.configure(str(path), "warning")
    journal.write(Level.WARNING, "before")
    state = journal.to_state()
    journal.close()
    successor = Journal()
    successor.take_state(state)
    successor.write(Level.WARNING, "after")
    assert [line.rpartition("] ")[2] for line in path.read_text().splitlines()] == ["before", "after"]
    assert [event["text"] for event in successor.events] == ["before", "after"]
    assert successor.to_state()["loglevel"] == "WARNING"
    successor.close()


# -- last words


def test_last_words_are_the_last_reports_in_order(journal: Journal) -> None:
    for number in range(KEPT_REPORTS + 2):
        journal.keep_report(7, f"{number}")
    journal.keep_report(8, "another's")
    assert journal.last_words(7).split("\n") == [f"{number}" for number in range(2, KEPT_REPORTS + 2)]


def test_process_that_said_nothing_has_no_last_words(journal: Journal) -> None:
    assert journal.last_words(7) == ""


def test_end_of_a_long_report_counts(journal: Journal) -> None:
    journal.keep_report(7, "begin" + "x" * LONGEST_REPORT + "end")
    words = journal.last_words(7)
    assert len(words) == LONGEST_REPORT
    assert words.endswith("end")


def test_process_that_has_been_silent_longest_is_forgotten(journal: Journal) -> None:
    for pid in range(1, KEPT_PROCESSES + 1):
        journal.keep_report(pid, "hello")
    journal.keep_report(1, "again")
    journal.keep_report(KEPT_PROCESSES + 1, "hello")
    assert journal.last_words(2) == ""
    assert journal.last_words(1) == "hello\nagain"


def test_what_is_remembered_is_not_logged_again(journal: Journal, stderr: io.StringIO) -> None:
    journal.remember(Level.ERROR, "Task 1\nTask 2")
    assert stderr.getvalue() == ""
    (event,) = journal.events
    assert (event["level"], event["text"]) == ("error", "Task 1\nTask 2")
    assert event["at"] > 0


def test_long_text_is_remembered_by_its_beginning(journal: Journal) -> None:
    journal.remember(Level.ERROR, "begin" + "x" * LONGEST_REPORT)
    (event,) = journal.events
    assert len(event["text"]) == LONGEST_REPORT
    assert event["text"].startswith("begin")


@pytest.fixture
def full_disk(journal: Journal) -> Journal:
    """Lines are left in the buffer of a file that cannot take them, so that closing it fails."""
    journal.configure("/dev/full", "info")
    journal.write(Level.INFO, "lost")
    return journal


def test_log_leaves_a_full_disk_for_another_file(full_disk: Journal, path: Path) -> None:
    full_disk.configure(str(path), "info")
    full_disk.write(Level.INFO, "hello")
    assert path.read_text().endswith("hello\n")


def test_log_on_a_full_disk_is_written_again_once_there_is_room(full_disk: Journal, path: Path) -> None:
    vars(full_disk)["_path"] = str(path)  # the same file, and room in it
    full_disk.reopen()
    full_disk.write(Level.INFO, "hello")
    assert path.read_text().endswith("hello\n")
    assert [each for each in full_disk.logger.handlers if isinstance(each, logging.FileHandler)] == [full_disk._handler]


def test_log_on_a_full_disk_is_closed(full_disk: Journal) -> None:
    full_disk.close()
    assert full_disk._handler not in full_disk.logger.handlers


# -- as JSON


def test_lines_are_json_where_that_is_configured(journal: Journal, path: Path, stderr: io.StringIO) -> None:
    journal.configure("-", "info", "json")
    journal.write(Level.WARNING, 'degraded: "1" of 2')
    journal.configure(str(path), "info", "json")
    journal.write(Level.INFO, "hello")
    (line,) = stderr.getvalue().splitlines()
    event = json.loads(line)
    assert (event["level"], event["logger"], event["message"]) == (
        "WARNING",
        "outrider.supervisor",
        'degraded: "1" of 2',
    )
    assert (event["pid"], json.loads(path.read_text())["message"]) == (os.getpid(), "hello")


def test_lines_are_text_again_with_the_next_reload(journal: Journal, stderr: io.StringIO) -> None:
    journal.configure("-", "info", "json")
    journal.configure("-", "info", "text")
    journal.write(Level.INFO, "hello")
    assert stderr.getvalue().endswith("[INFO] hello\n")


def test_reopened_log_and_the_successors_are_json_too(journal: Journal, path: Path) -> None:
    journal.configure(str(path), "info", "json")
    path.rename(path.with_suffix(".1"))
    journal.reopen()
    journal.write(Level.INFO, "reopened")
    state = journal.to_state()
    journal.close()
    successor = Journal()
    successor.take_state(state)
    successor.write(Level.INFO, "after")
    successor.close()
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["reopened", "after"]


# -- a log that nobody reads


@pytest.fixture
def full_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """stderr is a pipe that nobody reads, without room; the end to read from."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(65536))
    os.set_blocking(writer, True)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        yield reader
        with suppress(OSError):
            os.close(reader)
        with suppress(BrokenPipeError):
            stream.flush()


def test_log_that_nobody_reads_does_not_hold_the_supervisor_up(
    full_pipe: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "EXIT_PATIENCE", PATIENCE)
    journal = Journal()
    journal.start_writer()
    journal.write(Level.INFO, "lost")
    journal.configure(str(path), "info")
    journal.write(Level.INFO, "waits behind it")
    assert [event["text"] for event in journal.events] == ["lost", "waits behind it"]
    os.close(full_pipe)  # a reader that comes and goes: the log goes on
    journal.close()
    assert path.read_text().endswith("waits behind it\n")


def test_log_moves_from_file_to_file_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "EXIT_PATIENCE", PATIENCE)
    journal = Journal()
    journal.start_writer()
    journal.configure(str(path.with_suffix(".2")), "info")
    journal.write(Level.INFO, "before")
    journal.configure(str(path), "info")
    journal.write(Level.INFO, "old")
    moved = path.rename(path.with_suffix(".1"))
    journal.reopen()
    journal.write(Level.INFO, "new")
    journal.flush()
    texts = [each.read_text() for each in (path.with_suffix(".2"), moved, path)]
    assert [text.split()[-1] for text in texts] == ["before", "old", "new"]
    assert [text.count("\n") for text in texts] == [1, 1, 1]
    journal.close()


def test_supervisor_ends_with_its_status_though_its_log_is_stuck(
    full_pipe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(log_writer, "EXIT_PATIENCE", 0.0)
    monkeypatch.setattr(log_writer, "LEAST_EXIT_PATIENCE", 0.0)
    journal = Journal()
    journal.start_writer()
    journal.write(Level.INFO, "stopped")
    journal.expect_exit(3)
    journal._writer.finish()
    assert statuses == [3]
    os.close(full_pipe)
    journal.close()
