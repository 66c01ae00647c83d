"""An application of which a test deploys one release after another, good and bad ones; see `outrider_testing.releases`.

It does what the probe does, and each response says which release answered (X-Version) and in which process (X-Pid).
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable

import psutil

from outrider_testing.apps import probe
from outrider_testing.apps.probe import Handler, Message, Receive, Scope, Send, record


def make(version: str, fault: str = "", seconds: float = 0.0) -> Handler:
    """Make the release `version`, with one of `FAULTS` if asked; it appears `seconds` after the startup."""
    requests = itertools.count()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return

        async def send_with_names(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = [(b"x-version", version.encode()), (b"x-pid", b"%d" % os.getpid())]
                message["headers"] = [*message["headers"], *names]
            await send(message)

        if fault == "half fails" and next(requests) % 2:
            await probe.respond(send_with_names, b"half of the requests fail", status=500)
            return
        await probe.app(scope, receive, send_with_names)

    async def _lifespan(receive: Receive, send: Send) -> None:
        if fault == "startup fails":
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "the database is away"})
            return
        if fault == "startup hangs":
            await asyncio.Event().wait()
        if fault in _LATER:
            asyncio.get_running_loop().call_later(seconds, _LATER[fault])
        await probe.lifespan(receive, send)

    return app


def _crash() -> None:
    _record_connections()
    os._exit(7)


def block_the_loop() -> None:
    """Never come back; the name is looked for in the dump."""
    _record_connections()
    probe.hold_loop_in_system_call(3600)


def _record_connections() -> None:
    """Record the ports of the clients that this process has accepted: these will see the fault, and nobody else."""
    own = psutil.Process().net_connections("tcp")
    record("held", *sorted(connection.raddr.port for connection in own if connection.status != psutil.CONN_LISTEN))


_LATER: dict[str, Callable[[], None]] = {"crashes": _crash, "blocks": block_the_loop}

FAULTS = frozenset({"half fails", "startup fails", "startup hangs", *_LATER})
