"""`log_format`: gunicorn's own handlers write JSON, and what the user has set up stays."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from outrider.access_log import AccessLog
from outrider.log_format import use_log_format
from outrider.log_writer import LogWriter
from outrider.supervised import Supervision

SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/x",
    "raw_path": b"/x",
    "query_string": b"",
    "root_path": "",
    "headers": [],
    "client": ("192.0.2.1", 50000),
    "server": ("127.0.0.1", 8000),
}
NAMES = ("gunicorn.error", "gunicorn.access")


@pytest.fixture(autouse=True)
def clean_loggers() -> Iterator[None]:
    yield
    for name in NAMES:
        logger = logging.getLogger(name)
        logger.filters.clear()
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    cfg = Config()
    cfg.set("accesslog", str(tmp_path / "access.log"))
    cfg.set("errorlog", str(tmp_path / "error.log"))
    return cfg


def make_log(cfg: Any, **members: Any) -> Any:
    """gunicorn's logger, or one of a class that overrides something; without the handlers that pytest adds."""
    log = type("Own", (Logger,), members)(cfg)
    for name in NAMES:
        logger = logging.getLogger(name)
        logger.handlers = [each for each in logger.handlers if not type(each).__module__.startswith("_pytest")]
    return log


def access(log: Any, cfg: Any) -> None:
    AccessLog(log, cfg).write(SCOPE, 200, [], 13, 1_500_000, None)


def objects_in(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_both_logs_are_json(cfg: Any) -> None:
    log = make_log(cfg)
    assert use_log_format("json", log, Supervision(1, 7)) == []
    log.error("no")
    access(log, cfg)
    (error,) = objects_in(cfg.errorlog)
    assert (error["message"], error["level"], error["generation"]) == ("no", "ERROR", 7)
    (request,) = objects_in(cfg.accesslog)
    assert (request["path"], request["duration"], request["generation"]) == ("/x", 1.5, 7)


def test_text_is_gunicorns(cfg: Any) -> None:
    log = make_log(cfg)
    assert use_log_format("text", log, None) == []
    access(log, cfg)
    assert '"GET /x HTTP/1.1" 200 13' in Path(cfg.accesslog).read_text()


@pytest.mark.parametrize("is_filtered", [False, True])
def test_line_is_the_same_through_the_queue(cfg: Any, *, is_filtered: bool) -> None:
    log = make_log(cfg)
    use_log_format("json", log, None)
    if is_filtered:  # records are made then
        log.access_log.addFilter(lambda record: record.args["U"] == "/x")
    writer = LogWriter((log.error_log, log.access_log), log)
    writer.start()
    access(log, cfg)
    assert writer.stop(20.0)
    access(log, cfg)
    first, second = objects_in(cfg.accesslog)
    assert set(first) == set(second)
    assert first["path"] == "/x"


def test_text_line_is_the_same_through_the_queue(cfg: Any) -> None:
    cfg.set("access_log_format", "%(h)s %(r)s %(s)s %(b)s %(D)s")
    log = make_log(cfg)
    writer = LogWriter((log.error_log, log.access_log), log)
    writer.start()
    access(log, cfg)
    assert writer.stop(20.0)
    access(log, cfg)
    first, second = Path(cfg.accesslog).read_text().splitlines()
    assert first == second == "192.0.2.1 GET /x HTTP/1.1 200 13 1500000"


def streamed(monkeypatch: pytest.MonkeyPatch, path: Path) -> Any:
    """gunicorn's logger with both logs on a stream that is the journal."""
    stream = path.open("w")
    found = os.fstat(stream.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    cfg = Config()
    cfg.set("accesslog", "-")
    return make_log(cfg), cfg, stream


@pytest.mark.parametrize("log_format", ["auto", "json"])
@pytest.mark.parametrize("is_queued", [False, True])
def test_lines_in_the_journal_have_a_priority(
    log_format: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_queued: bool
) -> None:
    log, cfg, stream = streamed(monkeypatch, tmp_path / "journal")
    assert use_log_format(log_format, log, None) == []
    assert use_log_format(log_format, log, None) == []  # as in each new worker
    writer = LogWriter((log.error_log, log.access_log), log)
    if is_queued:
        writer.start()
    log.error("one\ntwo")
    access(log, cfg)
    assert not is_queued or writer.stop(20.0)
    stream.close()
    lines = (tmp_path / "journal").read_text().splitlines()
    if log_format == "json":
        assert [(line[:3], json.loads(line[3:])["level"]) for line in lines] == [("<3>", "ERROR"), ("<6>", "INFO")]
    else:
        assert lines[:2] == ["<3>one", "<3>two"]
        assert lines[2].startswith("<6>192.0.2.1 - - [")
        assert len(lines) == 3


def test_text_that_was_asked_for_is_text_in_the_journal_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log, _, stream = streamed(monkeypatch, tmp_path / "journal")
    assert use_log_format("text", log, None) == []
    log.error("no")
    stream.close()
    assert re.fullmatch(r"\[.*\] \[\d+\] \[ERROR\] no\n", (tmp_path / "journal").read_text())


def test_format_of_somebodys_own_stays_in_the_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log, _, stream = streamed(monkeypatch, tmp_path / "journal")
    for handler in log.error_log.handlers:
        handler.setFormatter(Shouting("%(message)s"))
    assert use_log_format("auto", log, None) == []
    log.error("no")
    stream.close()
    assert (tmp_path / "journal").read_text() == "NO\n"


def test_files_beside_the_journal_are_text(cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    log = make_log(cfg)
    assert use_log_format("auto", log, None) == []
    log.error("no")
    assert Path(cfg.errorlog).read_text().startswith("[")


class Shouting(logging.Formatter):
    """Has gunicorn's format, and a way of its own with it."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).upper()


@pytest.mark.parametrize("change", ["handler", "filter", "parent", "patch", "formatter"])
def test_who_looks_at_records_sees_those_of_requests(cfg: Any, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    log = make_log(cfg)
    logger = log.access_log
    seen: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]  # of this one
    writer = LogWriter((log.error_log, logger), log)
    if change == "handler":
        logger.addHandler(listener)
    writer.start()
    if change == "filter":
        logger.addFilter(lambda record: seen.append(record.getMessage()))
    elif change == "parent":
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(logger, "parent", logging.Logger("parent"))  # noqa: LOG001  # of this test
        logger.parent.addHandler(listener)
    elif change == "patch":
        monkeypatch.setattr(logging.Logger, "callHandlers", lambda _, record: seen.append(record.getMessage()))
    elif change == "formatter":
        logger.handlers[0].setFormatter(Shouting("%(message)s"))
    access(log, cfg)
    assert writer.stop(20.0)
    if change == "formatter":
        seen = [line for line in Path(cfg.accesslog).read_text().splitlines() if line.isupper()]
    assert len(seen) == 1
    assert "/X" in seen[0].upper()


def test_own_format_of_the_handler_is_used_through_the_queue(cfg: Any) -> None:
    log = make_log(cfg)
    (handler,) = log.access_log.handlers
    handler.setFormatter(logging.Formatter("own %(message)s"))
    writer = LogWriter((log.error_log, log.access_log), log)
    writer.start()
    access(log, cfg)
    assert writer.stop(20.0)
    assert Path(cfg.accesslog).read_text().startswith("own 192.0.2.1")


def test_each_process_has_its_own_formatters(cfg: Any) -> None:
    log = make_log(cfg)
    use_log_format("json", log, None)
    (before,) = [handler.formatter for handler in log.access_log.handlers]
    assert use_log_format("json", log, None) == []
    (after,) = [handler.formatter for handler in log.access_log.handlers]
    assert after is not before


def test_logconfig_keeps_its_formats(cfg: Any, tmp_path: Path) -> None:
    handler = {"class": "logging.FileHandler", "formatter": "own", "filename": str(tmp_path / "own.log")}
    loggers = {name: {"level": "INFO", "handlers": ["own"], "propagate": False} for name in NAMES}
    formatters = {"own": {"format": "OWN %(message)s"}}
    config: dict[str, Any] = {"version": 1, "formatters": formatters, "handlers": {"own": handler}, "loggers": loggers}
    config["root"] = {"handlers": ["own"]}
    cfg.set("logconfig_dict", config)
    log = make_log(cfg)
    assert use_log_format("json", log, None) == list(NAMES)
    log.error("no")
    access(log, cfg)
    assert [line.split()[0] for line in (tmp_path / "own.log").read_text().splitlines()] == ["OWN", "OWN"]


def test_format_of_a_logger_class_stays(cfg: Any) -> None:
    log = make_log(cfg, error_fmt="OWN %(message)s")
    assert use_log_format("json", log, None) == ["gunicorn.error"]
    log.error("no")
    access(log, cfg)
    assert Path(cfg.errorlog).read_text() == "OWN no\n"
    assert objects_in(cfg.accesslog)[0]["path"] == "/x"


def test_access_of_a_logger_class_is_the_message(cfg: Any) -> None:
    def write_access(self: Any, resp: Any, req: Any, environ: Any, request_time: Any) -> None:  # noqa: ARG001  # gunicorn's
        self.access_log.info("own %s", req.path)

    log = make_log(cfg, access=write_access)
    use_log_format("json", log, None)
    access(log, cfg)
    assert objects_in(cfg.accesslog)[0]["message"] == "own /x"


def test_syslog_keeps_its_prefix(cfg: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "syslog"))
        receiver.settimeout(5)
        cfg.set("syslog", True)
        cfg.set("syslog_addr", f"unix://{tmp_path / 'syslog'}#dgram")
        cfg.set("syslog_prefix", "shop")
        log = make_log(cfg)
        for _ in range(2):
            assert use_log_format("json", log, None) == []
        access(log, cfg)
        head, _, line = receiver.recv(4096).decode().rstrip("\0").partition(": ")
        assert head.endswith("gunicorn.shop.access")
        assert json.loads(line)["path"] == "/x"


def test_handler_of_the_user_stays_as_it_is_even_with_gunicorns_format(cfg: Any, tmp_path: Path) -> None:
    log = make_log(cfg)
    handler = logging.FileHandler(tmp_path / "own.log")
    handler.setFormatter(logging.Formatter(Logger.access_fmt))
    log.error_log.addHandler(handler)
    assert use_log_format("json", log, None) == ["gunicorn.error"]
    log.error("no")
    assert (tmp_path / "own.log").read_text() == "no\n"


def test_handler_that_passes_records_on_is_no_format_of_the_user(cfg: Any) -> None:
    log = make_log(cfg)
    handler = logging.NullHandler()
    handler.never_waits = True  # type: ignore[attr-defined]  # as the supervisor's has it
    log.error_log.addHandler(handler)
    assert use_log_format("json", log, None) == []
