"""Raw ASGI applications the benchmark serves: the cost that remains is the server's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

GREETING = b"Hello, World!"
STREAM_CHUNK = b"x" * 65536
STREAM_CHUNKS = 16

_TEXT_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(GREETING))]
_BINARY_HEADERS = [(b"content-type", b"application/octet-stream")]


async def plaintext(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with thirteen bytes of text."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": _TEXT_HEADERS})
    await send({"type": "http.response.body", "body": GREETING})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the whole request body and send it back."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    headers = [*_BINARY_HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Stream 1 MiB as 16 chunks of 64 KiB, of a length not announced (chunked on HTTP/1.1)."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": _BINARY_HEADERS})
    for remaining in reversed(range(STREAM_CHUNKS)):
        await send({"type": "http.response.body", "body": STREAM_CHUNK, "more_body": remaining > 0})


async def websocket_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send every message back as it came, text as text."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
