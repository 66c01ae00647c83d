"""Log records as JSON, one object a line."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from outrider.log_journal import JournalFormatter, goes_to_journal, priority

JSON, TEXT = "json", "text"
"""What `log_format` may be, beside "auto"."""

to_json: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), default=str, skipkeys=True).encode
"""One line of ASCII: nothing that it holds can end the line, or steer a terminal."""


class Stamper:
    """Writes times as RFC 3339 has them, in UTC, with microseconds."""

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest = (-1, "")

    def __call__(self, unix_time: float) -> str:
        """Format seconds since the epoch."""
        microseconds = int(unix_time * 1_000_000)
        second, fraction = divmod(microseconds, 1_000_000)
        latest = self._latest  # threads log as well
        if second != latest[0]:
            latest = self._latest = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        return f"{latest[1]}.{fraction:06}Z"


class JSONFormatter(logging.Formatter):
    """An event: time, level, logger, pid, generation, message, and exception, stack and report where there are some."""

    def __init__(self, generation: int | None = None, prefix: str = "", *, for_journal: bool = False) -> None:
        """Take what is the same for all lines.

        Args:
            generation: its number under the supervisor.
            prefix: what stands before the object, as for syslog.
            for_journal: whether a priority stands before it, for journald.
        """
        super().__init__()
        self.for_journal = for_journal
        self._generation = {} if generation is None else {"generation": generation}
        self.prefix = prefix
        self._stamp = Stamper()

    def format(self, record: logging.LogRecord) -> str:
        """logging: the line of a record."""
        fields = {
            "time": self._stamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            **self._generation,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        report = getattr(record, "report", None)
        if isinstance(report, str):  # an application may have a use of its own for that name
            fields["report"] = report
        line = self.prefix + to_json(fields)
        return priority(record.levelno) + line if self.for_journal else line


def choose_formatter(
    log_format: str, stream: Any, make_json: Callable[..., JSONFormatter] = JSONFormatter
) -> logging.Formatter | None:
    """The formatter that `log_format` means for what is written to a stream; None for the one that is there.

    Args:
        log_format: the setting.
        stream: of a handler, or None where it has none.
        make_json: called with `for_journal` for the formatter of JSON.
    """
    for_journal = goes_to_journal(stream)
    if log_format == JSON:
        return make_json(for_journal=for_journal)
    return JournalFormatter() if for_journal and log_format != TEXT else None
