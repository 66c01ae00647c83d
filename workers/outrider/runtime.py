"""What every connection of one worker shares, and the frozen facts of one connection."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import quote

from outrider.heap import keep_freed_memory
from outrider.http1_encoding import DefaultHeaders
from outrider.seldom_log import SeldomLog

if TYPE_CHECKING:
    from outrider.config import ServerConfig
    from outrider.meters import Meter

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
Address = tuple[str, int]
Endpoint = tuple[str, int | None]

# What an HTTP/1.1 exchange is, in one small number on its stream; an everyday request is just PERSISTENT.
PERSISTENT = 1
HEAD = 2
HTTP10 = 4
UPGRADE = 8
EXPECTS_CONTINUE = 16

# How many streams a log names.
MOST_DESCRIBED = 100

REFUSAL_PERIOD = 60.0
"""Seconds in which `REFUSAL_BURST` refusals are logged, and the others counted: any scanner can cause them."""
REFUSAL_BURST = 20

DRAIN_STATE_KEY = "outrider_drain"

# scope["extensions"]; each request gets a copy.
HTTP_EXTENSIONS: dict[str, dict[str, Any]] = {
    "http.response.trailers": {},
    "http.response.pathsend": {},
    "http.response.zerocopysend": {},
    "http.response.early_hint": {},
}
DEBUG_EXTENSIONS = HTTP_EXTENSIONS | {"http.response.debug": {}}


class Log(Protocol):
    """The part of gunicorn's logger that the server uses."""

    def debug(self, msg: str, *args: object) -> None: ...
    def info(self, msg: str, *args: object) -> None: ...
    def warning(self, msg: str, *args: object) -> None: ...
    def error(self, msg: str, *args: object, exc_info: BaseException | None = None) -> None: ...
    def exception(self, msg: str, *args: object) -> None: ...


class RequestObserver(Protocol):
    """Access log and gunicorn's request hooks. The server has none when all of them are off."""

    def started(self, scope: Scope) -> Any: ...
    def finished(
        self, token: Any, scope: Scope, status: int, headers: Any, sent: int, close_code: int | None = None
    ) -> None: ...


class BlockedWriter(Protocol):
    """What the server asks of a connection whose client does not read."""

    def check_write_progress(self, now: float) -> None: ...
    def abort(self) -> None: ...


class HalfClosed(Protocol):
    """What the server asks of a connection whose client sends no more."""

    def check_client(self) -> None: ...
    def abort(self) -> None: ...


class Connection(Protocol):
    """What the server asks of a connection, whatever its wire protocol."""

    deadline: float

    def expire(self) -> None: ...
    def begin_drain(self) -> None: ...
    def abort(self) -> None: ...


class Stream(Protocol):
    """What the server asks of one running application call."""

    scope: Scope
    started_ns: int
    """`time.monotonic_ns`."""

    def notify_drain(self, *, last_call: bool) -> None: ...
    def cancel(self) -> None: ...


@dataclass(slots=True)
class Counters:
    """Totals since boot. They are flushed to the scoreboard on the tick."""

    requests: int = 0
    errors_5xx: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    websockets: int = 0
    """That were opened."""


class Runtime:
    """The state that the server, its connections and its streams share within one worker.

    `now` is a coarse monotonic clock in seconds: the tick advances it, deadlines are set from it. `opening` counts
    connections that are accepted and still owe their PROXY header: they are not yet in `connections`. `shed` counts
    connections that should end with their next response, for a freer worker to get them. `websockets` counts those
    that are open, `http2_connections` those of that version. `meter` counts requests, where somebody reads that.
    `log_refusal` logs what a client did wrong.
    """

    __slots__ = (
        "app",
        "blocked_writers",
        "config",
        "connections",
        "counters",
        "default_headers",
        "drain_event",
        "draining",
        "half_closed",
        "http2_connections",
        "log",
        "log_refusal",
        "loop",
        "max_requests",
        "meter",
        "now",
        "observer",
        "on_change",
        "on_max_requests",
        "opening",
        "shed",
        "spawn",
        "spawn_eagerly",
        "state",
        "streams",
        "websockets",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        app: ASGIApp,
        config: ServerConfig,
        log: Log,
        default_headers: DefaultHeaders,
    ) -> None:
        self.loop = loop
        self.app = app
        self.config = config
        self.log = log
        self.log_refusal = SeldomLog(log.warning, time.monotonic, REFUSAL_PERIOD, REFUSAL_BURST)
        self.default_headers = default_headers
        self.counters = Counters()
        self.now = time.monotonic()
        self.draining = False
        self.drain_event = asyncio.Event()
        self.state: dict[str, Any] = {DRAIN_STATE_KEY: self.drain_event}
        self.connections: set[Connection] = set()
        self.opening = 0
        self.shed = 0
        self.websockets = 0
        self.http2_connections = 0
        self.streams: set[Stream] = set()
        self.blocked_writers: set[BlockedWriter] = set()
        self.half_closed: set[HalfClosed] = set()
        self.meter: Meter | None = None
        self.observer: RequestObserver | None = None
        self.on_change: Callable[[], None] = _nothing
        self.max_requests = sys.maxsize
        self.on_max_requests: Callable[[], None] = _nothing
        self.renew_spawn()
        keep_freed_memory()

    @property
    def held(self) -> int:
        """How many connections this worker has accepted and not closed."""
        return len(self.connections) + self.opening

    def describe_streams(self) -> list[str]:
        """The requests in flight, one line each: for the logs of a worker that hangs or ends.

        There may be thousands of idle WebSockets, so those come last and the list has an end.
        """
        now = time.monotonic_ns()
        streams = sorted(self.streams.copy(), key=lambda stream: stream.scope.get("type") == "websocket")
        lines = [
            f"{name_request(each.scope)} from {name_peer(each.scope['client'])}, {(now - each.started_ns) / 1e9:.1f} s"
            for each in streams[:MOST_DESCRIBED]
        ]
        return lines if len(streams) <= MOST_DESCRIBED else [*lines, f"and {len(streams) - MOST_DESCRIBED} more"]

    def note_refusal(self, status: int) -> None:
        """Count a request that was answered without the application."""
        if self.meter is not None:
            self.meter.count(None, status, time.monotonic_ns())

    def renew_spawn(self) -> None:
        """Choose how `spawn` makes the task of a request. The application may set a task factory as it starts.

        `spawn_eagerly` also takes its first steps where Python can do so: an application that need not wait costs
        no turn of the loop, and works on data that the processor has at hand.
        """
        loop = self.loop
        self.spawn: Spawn
        self.spawn_eagerly: Spawn
        eager: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
        if loop.get_task_factory() is not None:
            self.spawn = self.spawn_eagerly = partial(loop.create_task, name="request")
        elif self.config.reset_contextvars:
            self.spawn = lambda coro: asyncio.Task(coro, loop=loop, name="request", context=contextvars.Context())
            self.spawn_eagerly = lambda coro: asyncio.Task(
                coro, loop=loop, name="request", context=contextvars.Context(), **eager
            )
        else:
            # A fixed name spares the formatting of a counter for each request.
            self.spawn = partial(asyncio.Task, loop=loop, name="request")
            self.spawn_eagerly = partial(asyncio.Task, loop=loop, name="request", **eager)


def cancel_call(runtime: Runtime, stream: Stream, task: asyncio.Task[None] | None) -> None:
    """Cancel the application call of a stream, if it still runs."""
    if task is not None and not task.done():
        if getcoroutinestate(cast("Coroutine[Any, Any, None]", task.get_coro())) == CORO_CREATED:
            runtime.streams.discard(stream)  # it will not even begin, and so not do that itself
        task.cancel()


def name_peer(client: Address | None) -> str:
    """How a log names a client."""
    return f"{client[0]}:{client[1]}" if client else "a unix socket"


def name_request(scope: Scope) -> str:
    """How a log names a request: with its path as the client sent it, in which no decoded line break forges a line."""
    # An application may have taken out what is optional; a WebSocket has no method.
    return f"{scope.get('method', 'WebSocket')} {path_of(scope)}"


def path_of(scope: Scope) -> str:
    """The path as the client sent it; if an application has changed that, or taken it out, the one it has left."""
    path = scope.get("raw_path")
    return path.decode("latin-1") if isinstance(path, bytes) else quote(str(scope.get("path", "")))


def _nothing() -> None:
    """Stand in for a callback that nobody set."""


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """The facts of one connection that do not change while it lives.

    `notable` holds the header names that send a head of this connection through the longer examination. `tls` is what
    the application is told about TLS; None without. `flags` are those of an everyday request, and `scope_template` is
    its scope as far as it is the same for all.
    """

    runtime: Runtime
    client: Address | None
    server: Endpoint
    scheme: str
    trusted_proxy: bool
    notable: frozenset[bytes]
    tls: dict[str, Any] | None = None
    flags: int = field(init=False)
    scope_template: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Derive what would otherwise be computed for each request."""
        config = self.runtime.config
        object.__setattr__(self, "flags", PERSISTENT if config.keepalive else 0)
        template: dict[str, Any] = {
            "type": "http",
            "asgi": None,
            "http_version": "1.1",
            "method": "GET",
            "scheme": self.scheme,
            "path": "",
            "raw_path": b"",
            "query_string": b"",
            "root_path": config.root_path,
            "headers": (),
            "client": self.client,
            "server": self.server,
            "state": None,
            "extensions": DEBUG_EXTENSIONS if config.debug_extension else HTTP_EXTENSIONS,
        }
        if self.tls:
            template["extensions"] = template["extensions"] | {"tls": self.tls}
        object.__setattr__(self, "scope_template", template)
