"""An ASGI application that uses the extensions of responses."""

from __future__ import annotations

from starlette.responses import FileResponse

from outrider_testing.apps.probe import DIRECTORY, Receive, Scope, Send, lifespan, query, respond, respond_json

FILE = DIRECTORY / "file"


async def send_path(scope: Scope, send: Send) -> None:
    """Send the file by its path, with its length unless the query says `chunked`."""
    headers = [] if "chunked" in query(scope) else [(b"content-length", b"%d" % FILE.stat().st_size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.pathsend", "path": str(FILE)})


async def send_part(scope: Scope, send: Send) -> None:
    """Send part of the open file between two bytes of body."""
    options = {name: int(value) for name, value in query(scope).items()}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"<", "more_body": True})
    with FILE.open("rb") as file:
        await send({"type": "http.response.zerocopysend", "file": file, "more_body": True, **options})
    await send({"type": "http.response.body", "body": b">"})


async def send_trailers(send: Send) -> None:
    """Send a hint, a body and trailers."""
    await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
    headers = [(b"trailer", b"x-sum")]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    await send({"type": "http.response.body", "body": b"hello"})
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"5")]})


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Route a scope to its handler."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["path"] == "/path":
        await send_path(scope, send)
    elif scope["path"] == "/part":
        await send_part(scope, send)
    elif scope["path"] == "/starlette":
        await FileResponse(FILE)(scope, receive, send)
    elif scope["path"] == "/trailers":
        await send_trailers(send)
    elif scope["path"] == "/extensions":
        await respond_json(send, sorted(scope["extensions"]))
    elif scope["path"] == "/debug":
        await send({"type": "http.response.debug", "info": {"template": "index.html"}})
        await respond(send, b"hello")
    else:
        await respond(send, b"hello")
