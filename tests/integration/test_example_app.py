"""The example application by itself, without a server in between."""

from __future__ import annotations

import asyncio
import contextlib
import html
import inspect
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

import hello

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@contextlib.asynccontextmanager
async def client(**state: object) -> AsyncIterator[httpx.AsyncClient]:
    """Start the application's lifespan, and hand its state to each request as a server does."""
    async with hello.app.router.lifespan_context(hello.app) as lifespan_state:

        async def served(scope: Message, receive: Receive, send: Send) -> None:
            await hello.app({**scope, "state": {**(lifespan_state or {}), **state}}, receive, send)

        transport = httpx.ASGITransport(served)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            yield http


def request(method: str, url: str, **options: Any) -> httpx.Response:
    async def exchange() -> httpx.Response:
        async with client() as http:
            return await http.request(method, url, **options)

    return asyncio.run(exchange())


def routes() -> list[APIRoute]:
    return [route for route in hello.app.routes if isinstance(route, APIRoute) and route.path != "/"]


def test_index_describes_every_route() -> None:
    page = request("GET", "/").text
    assert len(routes()) == 7
    for route in routes():
        assert f"{route.description}</td>" in page


def test_index_names_the_websocket() -> None:
    page = request("GET", "/").text
    assert "<code>ws://test/ws</code>" in page
    assert f"{inspect.getdoc(hello.websocket_echo)}</td>" in page


def test_index_links_answer() -> None:
    links = [html.unescape(link) for link in re.findall('href="([^"]+)"', request("GET", "/").text)]
    assert {link.partition("?")[0] for link in links} == {route.path for route in routes() if route.methods == {"GET"}}
    for link in links:
        at_once = re.sub(r"(every|seconds)=[0-9.]+", r"\1=0", link).replace("/events?", "/events?count=1&")
        assert request("GET", at_once).is_success


def test_index_shows_command_for_echo() -> None:
    assert "<code>curl -d hello http://test/echo</code>" in request("GET", "/").text


@pytest.mark.parametrize("path", ["/", "/live"])
def test_page_needs_nothing_from_network(path: str) -> None:
    page = request("GET", path).text
    assert "src=" not in page
    assert "<link" not in page
    assert "url(" not in page


def test_json_greets() -> None:
    assert request("GET", "/json").json() == {"message": "Hello, world", "pid": os.getpid()}


def test_echo_returns_body_bytes() -> None:
    body = bytes(range(256)) * 64
    response = request("POST", "/echo", content=body)
    assert response.content == body
    assert response.headers["content-type"] == "application/octet-stream"


def test_stream_numbers_its_lines() -> None:
    response = request("GET", "/stream?lines=3&every=0")
    assert response.text == "line 1 of 3\nline 2 of 3\nline 3 of 3\n"
    assert "content-length" not in response.headers


def test_events_are_numbered() -> None:
    response = request("GET", "/events?every=0&count=2")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [line for line in response.text.splitlines() if line.startswith("id:")] == ["id: 1", "id: 2"]


def test_events_tell_when_to_come_back() -> None:
    assert request("GET", "/events?every=0&count=0").text == "retry: 500\n\n"


def test_events_resume_after_last_event_id() -> None:
    response = request("GET", "/events?every=0&count=2", headers={"Last-Event-ID": "41"})
    assert [line for line in response.text.splitlines() if line.startswith("id:")] == ["id: 42", "id: 43"]


def test_events_end_when_worker_drains() -> None:
    async def exchange() -> httpx.Response:
        drain = asyncio.Event()
        drain.set()
        async with client(outrider_drain=drain) as http:
            return await http.get("/events?every=60")

    assert asyncio.run(exchange()).text.count("id:") == 1


def test_events_end_when_client_goes() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/events",
        "raw_path": b"/events",
        "query_string": b"every=0",
        "root_path": "",
        "headers": [],
        "client": None,
        "server": None,
        "state": {},
    }
    asyncio.run(hello.app(scope, receive, send))
    events = [message["body"] for message in sent if b"id:" in message.get("body", b"")]
    assert len(events) == 1


def test_websocket_sends_messages_back_with_their_worker() -> None:
    incoming: list[Message] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "1"},
        {"type": "websocket.receive", "text": "2"},
        {"type": "websocket.disconnect", "code": 1001},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/ws",
        "raw_path": b"/ws",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": None,
        "server": None,
        "subprotocols": [],
        "state": {},
    }
    asyncio.run(hello.app(scope, receive, send))
    assert sent[0]["type"] == "websocket.accept"
    worker = f"from worker {os.getpid()} over HTTP/1.1"
    assert [message["text"] for message in sent[1:]] == [f"1 {worker}", f"2 {worker}"]


def test_slow_waits_as_told() -> None:
    assert request("GET", "/slow?seconds=0").json() == {"waited": 0.0}


@pytest.mark.parametrize("url", ["/slow?seconds=61", "/slow?seconds=-1", "/stream?lines=-1", "/events?every=x"])
def test_query_out_of_range_is_refused(url: str) -> None:
    assert request("GET", url).status_code == 422


def test_pid_tells_worker_and_uptime() -> None:
    answer = request("GET", "/pid").json()
    assert answer["pid"] == os.getpid()
    assert isinstance(answer["pid"], int)
    assert answer["uptime"] >= 0
