"""Applications that a server must refuse, or whose lifespan does not go well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from outrider_testing.apps.probe import Message, Receive, Scope, Send, respond, wait_at_gate

not_callable = 42


def wsgi(_environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """A WSGI application."""
    start_response("200 OK", [])
    return [b"hello"]


class ASGI2:
    """An ASGI 2 application: called with the scope alone, it returns the rest."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Answer."""
        await respond(send, b"hello")


def asgi2(scope: Scope) -> Callable[[Receive, Send], Awaitable[None]]:
    """An ASGI 2 application as a function."""
    return ASGI2(scope)


async def startup_fails(scope: Scope, receive: Receive, send: Send) -> None:
    """Report a failed startup, with a message."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is away"})
    else:
        await respond(send, b"served without a startup")


async def lifespan_raises(scope: Scope, _receive: Receive, send: Send) -> None:
    """Know nothing of lifespan."""
    if scope["type"] != "http":
        message = f"no idea what {scope['type']} is"
        raise NotImplementedError(message)
    await respond(send, b"hello")


async def startup_raises(scope: Scope, receive: Receive, send: Send) -> None:
    """Take the startup event, then raise."""
    if scope["type"] == "lifespan":
        message: Message = await receive()
        reason = f"crashed in {message['type']}"
        raise RuntimeError(reason)
    await respond(send, b"served without a startup")


async def startup_waits_for_gate(scope: Scope, receive: Receive, send: Send) -> None:
    """Start up when the test opens the gate named startup."""
    if scope["type"] == "lifespan":
        await receive()
        await wait_at_gate("startup")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await respond(send, b"started")


async def shutdown_hangs(scope: Scope, receive: Receive, send: Send) -> None:
    """Never finish the shutdown."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await wait_at_gate("shutdown")
    else:
        await respond(send, b"hello")
