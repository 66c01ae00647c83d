"""The basics of FastAPI."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from outrider_testing.apps.probe import record
from outrider_testing.apps.websocket_echo import echo_messages


class Number(BaseModel):
    value: int


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, bool]]:
    yield {"started": True}
    record("shutdown")


app = FastAPI(lifespan=lifespan)


@app.get("/json")
async def show() -> dict[str, str]:
    return {"framework": "fastapi"}


# A plain function: FastAPI runs it in a thread.
@app.post("/json")
def add(number: Number) -> Number:
    return Number(value=number.value + 1)


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def pieces() -> AsyncIterator[str]:
        for number in range(5):
            yield f"piece {number}\n"

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/started")
async def started(request: Request) -> dict[str, bool]:
    return {"started": request.state.started}


@app.get("/fail")
async def fail() -> None:
    raise RuntimeError("this view fails on purpose")


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    await echo_messages(websocket)
