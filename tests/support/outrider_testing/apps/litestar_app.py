"""The basics of Litestar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from litestar import Litestar, get, post
from litestar.datastructures import State
from litestar.response import Stream

from outrider_testing.apps.probe import record


@dataclass
class Number:
    value: int


async def start(application: Litestar) -> None:
    application.state.started = True


async def stop(_application: Litestar) -> None:
    record("shutdown")


@get("/json")
async def show() -> dict[str, str]:
    return {"framework": "litestar"}


@post("/json", status_code=200)
async def add(data: Number) -> Number:
    return Number(data.value + 1)


@get("/stream")
async def stream() -> Stream:
    async def pieces() -> AsyncIterator[str]:
        for number in range(5):
            yield f"piece {number}\n"

    return Stream(pieces(), media_type="text/plain")


@get("/started")
async def started(state: State) -> dict[str, bool]:
    return {"started": state.started}


@get("/fail")
async def fail() -> None:
    raise RuntimeError("this view fails on purpose")


app = Litestar([show, add, stream, started, fail], on_startup=[start], on_shutdown=[stop])
