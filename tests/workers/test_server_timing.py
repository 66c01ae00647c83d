"""`server_timing`: how long the application took, in a header of its response."""

from __future__ import annotations

import re
from typing import Any

from outrider.server_timing import add_server_timing
from outrider_testing.fakes import Client, ManualLoop, make_context, make_runtime

TIMING = re.compile(r"app;dur=\d+\.\d")


def responding(start: dict[str, Any], body: bytes) -> Any:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": body})

    return app


def timings(loop: ManualLoop, application: Any) -> list[str]:
    client = Client(loop, make_context(make_runtime(loop, add_server_timing(application))))
    client.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return client.answer().all("server-timing")


def test_response_tells_its_time_behind_the_applications(loop: ManualLoop) -> None:
    headers = [(b"content-length", b"2"), (b"server-timing", b"db;dur=5")]
    own, added = timings(loop, responding({"status": 200, "headers": headers}, b"ok"))
    assert own == "db;dur=5"
    assert TIMING.fullmatch(added)


def test_response_without_headers_tells_its_time(loop: ManualLoop) -> None:
    (added,) = timings(loop, responding({"status": 204}, b""))
    assert TIMING.fullmatch(added)


def test_denied_websocket_tells_the_time(loop: ManualLoop) -> None:
    sent: list[Any] = []

    async def deny(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body"})

    async def receive() -> dict[str, Any]:
        return {}

    async def keep(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        await add_server_timing(deny)({"type": "websocket"}, receive, keep)

    loop.create_task(run())
    loop.run_ready()
    assert [name for name, _ in sent[0]["headers"]] == [b"server-timing"]
    assert "headers" not in sent[1]
