"""The setting `log_format`: how the lines of gunicorn's own handlers look."""

from __future__ import annotations

import logging
from logging.handlers import SysLogHandler
from typing import Any

from gunicorn.glogging import Logger

from outrider.access_json import AccessFormatter
from outrider.log_journal import JournalFormatter, goes_to_journal
from outrider.log_json import JSONFormatter
from outrider.supervised import Supervision

JSON, TEXT = "json", "text"


def use_log_format(log_format: str, log: Any, supervision: Supervision | None) -> list[str]:
    """Have the handlers that gunicorn has made, and whose lines are in its own format, write what is wanted.

    That is JSON, or without a wish what suits the journal, where the lines go there. The formats that a logconfig or a
    logger class chose stay. Safe to call again, as in each new worker.

    Args:
        log_format: the setting.
        log: gunicorn's logger.
        supervision: of this process.

    Returns:
        The names of the loggers with handlers that were left alone though JSON is wanted.
    """
    if log_format == TEXT:
        return []
    generation = supervision.generation if supervision else None
    left_alone = []
    for logger, formatter_class in ((log.error_log, JSONFormatter), (log.access_log, AccessFormatter)):
        for handler in logger.handlers:
            prefix = _replaceable(handler)
            for_journal = goes_to_journal(getattr(handler, "stream", None))
            if prefix is not None and log_format == JSON:
                handler.setFormatter(formatter_class(generation, prefix, for_journal=for_journal))
            elif prefix is not None and for_journal:
                handler.setFormatter(JournalFormatter())
            elif prefix is None and log_format == JSON and not getattr(handler, "never_waits", False):
                left_alone.append(logger.name)
    return list(dict.fromkeys(left_alone))


def _replaceable(handler: logging.Handler) -> str | None:
    """What stands before gunicorn's own format, as with syslog; None if the format is another."""
    formatter = handler.formatter
    if not getattr(handler, "_gunicorn", False):
        return None
    if isinstance(formatter, JSONFormatter):
        return formatter.prefix
    if type(formatter) is not logging.Formatter:
        return None
    text = str(formatter._fmt)  # noqa: SLF001  # there is no other way
    if isinstance(handler, SysLogHandler) and text.endswith(f": {Logger.syslog_fmt}"):
        return text.removesuffix(Logger.syslog_fmt)
    return "" if text in (Logger.error_fmt, Logger.access_fmt) else None
