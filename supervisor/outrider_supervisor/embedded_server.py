"""Our own server inside the supervisor's loop: for the control socket, and for the admin endpoint."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from typing import Any

from outrider.config import ServerConfig
from outrider.forwarded import TrustedPeers
from outrider.http1_encoding import DefaultHeaders
from outrider.lifespan import Lifespan
from outrider.runtime import ASGIApp, Log, Runtime
from outrider.scoreboard import Scoreboard
from outrider.seldom_log import SeldomLog
from outrider.server import Hooks, Server, Stop

TICK = 1.0
"""Seconds; a coarse one, since each costs the idle supervisor some CPU."""
MOST_WAITING = 64
"""Connections from which on those that have sent no request give way to others, the oldest first."""
SEND_BUFFER = 32 * 1024
"""Bytes that the kernel keeps for a client: by its own measure, one that takes nothing would be noticed late."""
WARNING_PERIOD = 10.0
"""Seconds from one warning to the next: whoever can connect could fill the log with requests that are refused."""
_NOBODY = TrustedPeers(())

CONFIG = ServerConfig(
    keepalive=0,  # a connection for each request: nothing idle is left to wait for when the supervisor ends
    worker_connections=4 * MOST_WAITING,
    graceful_timeout=2.0,
    disconnect_grace=0,
    limit_request_line=4094,
    limit_request_fields=100,
    limit_request_field_size=8190,
    root_path="",
    trusted_proxies=_NOBODY,
    secure_scheme_headers={},
    forwarder_headers=frozenset(),
    header_map="drop",
    proxy_protocol="off",
    proxy_allowed=_NOBODY,
    header_timeout=5.0,
    body_timeout=5.0,
    min_body_rate=240,
    write_timeout=30.0,
    drain_linger=0.1,
    limit_concurrency=0,
    accept_gate=False,
    reset_contextvars=False,
    debug_extension=False,
    http2=None,
    websocket=None,
)


class RoomySocket(socket.socket):
    """A listening socket that makes room for who comes."""

    runtime: Runtime

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; the oldest that has sent nothing yet may have to go for it."""
        connection, address = super().accept()
        self.admit(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        surplus = self.runtime.held + 1 - MOST_WAITING
        if surplus > 0:
            # One that is being answered has no deadline.
            waiting = [each for each in self.runtime.connections if math.isfinite(each.deadline)]
            waiting.sort(key=lambda each: each.deadline)
            for each in waiting[:surplus]:
                each.expire()
        return connection, address

    def admit(self, connection: socket.socket) -> None:
        """See whether this client may come in; everybody may."""


class _EndpointLog:
    """The log, with few warnings."""

    def __init__(self, log: Log) -> None:
        self.debug = log.debug
        self.info = log.info
        self.warning = SeldomLog(log.warning, time.monotonic, WARNING_PERIOD)
        self.error = log.error
        self.exception = log.exception


class EmbeddedServer:
    """Serves an application on one listening socket, from `start` to `stop`, and again."""

    def __init__(self, app: ASGIApp, log: Log, name: str, kind: type[RoomySocket] = RoomySocket) -> None:
        """Prepare; nothing is served yet.

        Args:
            app: an ASGI application without a lifespan.
            log: of the server.
            name: for the log.
            kind: the class of the listening socket.
        """
        self._app = app
        self._log = _EndpointLog(log)
        self._name = name
        self._kind = kind
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._runtime: Runtime | None = None

    @property
    def is_changing_something(self) -> bool:
        """Whether a POST is being answered: who only looks, may be interrupted."""
        streams = self._runtime.streams if self._runtime is not None else ()
        return any(stream.scope["method"] == "POST" for stream in streams)

    def start(self, listening: socket.socket) -> None:
        """Serve on a copy of the socket, which is closed when the server stops; the queue of the socket stays."""
        loop = asyncio.get_running_loop()
        headers = DefaultHeaders(server=True, date=True, extra=())
        runtime = self._runtime = Runtime(loop, self._app, CONFIG, self._log, headers)
        own = self._kind(fileno=os.dup(listening.fileno()))
        own.runtime = runtime
        self._server = Server(
            runtime,
            [own],
            None,
            Scoreboard.anonymous(rows=1).claim(),
            Lifespan(self._app, "off", self._log, runtime.state),
            Hooks(booted=_nothing, tick=_nothing, expect_end_by=_nothing),
            TICK,
        )
        self._serving = loop.create_task(self._server.serve(""), name=self._name)
        self._serving.add_done_callback(self._note_end)

    async def stop(self) -> None:
        """Finish the responses that have begun (at most `graceful_timeout` of `CONFIG`) and accept no more."""
        serving, self._serving = self._serving, None
        if serving is not None and self._server is not None:
            self._server.stop(Stop.DRAIN)
            await asyncio.wait({serving})

    def _note_end(self, serving: asyncio.Task[None]) -> None:
        error = None if serving.cancelled() else serving.exception()
        if error is not None:
            self._log.error("The %s is not served any more; the service itself goes on", self._name, exc_info=error)


def _nothing(_until: float = 0.0) -> None:
    """There is neither a heartbeat nor a watchdog."""
