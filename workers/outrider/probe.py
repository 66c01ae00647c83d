"""One request to the application without a connection: what `probe_path` asks before a worker counts as ready."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from outrider.runtime import Message, Runtime, Scope

PROBE_AGENT = b"outrider-probe"
PROBE_TIMEOUT = 30.0
"""Seconds in which the application's call must have ended."""
CANCEL_PATIENCE = 0.5
"""Seconds that it is given to end when it is cancelled."""


class ProbeError(RuntimeError):
    """The probe got no 2xx answer."""


async def probe(runtime: Runtime, path: str) -> None:
    """Send `GET path` to the application in process.

    Raises:
        ProbeError: any answer but a 2xx, or none, or the call has not ended after `PROBE_TIMEOUT`.
    """
    status = 0
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
    answered = asyncio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif not message.get("more_body", False):
            answered.set()

    async def ask() -> None:
        await runtime.app(_make_scope(runtime, path), receive, send)

    # A task of its own: an application that ignores its cancellation is left behind.
    call = runtime.loop.create_task(ask(), name="probe")
    call.add_done_callback(_note_end)
    if not await _has_ended_in_time(call):
        raise ProbeError(f"probe_path {path}: the application has not ended its answer after {PROBE_TIMEOUT:.0f} s")
    try:
        call.result()
    except Exception as error:
        runtime.log.exception("Exception in ASGI application")
        raise ProbeError(f"probe_path {path}: the application raised {error!r}") from error
    if not 200 <= status < 300:  # RFC 9110 §15.3: Successful
        answer = f"answered {status}" if status else "gave no answer"
        raise ProbeError(f"probe_path {path}: the application {answer}, a 2xx is needed")


def _make_scope(runtime: Runtime, path: str) -> Scope:
    raw_path, _, query = path.encode().partition(b"?")
    root_path = runtime.config.root_path
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": root_path + unquote(raw_path.decode()),
        "raw_path": root_path.encode() + raw_path,
        "query_string": query,
        "root_path": root_path,
        "headers": [(b"host", b"localhost"), (b"user-agent", PROBE_AGENT)],
        "client": None,
        "server": None,
        "state": runtime.state.copy(),
    }


async def _has_ended_in_time(call: asyncio.Task[None]) -> bool:
    try:
        done, _ = await asyncio.wait({call}, timeout=PROBE_TIMEOUT)
        return bool(done)
    finally:
        call.cancel()
        await asyncio.wait({call}, timeout=CANCEL_PATIENCE)


def _note_end(call: asyncio.Task[None]) -> None:
    if not call.cancelled():
        call.exception()  # seen: what comes after a cancellation is nobody's concern
