"""The setting `log_format`: how the lines of gunicorn's own handlers look."""

from __future__ import annotations

import logging
from functools import partial
from logging.handlers import SysLogHandler
from typing import Any

from gunicorn.glogging import Logger

from outrider.access_json import AccessFormatter
from outrider.log_json import JSON, TEXT, JSONFormatter, choose_formatter
from outrider.supervised import Supervision


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
            if prefix is not None:
                make_json = partial(formatter_class, generation, prefix)
                formatter = choose_formatter(log_format, getattr(handler, "stream", None), make_json)
                handler.setFormatter(formatter or handler.formatter)
            elif log_format == JSON and not getattr(handler, "never_waits", False):
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
