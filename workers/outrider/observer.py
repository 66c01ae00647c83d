"""What watches requests when somebody asked for it: the access log, and gunicorn's pre_request and post_request."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gunicorn.config import PostRequest, PreRequest

from outrider.access_log import AccessLog, RequestView, ResponseView, request_environ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outrider.runtime import Scope

_BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Observer:
    """Called at the start and the end of each application call; there is none when nothing is on."""

    def __init__(self, worker: Any, access_log: AccessLog) -> None:
        cfg = worker.cfg
        self._worker = worker
        self._access_log = access_log if access_log.enabled else None
        self._pre_request = cfg.pre_request if _is_set(cfg, PreRequest) else None
        self._post_request = cfg.post_request if _is_set(cfg, PostRequest) else None

    @property
    def watches(self) -> bool:
        """Whether anything is on."""
        return bool(self._access_log or self._pre_request or self._post_request)

    def started(self, scope: Scope) -> int:
        """Run pre_request; an exception in it becomes a 500, as in gunicorn. Returns the start for `finished`."""
        if self._pre_request is not None:
            self._pre_request(self._worker, RequestView(scope))
        return time.monotonic_ns()

    def finished(
        self,
        started_ns: int,
        scope: Scope,
        status: int,
        headers: Sequence[Any],
        sent: int,
        close_code: int | None = None,
    ) -> None:
        """Write the access log and run post_request; a WebSocket has a `close_code`."""
        if scope.get("method") == "HEAD" or status in _BODILESS:
            sent = 0  # whatever the application sent, the client got none of it
        if self._access_log is not None:
            microseconds = (time.monotonic_ns() - started_ns) // 1000
            self._access_log.write(scope, status, headers, sent, microseconds, close_code)
        if self._post_request is not None:
            try:
                self._post_request(
                    self._worker, RequestView(scope), request_environ(scope), ResponseView(status, headers, sent)
                )
            except Exception:  # the response is sent: as in gunicorn, a hook can only be logged now
                self._worker.log.exception("Exception in post_request hook")


def _is_set(cfg: Any, hook: Any) -> bool:
    return cfg.settings[hook.name].get() is not hook.default
