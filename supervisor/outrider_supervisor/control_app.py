"""The ASGI application behind the control socket: what there is to see, and a POST for each of `control_commands`.

Errors are JSON, `{"error": sentence}`. A command is answered with `application/x-ndjson`: one object a line, as
`operations.Operation` has them, and an empty line whenever there was none for a while: the supervisor is alive. A
client that goes away does not cancel its operation.
"""

from __future__ import annotations

from http import HTTPStatus

from outrider.runtime import Receive, Scope, Send
from outrider_supervisor import resources
from outrider_supervisor.asgi_answers import Refusal, answer_error, follow, read_body, refuse_method
from outrider_supervisor.control_commands import NAMES, PREFIX, CommandError, decode
from outrider_supervisor.event_feed import EventFeed
from outrider_supervisor.resources import Handler, Resources


class ControlApp:
    """The application; `handler` is the supervisor."""

    def __init__(self, handler: Handler, feed: EventFeed) -> None:
        self._handler = handler
        self._resources = Resources(handler, feed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            name = _route(scope["path"])
            if name in resources.NAMES:
                await self._resources.serve(name, scope, receive, send)
                return
            refuse_method(scope["path"], scope["method"], "POST")
            command = decode(name, await read_body(receive))
            await follow(send, self._handler.submit(command))
        except CommandError as error:
            await answer_error(send, HTTPStatus.BAD_REQUEST, str(error))
        except Refusal as refusal:
            await answer_error(send, refusal.status, str(refusal), refusal.headers)


def _route(path: str) -> str:
    name = path.removeprefix(PREFIX)
    if name == path or name not in NAMES | resources.NAMES:
        known = ", ".join(f"{PREFIX}{each}" for each in sorted(NAMES | resources.NAMES))
        raise Refusal(HTTPStatus.NOT_FOUND, f"there is no {path}; there are {known}")
    return name
