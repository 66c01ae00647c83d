"""Why a master cannot start, in words."""

from __future__ import annotations

import traceback

from gunicorn.errors import AppImportError, ConfigError

from outrider.errors import ConfigurationError
from outrider_supervisor.application import ConfigurationFailed
from outrider_supervisor.messages import MasterFailed
from outrider_supervisor.preload import PreloadFailed


def describe_failure(error: BaseException) -> MasterFailed:
    """Say why a master cannot start: one sentence, and the traceback where a sentence cannot tell."""
    subject = ""
    if isinstance(error, PreloadFailed) and error.__cause__ is not None:
        error = error.__cause__
        subject = "the application could not be imported (preload_app): "
    if isinstance(error, ConfigurationFailed):
        return MasterFailed(error.reason, error.details)
    if isinstance(error, AppImportError | ConfigError | ConfigurationError):
        return MasterFailed(f"{subject}{error}", "")
    details = "".join(traceback.format_exception(error))
    if isinstance(error, SystemExit):
        return MasterFailed(f"{subject or 'the master '}called sys.exit({error.code!r})", details)
    last_line = traceback.format_exception_only(error)[-1].strip()
    # gunicorn puts a whole traceback into the message for a class it cannot import.
    sentence = str(error).splitlines()[0] if isinstance(error, RuntimeError) and str(error) else last_line
    return MasterFailed(subject + sentence, details)
