"""A handler whose lines a thread writes does what it did: filters, formats, failures, whatever its class."""

from __future__ import annotations

import contextvars
import io
import logging
import logging.handlers
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.log_errors import quiet_handler_errors
from outrider.log_relay import Relay
from outrider.log_writer import LogWriter

PATIENCE = 20.0
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")


@pytest.fixture
def logger() -> logging.Logger:
    return logging.Logger("error")  # noqa: LOG001  # apart from the loggers that other tests see


@pytest.fixture
def writer(logger: logging.Logger) -> Iterator[LogWriter]:
    writer = LogWriter((logger,), logger)
    yield writer
    writer.stop(PATIENCE)


class ListHandler(logging.Handler):
    """Keeps records, formatted, and who wrote them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.threads: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        self.threads.add(threading.current_thread().name)


class OwnHandle(ListHandler):
    """Has its own way with records."""

    def handle(self, record: logging.LogRecord) -> bool:
        record.msg = f"own {record.msg}"
        self.emit(record)
        return True


class FormatWithContext(logging.Formatter):
    """Needs the context of who logs."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{request_id.get()}: {record.getMessage()}"


@pytest.mark.parametrize("handler_class", [ListHandler, OwnHandle])
def test_other_handler_writes_in_the_thread_in_the_context_of_the_call(
    logger: logging.Logger, writer: LogWriter, handler_class: type[ListHandler]
) -> None:
    handler = handler_class()
    handler.setFormatter(FormatWithContext())
    logger.addHandler(handler)
    writer.start()
    token = request_id.set("r1")
    logger.info("hello")
    request_id.reset(token)
    assert writer.flush(PATIENCE)
    assert handler.lines == ["r1: own hello" if handler_class is OwnHandle else "r1: hello"]
    assert handler.threads == {"outrider-log"}


def test_stream_is_formatted_where_it_is_logged(logger: logging.Logger, writer: LogWriter) -> None:
    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"{threading.current_thread().name} {record.getMessage()}"

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.terminator = "|"
    handler.setFormatter(Formatter())
    logger.addHandler(handler)
    writer.start()
    logger.info("one")
    logger.info("two")
    assert writer.flush(PATIENCE)
    assert stream.getvalue() == "MainThread one|MainThread two|"


def test_filter_of_the_handler_runs_where_it_is_logged(logger: logging.Logger, writer: LogWriter) -> None:
    seen: set[str] = set()

    def keep(record: logging.LogRecord) -> bool:
        seen.add(threading.current_thread().name)
        return "secret" not in record.getMessage()

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(keep)
    logger.addHandler(handler)
    writer.start()
    logger.info("a secret")
    logger.critical("a secret")
    logger.info("hello")
    assert writer.flush(PATIENCE)
    assert stream.getvalue() == "hello\n"
    assert seen == {"MainThread"}


def test_record_that_cannot_be_formatted_is_the_handlers_affair(
    logger: logging.Logger, writer: LogWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    logger.addHandler(logging.StreamHandler(stream))
    quiet_handler_errors([logger])
    writer.start()
    logger.info("%d", "no number")
    logger.info("hello")
    assert writer.flush(PATIENCE)
    assert stream.getvalue() == "hello\n"
    assert "TypeError" in capsys.readouterr().err


def test_handler_says_that_it_cannot_format_in_the_thread(logger: logging.Logger, writer: LogWriter) -> None:
    told: list[tuple[str, type[BaseException] | None]] = []

    class Handler(logging.StreamHandler[io.StringIO]):
        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
            told.append((threading.current_thread().name, sys.exc_info()[0]))

    logger.addHandler(Handler(io.StringIO()))
    writer.start()
    logger.info("%d", "no number")
    logger.critical("%d", "no number")
    assert writer.flush(PATIENCE)
    assert told == [("outrider-log", TypeError)] * 2


@pytest.mark.parametrize("level", [logging.INFO, logging.CRITICAL])
def test_character_that_the_stream_does_not_have_costs_no_line(
    logger: logging.Logger, writer: LogWriter, tmp_path: Path, level: int
) -> None:
    path = tmp_path / "log"
    handlers = [
        logging.FileHandler(path, encoding="utf-8"),
        logging.FileHandler(tmp_path / "latin", encoding="latin-1", delay=True),
    ]
    logger.handlers += handlers
    writer.start()
    for text in ("before", "caf\udce9", "\u20ac", "behind"):
        logger.log(level, text)
    assert writer.flush(PATIENCE)
    for handler in handlers:
        handler.close()
    assert path.read_text("utf-8").split() == ["before", "caf\\udce9", "\u20ac", "behind"]
    assert (tmp_path / "latin").read_text("latin-1").split() == ["before", "caf\\udce9", "\\u20ac", "behind"]


def test_lines_lost_on_a_full_disk_are_all_counted(
    logger: logging.Logger, writer: LogWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    full = io.FileIO("/dev/full", "w")
    logger.addHandler(logging.StreamHandler(io.TextIOWrapper(full, write_through=True)))
    now = [1000.0]
    quiet_handler_errors([logger], lambda: now[0])
    writer.start()
    for _ in range(20):
        logger.info("lost")
    assert writer.flush(PATIENCE)
    now[0] += 3600
    logger.info("lost")
    assert writer.flush(PATIENCE)
    sentences = capsys.readouterr().err
    counts = [int(part.split(".")[0]) for part in sentences.split("last such message: ")[1:]]
    assert sum(counts) == 21
    full.close()


def test_rotating_file_is_rotated(logger: logging.Logger, writer: LogWriter, tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=20, backupCount=5)
    logger.addHandler(handler)
    writer.start()
    for number in range(3):
        logger.info("a line of some length %d", number)
    assert writer.flush(PATIENCE)
    handler.close()
    assert [(tmp_path / name).read_text()[-2] for name in ("error.log.2", "error.log.1", "error.log")] == list("012")


def test_handler_with_methods_of_its_own_keeps_them(logger: logging.Logger, writer: LogWriter) -> None:
    stream = io.StringIO()
    formats, handles = logging.StreamHandler(stream), ListHandler()
    formats.format = lambda record: f"own {record.getMessage()}"  # type: ignore[method-assign]  # of this one
    handled: list[str] = []

    def handle(record: logging.LogRecord) -> bool:
        handled.append(record.getMessage())
        return True

    handles.handle = handle  # type: ignore[method-assign]  # as above
    for handler in (formats, handles):
        logger.addHandler(handler)
    writer.start()
    logger.info("hello")
    assert writer.stop(PATIENCE)
    assert (stream.getvalue(), handled) == ("own hello\n", ["hello"])
    assert handles.handle is handle


def test_handler_is_locked_while_it_writes(logger: logging.Logger, writer: LogWriter) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    writer.start()
    handler.acquire()
    logger.warning("hello")
    assert not writer.flush(0.05)
    assert stream.getvalue() == ""
    handler.release()
    assert writer.flush(PATIENCE)
    assert stream.getvalue() == "hello\n"


def test_handler_that_never_waits_is_left_alone(logger: logging.Logger, writer: LogWriter) -> None:
    handler = ListHandler()
    handler.never_waits = True  # type: ignore[attr-defined]  # as the supervisor's has it
    logger.addHandler(handler)
    writer.start()
    logger.info("hello")
    assert handler.threads == {"MainThread"}


def test_format_called_by_others_is_the_handlers(logger: logging.Logger, writer: LogWriter) -> None:
    handler = logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    writer.start()
    record = logger.makeRecord("error", logging.INFO, "", 0, "%s", ("hello",), None)
    assert handler.format(record) == "hello"


@pytest.mark.parametrize("change", ["none", "filter", "level", "stopped", "class"])
def test_lines_are_taken_only_where_a_record_would_be_the_same(
    logger: logging.Logger, writer: LogWriter, change: str
) -> None:
    handler = ListHandler() if change == "class" else logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    writer.start()
    relay = handler.handle
    assert isinstance(relay, Relay)
    if change == "filter":
        handler.addFilter(lambda _: True)
    elif change == "level":
        handler.setLevel(logging.WARNING)
    elif change == "stopped":
        writer.stop(PATIENCE)
    assert relay.takes_lines() is (change == "none")
