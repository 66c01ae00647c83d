"""The ASGI application behind the control socket: status, and one POST for each command of `control_commands`.

Errors are JSON, `{"error": sentence}`. A command is answered with `application/x-ndjson`: one object a line, as
`operations.Operation` has them, and an empty line whenever there was none for a while: the supervisor is alive. A
client that goes away does not cancel its operation.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Protocol

from outrider.runtime import Receive, Scope, Send
from outrider_supervisor.control_commands import (
    ALIVE_PERIOD,
    JSON,
    LINES,
    NAMES,
    PREFIX,
    STATUS,
    Command,
    CommandError,
    decode,
)
from outrider_supervisor.operations import Operation

MOST_BODY = 65536


class Handler(Protocol):
    """What the supervisor does for its clients."""

    def status(self) -> dict[str, Any]:
        """All there is to know, ready for JSON."""

    def submit(self, command: Command) -> Operation:
        """Take a command; the result may be one that is already finished, such as a refusal."""


class _Refusal(Exception):
    """The request is answered with an error."""

    def __init__(self, status: HTTPStatus, sentence: str, allow: str = "") -> None:
        super().__init__(sentence)
        self.status = status
        self.allow = allow


class ControlApp:
    """The application; `handler` is the supervisor."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            name = _route(scope["path"], scope["method"])
            if name == STATUS:
                await _answer(send, HTTPStatus.OK, self._handler.status())
            else:
                command = decode(name, await _read_body(receive))
                await _stream(send, self._handler.submit(command))
        except CommandError as error:
            await _answer(send, HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except _Refusal as refusal:
            await _answer(send, refusal.status, {"error": str(refusal)}, refusal.allow)


def _route(path: str, method: str) -> str:
    name = path.removeprefix(PREFIX)
    if name == path or name not in NAMES | {STATUS}:
        known = ", ".join(f"{PREFIX}{each}" for each in sorted(NAMES | {STATUS}))
        raise _Refusal(HTTPStatus.NOT_FOUND, f"there is no {path}; there are {known}")
    allowed = ("GET", "HEAD") if name == STATUS else ("POST",)
    if method not in allowed:
        raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes {allowed[0]}, not {method}", ", ".join(allowed))
    return name


async def _read_body(receive: Receive) -> bytes:
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise CommandError("the request is incomplete")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BODY:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MOST_BODY} bytes")
    return body


async def _answer(send: Send, status: HTTPStatus, content: dict[str, Any], allow: str = "") -> None:
    body = _line(content)
    headers = [(b"content-type", JSON), (b"content-length", b"%d" % len(body))]
    if allow:
        headers.append((b"allow", allow.encode()))
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send, operation: Operation) -> None:
    headers = [(b"content-type", LINES), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for line in operation.lines(ALIVE_PERIOD):
        # Each line at once: the client shows it. The last one ends the response.
        body, more = (b"\n", True) if line is None else (_line(line), "ok" not in line)
        await send({"type": "http.response.body", "body": body, "more_body": more})


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
