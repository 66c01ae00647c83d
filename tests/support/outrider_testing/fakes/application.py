"""Applications for tests: one that the test drives step by step, and two that answer by themselves."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from outrider.runtime import ASGIApp, Message, Receive, Scope, Send
    from outrider_testing.fakes.loop import ManualLoop


class Call:
    """One call of a `DrivenApp`; what the test tells it to do happens at once."""

    def __init__(self, loop: ManualLoop, scope: Scope, receive: Receive, send: Send) -> None:
        self._loop = loop
        self._receive = receive
        self._send = send
        self._end: asyncio.Future[None] = loop.create_future()
        self.scope = scope
        self.cancelled = False

    async def wait(self) -> None:
        """Be the application: last until the test ends the call."""
        try:
            await self._end
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    def receiving(self) -> asyncio.Task[Message]:
        """Start a `receive()`, which may have to wait."""
        return self._run(self._receive)

    def receive(self) -> Message:
        """A `receive()` that must not wait."""
        return self.receiving().result()

    def sending(self, message: Message) -> asyncio.Task[None]:
        """Start a `send()`, which may have to wait."""
        return self._run(lambda: self._send(message))

    def send(self, message: Message) -> None:
        """A `send()` that must not wait."""
        self.sending(message).result()

    def start(self, status: int = 200, headers: Any = ()) -> None:
        """Send `http.response.start`."""
        self.send({"type": "http.response.start", "status": status, "headers": headers})

    def body(self, body: bytes = b"", *, more: bool = False) -> None:
        """Send `http.response.body`."""
        self.send({"type": "http.response.body", "body": body, "more_body": more})

    def respond(self, body: bytes = b"", status: int = 200, headers: Any = ()) -> None:
        """Send a whole response with a Content-Length, and return."""
        self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        self.body(body)
        self.finish()

    def finish(self) -> None:
        """Return from the application."""
        if not self._end.done():
            self._end.set_result(None)
        self._loop.run_ready()

    def fail(self, error: BaseException) -> None:
        """Raise from the application."""
        self._end.set_exception(error)
        self._loop.run_ready()

    def _run(self, start: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        async def step() -> Any:
            return await start()

        task = self._loop.create_task(step())
        self._loop.run_ready()
        return task


class DrivenApp:
    """An application that does nothing by itself; `calls` holds its calls in order."""

    def __init__(self, loop: ManualLoop) -> None:
        self._loop = loop
        self.calls: list[Call] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(self._loop, scope, receive, send)
        self.calls.append(call)
        await call.wait()

    @property
    def call(self) -> Call:
        """The only call."""
        (call,) = self.calls
        return call


def constant(body: bytes = b"ok", status: int = 200, headers: Any = ()) -> ASGIApp:
    """Make an application that answers without looking at the request."""
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [*headers, (b"content-length", b"%d" % len(body))],
    }

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return app


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request, and answer with what it was as a JSON object."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        body += message["body"]
        more = message["more_body"]
    text = json.dumps(
        {
            "method": scope["method"],
            "version": scope["http_version"],
            "path": scope["path"],
            "raw_path": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "headers": [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in scope["headers"]],
            "body": body.decode("latin-1"),
        }
    ).encode()
    headers = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})
