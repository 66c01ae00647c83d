"""gunicorn's access log: `log.access(resp, req, environ, request_time)`, or a shorter way to the same line.

gunicorn's own logger computes every atom there could be, escapes them all, and formats a few. Where nobody
overrode what it does, only the atoms that the format names are computed, and the log record is the same.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from gunicorn import glogging
from gunicorn.glogging import Logger
from gunicorn.instrument.statsd import Statsd

from outrider.access_json import AccessFormatter
from outrider.log_atoms import Format, Line, escape
from outrider.log_journal import JournalFormatter, with_priority
from outrider.log_relay import Relay
from outrider.request_views import RequestView, ResponseView, request_environ
from outrider.runtime import Scope

__all__ = ["AccessLog", "RequestView", "ResponseView", "request_environ"]

_CALL_HANDLERS = logging.Logger.callHandlers
_STOCK = {
    name: inspect.getattr_static(Logger, name)
    for name in ("access", "access_log_enabled", "atoms", "atoms_wrapper_class", "now", "_get_user")
}


class AccessLog:
    """Writes one line for each request. `enabled` is False where nothing would come of it."""

    __slots__ = ("_format", "_log", "_sends_metrics", "_writes_lines", "enabled")

    def __init__(self, log: Any, cfg: Any, clock: Callable[[], float] = time.time) -> None:
        """Prepare for the format.

        Args:
            log: gunicorn's logger.
            cfg: gunicorn's `Config`.
            clock: seconds since the epoch, for `%(t)s`.

        Raises:
            ConfigurationError: `access_log_format` cannot be formatted.
        """
        self._log = log
        self._format: Format | None = None
        self._sends_metrics = False
        self._writes_lines = True
        if _is_stock(log):
            self._format = Format(cfg.access_log_format, self._user_of, clock)
            self._sends_metrics = type(log).access is Statsd.access
            self._writes_lines = _is_switched_on(cfg)
        self.enabled: bool = self._writes_lines or self._sends_metrics

    def write(
        self,
        scope: Scope,
        status: int,
        headers: Sequence[Any],
        sent: int,
        microseconds: int,
        close_code: int | None = None,
    ) -> None:
        """Log a request that has been answered; never raises.

        Args:
            scope: the ASGI scope.
            status: of the response.
            headers: of the response, as the application sent them.
            sent: bytes of the response's body.
            microseconds: that the request took.
            close_code: of a WebSocket.
        """
        log = self._log
        try:
            line = Line(log, scope, status, headers, sent)
            line.microseconds = microseconds
            line.close_code = close_code
            if self._format is None:
                log.access(*line.arguments())
                return
            if self._writes_lines:
                _emit(log.access_log, self._format, line)
            if self._sends_metrics:
                log.timer("gunicorn.request.duration", line.microseconds / 1000)
                log.increment("gunicorn.requests", 1)
                log.increment(f"gunicorn.request.status.{status}", 1)
        except Exception:
            # The request has been answered: a fault in its log line must not undo that.
            log.exception("Could not write the access log")

    def _user_of(self, authorization: str) -> str:
        user = self._log._get_user({"HTTP_AUTHORIZATION": authorization})  # noqa: SLF001  # as gunicorn decodes it
        return escape(user or "-")


def _emit(logger: logging.Logger, form: Format, line: Line) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    relay = _only_relay(logger)
    if relay is not None:
        formatter = relay.handler.formatter
        if type(formatter) is AccessFormatter:
            relay.put(formatter.text_of(line))
            return
        if type(formatter) is JournalFormatter:
            relay.put(with_priority(form.text % form.atoms_of(line), logging.INFO))
            return
        if type(formatter) is logging.Formatter and formatter._fmt == Logger.access_fmt:  # noqa: SLF001  # no other way
            relay.put(form.text % form.atoms_of(line))
            return
    atoms = form.atoms_of(line)
    if type(logger) is logging.Logger:
        # What info() does, but for the search of the stack for the place it was called from.
        record = logger.makeRecord(logger.name, logging.INFO, glogging.__file__, 0, form.text, (atoms,), None, "access")
        logger.handle(record)
    else:
        logger.info(form.text, atoms)


def _only_relay(logger: logging.Logger) -> Relay | None:
    """What a record would come to and nothing else, if that is so: the record need not be made then."""
    handlers = logger.handlers
    if len(handlers) != 1 or logger.filters or logger.propagate or type(logger) is not logging.Logger:
        return None
    relay: object = handlers[0].handle
    if not isinstance(relay, Relay) or not relay.takes_lines():
        return None
    return relay if logging.Logger.callHandlers is _CALL_HANDLERS else None


def _is_stock(log: Any) -> bool:
    """Whether gunicorn's logger, or its statsd logger, does all of the access log itself."""
    own = getattr(log, "__dict__", {})
    for name, stock in _STOCK.items():
        found = inspect.getattr_static(type(log), name, None)
        if name in own or not (found is stock or (name == "access" and found is Statsd.access)):
            return False
    return True


def _is_switched_on(cfg: Any) -> bool:
    """gunicorn's rule, asked of the settings: CONFIG_KWARGS may have changed them after the logger looked."""
    syslog = cfg.syslog and not cfg.disable_redirect_access_to_syslog
    return bool(cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json or syslog)
