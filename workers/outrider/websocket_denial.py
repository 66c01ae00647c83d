"""The HTTP response to a client that asked for a WebSocket and does not get one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outrider.http_stream import HTTPStream, Response

if TYPE_CHECKING:
    from outrider.http_stream import Wire
    from outrider.runtime import Message, Runtime, Scope

_PREFIX = "websocket."


class Denial(HTTPStream):
    """Sends the response and accounts for the exchange; the call of the application is the WebSocketStream's."""

    __slots__ = ()

    def __init__(self, runtime: Runtime, wire: Wire, scope: Scope, flags: int, token: Any, started_ns: int) -> None:
        super().__init__(runtime, wire, scope, flags)
        self._token = token
        self.started_ns = started_ns

    async def send_part(self, message: Message) -> None:
        """Send a message of the extension `websocket.http.response`.

        Raises:
            ClientDisconnected: the client has gone.
            RuntimeError: a message out of order, or one that may not go on the wire.
        """
        await self.send({**message, "type": message["type"].removeprefix(_PREFIX)})

    async def refuse(self) -> None:
        """Answer 403, as ASGI has it for `websocket.close` before `websocket.accept`."""
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"9")]
        await self.send({"type": "http.response.start", "status": 403, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"Forbidden"})

    def fail(self, reason: str, error: BaseException | None, status: int) -> None:
        """Log why there is no proper response, and answer with an error or cut one that has begun."""
        self._fail(reason, error, status=status)

    def abandon(self) -> None:
        """The client left, or the response will not be completed: account for it, once."""
        if self.response is not Response.COMPLETE and self.response is not Response.CUT:
            self._account_for_disconnect()

    @property
    def is_complete(self) -> bool:
        """Whether the response is."""
        return self.response is Response.COMPLETE
