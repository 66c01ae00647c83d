"""The basics of Quart."""

from __future__ import annotations

from collections.abc import AsyncIterator

from quart import Quart, Response, request

from outrider_testing.apps.probe import record

app = Quart(__name__)
state: dict[str, bool] = {}


@app.before_serving
async def start() -> None:
    state["started"] = True


@app.after_serving
async def stop() -> None:
    record("shutdown")


@app.get("/json")
async def show() -> dict[str, str]:
    return {"framework": "quart"}


@app.post("/json")
async def add() -> dict[str, int]:
    return {"value": (await request.get_json())["value"] + 1}


@app.get("/stream")
async def stream() -> Response:
    async def pieces() -> AsyncIterator[str]:
        for number in range(5):
            yield f"piece {number}\n"

    return Response(pieces(), mimetype="text/plain")


@app.get("/started")
async def started() -> dict[str, bool]:
    return state


@app.get("/fail")
async def fail() -> str:
    raise RuntimeError("this view fails on purpose")
