"""An ASGI application, bare of any framework, for the compliance suites: it answers whatever they must provoke."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

PIECE = b"x" * 16384

# No server may send these on, in HTTP/2 (RFC 9113 §8.2.2).
CONNECTION_FIELDS = [
    (b"Connection", b"keep-alive"),
    (b"Keep-Alive", b"timeout=5"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Upgrade", b"websocket"),
    (b"Proxy-Connection", b"keep-alive"),
]


async def respond(send: Send, body: bytes, status: int = 200, fields: Any = ()) -> None:
    """Send a complete response."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*fields, length]})
    await send({"type": "http.response.body", "body": body})


async def index(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Say hello without looking at the request."""
    await respond(send, b"hello")


async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
    """Send the request's body back."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            await respond(send, body)
            return


async def tell(scope: Scope, _receive: Receive, send: Send) -> None:
    """Tell what the request was."""
    told = {
        "method": scope["method"],
        "version": scope["http_version"],
        "scheme": scope["scheme"],
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
    }
    await respond(send, json.dumps(told).encode())


async def send_connection_fields(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer with fields that belong to HTTP/1.1, and one in upper case."""
    await send({"type": "http.response.start", "status": 200, "headers": [*CONNECTION_FIELDS, (b"X-Upper", b"Case")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def bulk(scope: Scope, _receive: Receive, send: Send) -> None:
    """Send `size` bytes."""
    left = int(dict(parse_qsl(scope["query_string"].decode()))["size"])
    fields = [(b"content-length", b"%d" % left)]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    while left > 0:
        left -= len(PIECE)
        await send({"type": "http.response.body", "body": PIECE[: left + len(PIECE)], "more_body": left > 0})


class Gate:
    """Holds the requests of /stuck, who read nothing of their bodies, until one of /release."""

    opened = asyncio.Event()


async def wait(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Read nothing and say nothing until released."""
    await Gate.opened.wait()
    await respond(send, b"released")


async def release(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Let those go who wait; the next ones wait again."""
    Gate.opened.set()
    Gate.opened = asyncio.Event()
    await respond(send, b"hello")


async def missing(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer 404."""
    await respond(send, b"not found", status=404)


async def echo_websocket(receive: Receive, send: Send) -> None:
    """Accept, and send each message back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        content = {"bytes": message["bytes"]} if message.get("bytes") is not None else {"text": message["text"]}
        await send({"type": "websocket.send", **content})


async def lifespan(receive: Receive, send: Send) -> None:
    """Take part in startup and shutdown."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


ROUTES: dict[str, Handler] = {
    "/": index,
    "/bulk": bulk,
    "/connection-fields": send_connection_fields,
    "/echo": echo,
    "/release": release,
    "/scope": tell,
    "/stuck": wait,
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Route a scope to its handler."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await echo_websocket(receive, send)
    else:
        await ROUTES.get(scope["path"], missing)(scope, receive, send)
