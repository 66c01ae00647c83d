"""An ASGI application that takes and gives more than a worker may hold in memory, piece by piece."""

from __future__ import annotations

import asyncio

from outrider_testing.apps.probe import Receive, Scope, Send, lifespan, query, respond, wait_at_gate

PIECE = 65536


async def upload(receive: Receive, send: Send) -> None:
    """Touch nothing until the gate `upload` opens, then read the body piece by piece; answer with its size."""
    await wait_at_gate("upload")
    size = 0
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        size += len(message["body"])
        more = message["more_body"]
        await asyncio.sleep(0)
    await respond(send, b"%d" % size)


async def download(scope: Scope, send: Send) -> None:
    """Stream `count` pieces of 64 KiB as fast as `send()` lets; each takes memory of its own."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(int(query(scope)["count"])):
        await send({"type": "http.response.body", "body": b"x" * PIECE, "more_body": True})
    await send({"type": "http.response.body"})


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Route a scope to its handler."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["path"] == "/upload":
        await upload(receive, send)
    elif scope["path"] == "/download":
        await download(scope, send)
    else:
        await respond(send, b"hello")
