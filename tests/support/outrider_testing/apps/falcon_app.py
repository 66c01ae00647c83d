"""The basics of Falcon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from falcon.asgi import App, Request, Response

from outrider_testing.apps.probe import record


class Lifespan:
    started = False

    async def process_startup(self, _scope: Mapping[str, Any], _event: Mapping[str, Any]) -> None:
        self.started = True

    async def process_shutdown(self, _scope: Mapping[str, Any], _event: Mapping[str, Any]) -> None:
        record("shutdown")


class JSON:
    async def on_get(self, _request: Request, response: Response) -> None:
        response.media = {"framework": "falcon"}

    async def on_post(self, request: Request, response: Response) -> None:
        response.media = {"value": (await request.get_media())["value"] + 1}


class Stream:
    async def on_get(self, _request: Request, response: Response) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(5):
                yield b"piece %d\n" % number

        response.content_type = "text/plain"
        response.stream = pieces()


class Started:
    def __init__(self, lifespan: Lifespan) -> None:
        self.lifespan = lifespan

    async def on_get(self, _request: Request, response: Response) -> None:
        response.media = {"started": self.lifespan.started}


class Fail:
    async def on_get(self, _request: Request, _response: Response) -> None:
        raise RuntimeError("this view fails on purpose")


lifespan = Lifespan()
app = App(middleware=[lifespan])
app.add_route("/json", JSON())
app.add_route("/stream", Stream())
app.add_route("/started", Started(lifespan))
app.add_route("/fail", Fail())
