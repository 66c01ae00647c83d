"""Errors that Outrider raises for a person to read."""

from __future__ import annotations


class ConfigurationError(RuntimeError):
    """A setting that cannot be served: one line that names the setting, its value and what is allowed.

    It is a RuntimeError because gunicorn prints those without a traceback and exits 1.
    """


class Aborted(SystemExit):
    """The end of an aborted worker. Unlike an application's own `sys.exit()` it passes through everything."""

    def raise_again(self) -> None:
        """Raise it from another place than the one where it was caught."""
        raise self
