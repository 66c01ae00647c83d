"""The basics of Starlette."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from outrider_testing.apps.probe import record
from outrider_testing.apps.websocket_echo import echo_messages


@contextlib.asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, bool]]:
    yield {"started": True}
    record("shutdown")


async def show(_request: Request) -> Response:
    return JSONResponse({"framework": "starlette"})


async def add(request: Request) -> Response:
    return JSONResponse({"value": (await request.json())["value"] + 1})


async def stream(_request: Request) -> Response:
    async def pieces() -> AsyncIterator[str]:
        for number in range(5):
            yield f"piece {number}\n"

    return StreamingResponse(pieces(), media_type="text/plain")


async def started(request: Request) -> Response:
    return JSONResponse({"started": request.state.started})


async def fail(_request: Request) -> Response:
    raise RuntimeError("this view fails on purpose")


async def echo(websocket: WebSocket) -> None:
    await echo_messages(websocket)


app = Starlette(
    routes=[
        Route("/json", show),
        Route("/json", add, methods=["POST"]),
        Route("/stream", stream),
        Route("/started", started),
        Route("/fail", fail),
        WebSocketRoute("/ws", echo),
    ],
    lifespan=lifespan,
)
