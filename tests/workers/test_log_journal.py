"""Lines for systemd's journal."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import pytest

from outrider.log_journal import JournalFormatter, goes_to_journal, marked_as_error, priority, with_priority


@pytest.mark.parametrize(
    "level, prefix",
    [
        (logging.CRITICAL + 5, "<2>"),
        (logging.CRITICAL, "<2>"),
        (logging.ERROR, "<3>"),
        (logging.WARNING, "<4>"),
        (logging.INFO + 5, "<6>"),
        (logging.INFO, "<6>"),
        (logging.DEBUG, "<7>"),
        (1, "<7>"),
    ],
)
def test_priority_is_that_of_syslog(level: int, prefix: str) -> None:
    assert priority(level) == prefix


def test_each_line_has_the_priority() -> None:
    assert with_priority("one\ntwo\n\nfour", logging.ERROR) == "<3>one\n<3>two\n<3>\n<3>four"


def test_stream_is_the_journal_if_it_is_the_one_that_was_named(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream, (tmp_path / "other").open("w") as other:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert goes_to_journal(stream, environ)
        assert not goes_to_journal(other, environ)
        assert not goes_to_journal(stream, {})
        assert not goes_to_journal(stream, {"JOURNAL_STREAM": "no"})
    assert not goes_to_journal(stream, environ)


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_what_is_no_file_is_not_the_journal(stream: object) -> None:
    assert not goes_to_journal(stream, {"JOURNAL_STREAM": "1:2"})


def test_text_is_marked_for_the_journal_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stream").open("w") as stream:
        assert marked_as_error("no", stream) == "no"
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert marked_as_error("no", stream) == "<3>no"


def test_formatter_leaves_out_what_journald_knows() -> None:
    error = ValueError("x")
    record = logging.LogRecord("gunicorn.error", logging.ERROR, "", 0, "two\n%s", ("lines",), (ValueError, error, None))
    text = JournalFormatter().format(record)
    assert text == "<3>two\n<3>lines\n<3>ValueError: x"
