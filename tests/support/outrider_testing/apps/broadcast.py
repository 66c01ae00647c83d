"""An ASGI application that sends numbered messages to all its WebSockets.

`/feed?size=N` subscribes to messages of that size: their number in eight digits, then padding. `POST /publish?count=N`
publishes that many; `/slowest` tells how many the last of the subscribers has been sent.
"""

from __future__ import annotations

import asyncio

from outrider_testing.apps.probe import Receive, Scope, Send, lifespan, query, respond


class Topic:
    """The number of the newest message, and who has been sent which."""

    def __init__(self) -> None:
        self.newest = 0
        self.sent: dict[int, int] = {}
        self._published = asyncio.Event()

    async def publish(self) -> None:
        """Let the subscribers run for the next message."""
        self.newest += 1
        self._published.set()
        self._published = asyncio.Event()
        await asyncio.sleep(0)

    async def next_one(self) -> None:
        """Wait for the next message."""
        await self._published.wait()


topic = Topic()


async def subscribe(scope: Scope, receive: Receive, send: Send) -> None:
    """Send every message that was published from now on. A subscriber that is behind holds up nobody but itself."""
    size = int(query(scope)["size"])
    await receive()
    seen = topic.sent[id(scope)] = topic.newest
    await send({"type": "websocket.accept"})
    while True:
        while seen < topic.newest:
            seen += 1
            await send({"type": "websocket.send", "bytes": b"%08d" % seen + b"." * (size - 8)})
            topic.sent[id(scope)] = seen
        await topic.next_one()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Route a scope to its handler."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await subscribe(scope, receive, send)
    elif scope["path"] == "/publish":
        for _ in range(int(query(scope)["count"])):
            await topic.publish()
        await respond(send, b"%d" % topic.newest)
    elif scope["path"] == "/slowest":
        await respond(send, b"%d" % min(topic.sent.values()))
    else:
        await respond(send, b"hello")
