"""What the applications of the control socket and of the admin endpoint answer with, and how they read a request."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from outrider.runtime import Receive, Send
from outrider_supervisor.control_commands import ALIVE_PERIOD, JSON, LINES, CommandError
from outrider_supervisor.operations import Operation

MOST_BODY = 65536
Headers = Iterable[tuple[bytes, bytes]]


class Refusal(Exception):
    """The request is answered with an error."""

    def __init__(self, status: HTTPStatus, sentence: str, headers: Headers = ()) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = tuple(headers)


def refuse_method(path: str, method: str, *allowed: str) -> None:
    """See whether this method may be used.

    Raises:
        Refusal: it may not.
    """
    if method not in allowed:
        sentence = f"{path} takes {allowed[0]}, not {method}"
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, sentence, [(b"allow", ", ".join(allowed).encode())])


async def read_body(receive: Receive) -> bytes:
    """The whole body.

    Raises:
        CommandError: it breaks off.
        Refusal: it is larger than `MOST_BODY`.
    """
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise CommandError("the request is incomplete")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BODY:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MOST_BODY} bytes")
    return body


async def answer(send: Send, status: HTTPStatus, body: bytes, content_type: bytes, headers: Headers = ()) -> None:
    """Send a response."""
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status.value, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def answer_error(send: Send, status: HTTPStatus, sentence: str, headers: Headers = ()) -> None:
    """Send an error as JSON."""
    await answer(send, status, line_of({"error": sentence}), JSON, headers)


async def follow(send: Send, operation: Operation, headers: Headers = ()) -> None:
    """Send the lines of an operation as they come."""
    fields = [(b"content-type", LINES), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    async for line in operation.lines(ALIVE_PERIOD):
        # Each line at once: the client shows it. The last one ends the response.
        body, more = (b"\n", True) if line is None else (line_of(line), "ok" not in line)
        await send({"type": "http.response.body", "body": body, "more_body": more})


def line_of(content: Any) -> bytes:
    """JSON on a line of its own."""
    return json.dumps(content).encode() + b"\n"
