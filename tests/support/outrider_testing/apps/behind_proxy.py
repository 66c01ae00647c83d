"""An application that tells what of a client arrives through a proxy; beyond that it is `release`.

`/events/NAME` and `/upload/NAME` stop in their middle until the test has made the file NAME.open, and say so by the
file NAME.held.
"""

from __future__ import annotations

import asyncio
import hashlib
import json

from outrider_testing.apps import release
from outrider_testing.apps.probe import (
    DIRECTORY,
    Handler,
    Message,
    Receive,
    Scope,
    Send,
    query,
    record,
    respond,
    respond_json,
    wait_at_gate,
)


def make(version: str) -> Handler:
    """Make the release `version`."""
    rest = release.make(version)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _websocket(scope, receive, send)
            return
        path = scope.get("path", "")
        handler = next((found for prefix, found in _ROUTES.items() if path.startswith(prefix)), rest)
        await handler(scope, receive, send)

    return app


def _fields(scope: Scope) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]


def _facts(scope: Scope) -> dict[str, object]:
    return {
        "scheme": scope["scheme"],
        "client": scope["client"][0] if scope["client"] else None,
        "http_version": scope["http_version"],
        "fields": _fields(scope),
    }


async def _seen(scope: Scope, _receive: Receive, send: Send) -> None:
    """Tell what the application knows of the request."""
    await respond_json(send, _facts(scope))


async def _redirect(scope: Scope, _receive: Receive, send: Send) -> None:
    """Redirect to an absolute URL, as frameworks make it."""
    location = f"{scope['scheme']}://{dict(_fields(scope))['host']}/seen"
    fields = [(b"location", location.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": fields})
    await send({"type": "http.response.body"})


async def _large_head(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer with a header field of `size` bytes."""
    fields = [(b"x-large", b"x" * int(query(scope)["size"])), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body"})


async def _accelerated(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Leave the file to nginx."""
    fields = [(b"x-accel-redirect", b"/protected/invoice.txt"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body"})


async def _events(scope: Scope, receive: Receive, send: Send) -> None:
    """Send an event, and another one when the test has seen the first; record if the client goes before."""
    name = scope["path"].rpartition("/")[2]
    media_type = query(scope).get("type", "text/event-stream").encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]})
    await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})
    gone = asyncio.create_task(_until_gone(receive))
    gate = asyncio.create_task(wait_at_gate(name))
    await asyncio.wait({gone, gate}, return_when=asyncio.FIRST_COMPLETED)
    gate.cancel()
    if gone.done():
        record("gone", name)
        return
    gone.cancel()
    await send({"type": "http.response.body", "body": b"data: second\n\n"})


async def _ticks(scope: Scope, receive: Receive, send: Send) -> None:
    """Send events for ever; record when the client has gone."""
    name = scope["path"].rpartition("/")[2]
    gone = asyncio.create_task(_until_gone(receive))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    while not gone.done():
        await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
        await asyncio.sleep(0.05)
    record("gone", name)


async def _waiting(scope: Scope, receive: Receive, _send: Send) -> None:
    """Answer nothing; record when the client has gone."""
    name = scope["path"].rpartition("/")[2]
    (DIRECTORY / f"{name}.held").touch()
    await _until_gone(receive)
    record("gone", name)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Take an upload; say as soon as its first bytes are there."""
    name = scope["path"].rpartition("/")[2]
    digest, size, more = hashlib.sha256(), 0, True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            record("gone", name)
            return
        (DIRECTORY / f"{name}.held").touch()
        body = message.get("body", b"")
        digest.update(body)
        size += len(body)
        more = message.get("more_body", False)
    await respond_json(send, {"size": size, "digest": digest.hexdigest()})


async def _bad_gateway(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer 503 on purpose: a proxy must pass it on, and not ask again."""
    record("refused")
    await respond(send, b"closed for today", status=503)


async def _websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell what the application knows of the handshake, then send every message back."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps(_facts(scope))})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})


_ROUTES: dict[str, Handler] = {
    "/seen": _seen,
    "/redirect": _redirect,
    "/large-head": _large_head,
    "/accelerated": _accelerated,
    "/events/": _events,
    "/ticks/": _ticks,
    "/waiting/": _waiting,
    "/upload/": _upload,
    "/refused": _bad_gateway,
}
