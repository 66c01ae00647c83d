"""Events as JSON, one object a line."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import pytest

from outrider.log_json import JSONFormatter, Stamper


def make_record(message: str = "hello %s", *args: object, **changes: Any) -> logging.LogRecord:
    record = logging.LogRecord("gunicorn.error", logging.WARNING, "", 0, message, args or ("you",), None)
    record.created = 1795262400.25
    for name, value in changes.items():
        setattr(record, name, value)
    return record


def fields_of(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    line = formatter.format(record)
    assert "\n" not in line
    assert line.isascii()
    fields: dict[str, Any] = json.loads(line)
    return fields


def test_event_has_the_fields_of_a_line() -> None:
    assert fields_of(JSONFormatter(3), make_record()) == {
        "time": "2026-11-21T12:00:00.250000Z",
        "level": "WARNING",
        "logger": "gunicorn.error",
        "pid": os.getpid(),
        "generation": 3,
        "message": "hello you",
    }


def test_event_without_a_supervisor_has_no_generation() -> None:
    assert "generation" not in fields_of(JSONFormatter(), make_record())


def test_exception_is_text() -> None:
    error = ValueError("why\n\x1b[31m")
    record = make_record(exc_info=(ValueError, error, None), stack_info="Stack:\n  here")
    fields = fields_of(JSONFormatter(), record)
    assert fields["exception"] == "ValueError: why\n\x1b[31m"
    assert fields["stack"] == "Stack:\n  here"


def test_exception_that_another_formatter_has_made_text_of_is_kept() -> None:
    assert fields_of(JSONFormatter(), make_record(exc_text="Traceback …"))["exception"] == "Traceback …"


def test_report_says_what_it_is() -> None:
    assert fields_of(JSONFormatter(), make_record(report="dump"))["report"] == "dump"
    circular: list[Any] = []
    circular.append(circular)
    assert "report" not in fields_of(JSONFormatter(), make_record(report=circular)), "an application's own use of it"


@pytest.mark.parametrize("text", ["line\nbreak", "\u2028", "\x9b31m", "\udce9", '"'])
def test_text_of_a_client_stays_in_its_line(text: str) -> None:
    assert fields_of(JSONFormatter(), make_record("%s", text))["message"] == text


def test_prefix_stands_before_the_object() -> None:
    assert JSONFormatter(prefix="gunicorn.app.error: ").format(make_record()).startswith('gunicorn.app.error: {"time":')


def test_times_are_rfc_3339() -> None:
    stamp = Stamper()
    assert stamp(0.0) == "1970-01-01T00:00:00.000000Z"
    assert stamp(1795262400.999999) == "2026-11-21T12:00:00.999999Z"
    assert stamp(1795262401.0) == "2026-11-21T12:00:01.000000Z"
