"""What can be looked at, the same on the control socket and on the admin endpoint: status, history, events, metrics."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Protocol

from outrider.runtime import Receive, Scope, Send
from outrider_supervisor.asgi_answers import Headers, Refusal, answer, line_of, refuse_method
from outrider_supervisor.control_commands import JSON, STATUS, Command
from outrider_supervisor.event_feed import EventFeed
from outrider_supervisor.history import PERIOD
from outrider_supervisor.operations import Operation

HISTORY = "history"
EVENTS = "events"
METRICS = "metrics"
RESOURCES = {
    STATUS: "All that `outrider status` shows, and more, as JSON.",
    HISTORY: "The last ten minutes as JSON, a point for every two seconds.",
    EVENTS: "The supervisor's log as it goes on, and the status once a second, as `text/event-stream`.",
    METRICS: "For Prometheus: OpenMetrics to who accepts it, else the text format 0.0.4.",
}
"""What each shows, for the docs."""
NAMES = frozenset(RESOURCES)
_EVENT_ID = re.compile("[0-9]{1,18}")


class MetricsMissing(RuntimeError):
    """The library that writes metrics is not installed; the message says which."""


class Handler(Protocol):
    """What the supervisor does for its clients."""

    def status(self) -> Mapping[str, object]:
        """All there is to know, ready for JSON."""

    def history(self) -> Mapping[str, object]:
        """The last minutes, ready for JSON."""

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their media type, which the Accept header has chosen.

        Raises:
            MetricsMissing: they can't be written.
        """

    def unreadiness(self) -> str:
        """Why no requests should be sent here, in a line; empty if they may."""

    def submit(self, command: Command) -> Operation:
        """Take a command; the result may be one that is already finished, such as a refusal."""


class Resources:
    """Answers the requests for one of `NAMES`."""

    def __init__(self, handler: Handler, feed: EventFeed) -> None:
        self._handler = handler
        self._feed = feed
        self._kept: dict[str, tuple[float, bytes]] = {}

    async def serve(self, name: str, scope: Scope, receive: Receive, send: Send, headers: Headers = ()) -> None:
        """Answer.

        Raises:
            Refusal: with an error.
        """
        refuse_method(scope["path"], scope["method"], *(("GET",) if name == EVENTS else ("GET", "HEAD")))
        if name == STATUS:
            await answer(send, HTTPStatus.OK, line_of(self._handler.status()), JSON, headers)
        elif name == HISTORY:
            body = self._keep(HISTORY, PERIOD, lambda: line_of(self._handler.history()))
            await answer(send, HTTPStatus.OK, body, JSON, headers)
        elif name == METRICS:
            body, media_type = self._metrics(header(scope, b"accept"))
            await answer(send, HTTPStatus.OK, body, media_type.encode(), headers)
        else:
            last_id = header(scope, b"last-event-id")
            number = int(last_id) if _EVENT_ID.fullmatch(last_id) else 0
            await self._feed.serve(receive, send, number, headers)

    def _metrics(self, accept: str) -> tuple[bytes, str]:
        try:
            return self._handler.metrics(accept)
        except MetricsMissing as error:
            raise Refusal(HTTPStatus.NOT_IMPLEMENTED, str(error)) from error

    def _keep(self, name: str, seconds: float, make: Callable[[], bytes]) -> bytes:
        """What was made in the last seconds, or anew: however many ask for it."""
        now = asyncio.get_running_loop().time()
        if name not in self._kept or now - self._kept[name][0] >= seconds:
            self._kept[name] = (now, make())
        return self._kept[name][1]


def header(scope: Scope, name: bytes) -> str:
    """A field of the request, empty without."""
    values = [value for each, value in scope.get("headers", ()) if each == name]
    return b", ".join(values).decode("latin-1")
