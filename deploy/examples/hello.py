"""A small FastAPI application with one route for each thing a server must do well.

In the repository ``make run`` starts it. Elsewhere, with Outrider and FastAPI installed::

    gunicorn hello:app -k outrider.UvicornWorker -w 4
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, WebSocket
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from fastapi.routing import APIRoute, APIWebSocketRoute

Seconds = Annotated[float, Query(ge=0, le=60)]
Count = Annotated[int, Query(ge=0, le=1_000_000)]

RETRY = 500  # milliseconds after which a browser reconnects; its own default is some seconds


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Run once in each worker; what it yields becomes ``request.state`` of every request."""
    yield {"started_at": time.monotonic()}


# FastAPI's documentation pages load their scripts from the network; the index page needs nothing.
app = FastAPI(title="Outrider", lifespan=lifespan, docs_url=None, redoc_url=None)


@app.get("/", include_in_schema=False)
async def index(request: Request) -> HTMLResponse:
    """Show what there is to try."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema]
    origin = str(request.base_url).rstrip("/")
    rows = [_row(route, origin) for route in routes]
    rows += [_websocket_row(route, origin) for route in app.routes if isinstance(route, APIWebSocketRoute)]
    return HTMLResponse(PAGE.substitute(pid=os.getpid(), rows="\n".join(rows)))


@app.get("/json")
async def json() -> dict[str, Any]:
    """A small JSON document."""
    return {"message": "Hello, world", "pid": os.getpid()}


@app.post("/echo")
async def echo(request: Request) -> Response:
    """The bytes of the request body, sent back."""
    return Response(await request.body(), media_type="application/octet-stream")


@app.get("/stream")
async def stream(lines: Count = 20, every: Seconds = 0.1) -> StreamingResponse:
    """Numbered lines, one chunk each."""

    async def chunks() -> AsyncIterator[str]:
        for number in range(1, lines + 1):
            yield f"line {number} of {lines}\n"
            await asyncio.sleep(every)

    return StreamingResponse(chunks(), media_type="text/plain")


@app.get("/events")
async def events(
    request: Request,
    every: Seconds = 1.0,
    count: Count = 1_000_000,
    last_event_id: Annotated[int, Header(ge=0)] = 0,
) -> StreamingResponse:
    """Server-sent events; a client that reconnects goes on after its Last-Event-ID."""
    # Outrider sets this event when the worker starts to drain; other servers have none.
    drain = getattr(request.state, "outrider_drain", None) or asyncio.Event()

    async def messages() -> AsyncIterator[str]:
        yield f"retry: {RETRY}\n\n"
        for number in range(last_event_id + 1, last_event_id + count + 1):
            yield f"id: {number}\ndata: event {number} from worker {os.getpid()}\n\n"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(drain.wait(), every)
            # Between two events is the place to stop: the client reconnects by itself, to another worker.
            if drain.is_set() or await request.is_disconnected():
                return

    return StreamingResponse(messages(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@app.websocket("/ws")
async def websocket_echo(websocket: WebSocket) -> None:
    """Each message, sent back with the worker that had it. A client that is closed with 1012 should come back."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(f"{text} from worker {os.getpid()} over HTTP/{websocket.scope['http_version']}")


@app.get("/live")
async def live() -> FileResponse:
    """A page with events, a WebSocket and a stream, which goes on through a reload."""
    return FileResponse(Path(__file__).with_name("live.html"))


@app.get("/slow")
async def slow(seconds: Seconds = 2.0) -> dict[str, float]:
    """An answer that takes its time, but does not block the worker."""
    await asyncio.sleep(seconds)
    return {"waited": seconds}


@app.get("/pid")
async def pid(request: Request) -> dict[str, int | float]:
    """The worker that answered, and the seconds it has been up."""
    return {"pid": os.getpid(), "uptime": round(time.monotonic() - request.state.started_at, 3)}


# What the index page adds to a route's path, so that its link shows the parameters.
QUERIES = {"/stream": "?lines=20&every=0.1", "/events": "?every=1", "/slow": "?seconds=2"}


def _row(route: APIRoute, origin: str) -> str:
    """One row of the index page; what cannot be a link is a command to paste."""
    methods = sorted(route.methods or ())
    url = escape(route.path + QUERIES.get(route.path, ""))
    what = f'<a href="{url}">{url}</a>' if "GET" in methods else f"<code>curl -d hello {escape(origin)}{url}</code>"
    return f"<tr><th>{' '.join(methods)}</th><td>{what}<br>{escape(route.description)}</td></tr>"


def _websocket_row(route: APIWebSocketRoute, origin: str) -> str:
    """The same for a WebSocket."""
    url = escape(f"ws{origin.removeprefix('http')}{route.path}")
    return f"<tr><th>WS</th><td><code>{url}</code><br>{escape(inspect.getdoc(route.endpoint) or '')}</td></tr>"


PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Outrider</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --accent: light-dark(#0a6b5e, #4fd1bd); }
  body { max-width: 48rem; margin: 4rem auto; padding: 0 1.5rem; line-height: 1.6;
         font-family: system-ui, sans-serif; }
  h1 { margin: 0; font-size: 2.25rem; letter-spacing: -.02em; }
  p { margin: .25rem 0 2rem; opacity: .75; }
  table { width: 100%; border-collapse: collapse; }
  th, td { padding: .75rem 1rem .75rem 0; border-top: 1px solid var(--line); vertical-align: top; }
  th { width: 3.5rem; font-size: .8rem; font-weight: normal; line-height: 2; text-align: left; opacity: .6; }
  td { overflow-wrap: anywhere; }
  a { color: var(--accent); font-weight: 600; text-decoration: none; }
  a:hover { text-decoration: underline; }
  code { font-weight: 600; }
</style>
<h1>It works</h1>
<p>Served by Outrider, worker $pid. Open a few of these:</p>
<table>
$rows
</table>
</html>
""")
