"""The setting `server_timing`: tells the client how long the application took (W3C Server Timing)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outrider.runtime import ASGIApp, Message, Receive, Scope, Send

_STARTS = frozenset(("http.response.start", "websocket.http.response.start"))


def add_server_timing(app: ASGIApp) -> ASGIApp:
    """Wrap an application: each response gets a header `server-timing: app;dur=12.3`, in milliseconds.

    It counts to the start of the response, which the header is part of. One that the application sends stays.
    """

    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()

        async def send_with_timing(message: Message) -> None:
            if message["type"] in _STARTS:
                milliseconds = (time.perf_counter() - started) * 1000
                timing = (b"server-timing", b"app;dur=%.1f" % milliseconds)
                message = {**message, "headers": [*message.get("headers", ()), timing]}
            await send(message)

        await app(scope, receive, send_with_timing)

    return timed
