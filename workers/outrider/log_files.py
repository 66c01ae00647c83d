"""gunicorn's log files, opened anew when logrotate has moved them."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import loggers


def reopen_log_files(log: Any) -> bool:
    """Open the files of all loggers anew; where one can't be opened, all stay as they are.

    gunicorn closes a file before it opens the next one: had that failed, each line of the log would raise.

    Args:
        log: gunicorn's logger; it is told what could not be opened.

    Returns:
        whether the files were opened.
    """
    try:
        _open_each_once()
        log.reopen_files()
    except OSError as error:
        log.warning("%s cannot be opened (%s): the logs stay where they are", error.filename, error.strerror)
        return False
    return True


def _open_each_once() -> None:
    for logger in loggers():
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                with open(handler.baseFilename, "ab"):  # noqa: PTH123  # as the handler does it
                    pass
