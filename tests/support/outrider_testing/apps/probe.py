"""An ASGI application, bare of any framework, that lets a test look into the worker that serves it.

It writes to the directory in PROBE_DIRECTORY: `events`, a line for each thing that happened, and for a gate
NAME the file `NAME.held` once a request waits at it; the test makes `NAME.open` to let that request go.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from outrider_testing.waiting import until

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

DIRECTORY = Path(os.environ["PROBE_DIRECTORY"])


def record(*words: object) -> None:
    """Append a line to the events of this server."""
    with (DIRECTORY / "events").open("a") as events:
        events.write(" ".join(map(str, words)) + "\n")


async def respond(send: Send, body: bytes, status: int = 200, media_type: bytes = b"text/plain") -> None:
    """Send a complete response."""
    fields = [(b"content-type", media_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, value: object) -> None:
    """Send a value as JSON."""
    await respond(send, json.dumps(value).encode(), media_type=b"application/json")


class ClientGoneError(Exception):
    """The client went before its request was complete."""


async def read_body(receive: Receive) -> bytes:
    """Return the request's body."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def query(scope: Scope) -> dict[str, str]:
    """Return the query string's parameters."""
    return dict(parse_qsl(scope["query_string"].decode()))


async def index(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Say hello."""
    await respond(send, b"hello")


async def pid(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Name the worker's process."""
    await respond(send, b"%d" % os.getpid())


async def identity(scope: Scope, _receive: Receive, send: Send) -> None:
    """Tell who the worker is and what it knows about the request."""
    await respond_json(
        send,
        {
            "pid": os.getpid(),
            "uid": os.getuid(),
            "gid": os.getgid(),
            "scheme": scope["scheme"],
            "client": scope["client"],
            "server": scope["server"],
            "root_path": scope["root_path"],
            "state": sorted(scope.get("state", {})),
            "loop": sorted({base.__module__.partition(".")[0] for base in type(asyncio.get_running_loop()).__mro__}),
        },
    )


async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
    """Send the request's body back; nobody is there to tell if the client goes."""
    with contextlib.suppress(ClientGoneError):
        await respond(send, await read_body(receive))


async def stream(scope: Scope, _receive: Receive, send: Send) -> None:
    """Stream `count` pieces of `size` bytes, `interval` seconds apart."""
    options = query(scope)
    piece = b"x" * int(options.get("size", "1000"))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for _ in range(int(options.get("count", "10"))):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(float(options.get("interval", "0")))
    await send({"type": "http.response.body", "body": b""})


async def wait_at_gate(name: str) -> None:
    """Return when the test has opened the gate `name`."""
    (DIRECTORY / f"{name}.held").touch()
    while not (DIRECTORY / f"{name}.open").exists():
        await asyncio.sleep(0.01)


async def gate(scope: Scope, _receive: Receive, send: Send) -> None:
    """Stay in flight until the test opens the gate."""
    name = scope["path"].rpartition("/")[2]
    try:
        await wait_at_gate(name)
    except asyncio.CancelledError:
        record("cancelled", name)
        raise
    record("released", name)
    await respond(send, name.encode())


async def slow(scope: Scope, _receive: Receive, send: Send) -> None:
    """Take `seconds` without holding the loop."""
    record("slow", os.getpid())
    await asyncio.sleep(float(query(scope)["seconds"]))
    await respond(send, b"done")


async def block(scope: Scope, _receive: Receive, send: Send) -> None:
    """Hold the loop in a system call: for `seconds`, or as long as `gate` is closed."""
    record("blocking", os.getpid())
    options = query(scope)
    if "gate" in options:
        hold_loop_at_gate(options["gate"])
    else:
        hold_loop_in_system_call(float(options["seconds"]))
    await respond(send, b"done")


def hold_loop_in_system_call(seconds: float) -> None:
    """The mistake that the watchdog must name: its function name is looked for in the log."""
    time.sleep(seconds)


def hold_loop_at_gate(name: str) -> None:
    """The same, until the test has seen what it waits for."""
    until((DIRECTORY / f"{name}.open").exists, 60.0)


async def spin(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Hold the loop for ever in Python code."""
    record("blocking", os.getpid())
    spin_for_ever()


def spin_for_ever() -> None:
    """The other mistake."""
    while True:
        pass


async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Raise before the response starts."""
    message = "the probe fails on purpose"
    raise RuntimeError(message)


async def say(scope: Scope, _receive: Receive, send: Send) -> None:
    """Print `text` to stdout."""
    print(query(scope)["text"], flush=True)
    await respond(send, b"said")


async def thread(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Start a thread that idles in a function of a known name."""
    started = threading.Event()
    threading.Thread(target=idle_in_helper_thread, args=(started,), name="probe-helper", daemon=True).start()
    started.wait()
    await respond(send, b"started")


def idle_in_helper_thread(started: threading.Event) -> None:
    """Stay in this frame."""
    started.set()
    threading.Event().wait()


async def threads(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Count the threads of the default executor by giving it more work than it has threads."""

    def work() -> int:
        threading.Event().wait(0.02)
        return threading.get_ident()

    loop = asyncio.get_running_loop()
    idents = await asyncio.gather(*(loop.run_in_executor(None, work) for _ in range(60)))
    await respond(send, b"%d" % len(set(idents)))


class Concurrency:
    """How many requests of /concurrency run, and the most that ever ran, in this worker."""

    running = 0
    most = 0


async def concurrency(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Stay for a moment and report the most requests that were ever here together."""
    Concurrency.running += 1
    Concurrency.most = max(Concurrency.most, Concurrency.running)
    await asyncio.sleep(0.02)
    Concurrency.running -= 1
    await respond(send, b"%d" % Concurrency.most)


async def missing(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer 404."""
    await respond(send, b"not found", status=404)


ROUTES: dict[str, Handler] = {
    "/": index,
    "/block": block,
    "/concurrency": concurrency,
    "/echo": echo,
    "/fail": fail,
    "/identity": identity,
    "/pid": pid,
    "/say": say,
    "/slow": slow,
    "/spin": spin,
    "/stream": stream,
    "/thread": thread,
    "/threads": threads,
}


async def lifespan(receive: Receive, send: Send) -> None:
    """Record startup and shutdown."""
    while True:
        message = await receive()
        kind = message["type"].removeprefix("lifespan.")
        record(kind, os.getpid())
        await send({"type": f"lifespan.{kind}.complete"})
        if kind == "shutdown":
            return


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Route a scope to its handler."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    handler = gate if path.startswith("/gate/") else ROUTES.get(path, missing)
    await handler(scope, receive, send)


def make(greeting: str = "made") -> Handler:
    """Make an application whose index says `greeting`."""

    async def made(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/":
            await respond(send, greeting.encode())
        else:
            await app(scope, receive, send)

    return made
