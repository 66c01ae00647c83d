"""Accepting connections: one listening socket of this worker, and the gate that spreads connections over workers.

All workers of a shared listener wake for one connection, and an event loop would take everything that is queued in
one go. So a worker that holds clearly more than another one steps aside for a moment, for that one to be faster. If
nobody was, it takes what there is, twice as many after each fruitless wait: nothing waits for a worker that hangs.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from typing import TYPE_CHECKING, Any

from outrider.balance import STALE_AFTER_NS, room_to_accept
from outrider.http1 import HTTP1Connection
from outrider.http1_head import FORWARDED_FOR, NOTABLE
from outrider.negotiation import Negotiation, http2_factory
from outrider.proxy_protocol import NotProxy, ProxyHeader, ProxyMode, ProxyProtocolError, parse
from outrider.runtime import ConnectionContext, name_peer
from outrider.scoreboard import Field
from outrider.seldom_log import SeldomLog
from outrider.tls_handshake import Handshakes

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from outrider.runtime import Address, Endpoint, Runtime
    from outrider.scoreboard import Row
    from outrider.tls_certificates import TLS

STEP_ASIDE = 0.002
MOST_AT_ONCE = 16
OUT_OF_DESCRIPTORS_PAUSE = 0.5
OUT_OF_DESCRIPTORS_WARNING_PERIOD = 10.0
"""Seconds that at least pass between two warnings of one listener; it has tried again meanwhile."""
_PEEK_SIZE = 4096
_PEEK_AGAIN = 0.01
_PEEK_SELDOM = 0.25

ClientConnection = HTTP1Connection | Negotiation
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """One listening socket. It accepts between `resume` and `pause`, and for good until `close`."""

    def __init__(self, runtime: Runtime, sock: socket.socket, row: Row, tls: TLS | None) -> None:
        self._runtime = runtime
        self._sock = sock
        self._row = row
        self._tls = tls
        self._endpoint = _describe(sock, tls)
        self._notable_to_proxies = NOTABLE | {FORWARDED_FOR} | runtime.config.secure_scheme_headers.keys()
        self._handshakes = Handshakes(runtime, tls) if tls else None
        http2 = runtime.config.http2
        self._http2 = http2_factory() if http2 else None
        self._speaks_cleartext_http2 = tls is None and http2 is not None and http2.cleartext
        self._warn = SeldomLog(runtime.log.warning, runtime.loop.time, OUT_OF_DESCRIPTORS_WARNING_PERIOD)
        self._accepting = False
        self._aside: asyncio.TimerHandle | None = None
        self._batch = 1
        self._fewest = 0
        self._opening: set[asyncio.Task[None]] = set()
        sock.setblocking(False)

    def resume(self) -> None:
        """Accept connections."""
        if not self._accepting and self._sock.fileno() >= 0:
            self._accepting = True
            self._listen()

    def pause(self) -> None:
        """Leave connections in the queue, for another worker or for later."""
        if self._accepting:
            self._accepting = False
            self._runtime.loop.remove_reader(self._sock)

    def close(self) -> None:
        """Accept what is queued and close this process's copy of the socket.

        The queue of a listener that this worker alone has (reuse_port), or has last, would be reset otherwise.
        """
        self._stop_accepting()
        if self._sock.fileno() >= 0:
            room = self._runtime.config.worker_connections - self._runtime.held
            while room > 0 and self._accept():
                room -= 1
            self._sock.close()

    def abandon(self) -> None:
        """Leave the queue to others, and give up the connections that are not open yet."""
        self._stop_accepting()
        self._sock.close()
        for task in self._opening:
            task.cancel()

    def _stop_accepting(self) -> None:
        self.pause()
        if self._aside is not None:
            self._aside.cancel()

    def _listen(self) -> None:
        if self._accepting and self._aside is None:
            self._runtime.loop.add_reader(self._sock, self._on_readable)

    def _on_readable(self) -> None:
        share = self._fair_share()
        if share > 0:
            self._batch = 1
            self._take(share)
        else:
            self._step_aside(STEP_ASIDE)

    def _fair_share(self) -> int:
        """How many connections to take before another worker is clearly freer; how many that one holds is kept."""
        if not self._runtime.config.accept_gate:
            return MOST_AT_ONCE
        held = self._runtime.held
        fewest = self._row.least_loaded_peer(time.monotonic_ns(), STALE_AFTER_NS)
        if fewest is None:
            return MOST_AT_ONCE
        self._fewest = fewest
        return min(room_to_accept(held, fewest), MOST_AT_ONCE)

    def _step_aside(self, seconds: float) -> None:
        self._runtime.loop.remove_reader(self._sock)
        self._aside = self._runtime.loop.call_later(seconds, self._return)

    def _return(self) -> None:
        self._aside = None
        if not self._accepting:
            return
        fewest_before = self._fewest
        if self._fair_share() <= 0:
            if self._fewest > fewest_before:
                # The freer ones are at it.
                self._batch = 1
                self._step_aside(STEP_ASIDE)
                return
            self._batch = min(self._batch * 2, MOST_AT_ONCE)
            self._take(self._batch)
        self._listen()

    def _take(self, count: int) -> None:
        """Accept so many connections, or as many as there are in the queue and there is room for."""
        limit = self._runtime.config.worker_connections
        for _ in range(count):
            if not self._accept():
                self._batch = 1
                return
            if self._runtime.held >= limit:
                self._runtime.on_change()
                return

    def _accept(self) -> bool:
        """Take one connection from the queue; whether there was one."""
        try:
            sock, address = self._sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                self._warn(
                    "Can't accept connections: %s. Raise the limit (ulimit -n) or lower worker_connections.", error
                )
                if self._accepting:
                    self._step_aside(OUT_OF_DESCRIPTORS_PAUSE)
                return False
            return True  # the client was faster to go than we to accept
        sock.setblocking(False)
        peer: Address | None = address[:2] if isinstance(address, tuple) else None
        config = self._runtime.config
        if config.proxy_protocol != "off" and config.proxy_allowed.trusts(peer[0] if peer else None):
            self._runtime.opening += 1
            self._spawn(self._open_behind_proxy(sock, peer))
        else:
            self._spawn(self._open(sock, self._register(sock, peer, peer)))
        self._row[Field.CONNECTIONS] = self._runtime.held
        return True

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = self._runtime.loop.create_task(coro)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open_behind_proxy(self, sock: socket.socket, peer: Address | None) -> None:
        runtime = self._runtime
        try:
            async with asyncio.timeout(runtime.config.header_timeout or None):
                client = await read_proxy_header(sock, runtime.config.proxy_protocol)
        except (OSError, ProxyProtocolError) as error:
            reason = str(error) or "no PROXY header came in time"
            runtime.log_refusal("Connection from %s closed: %s", name_peer(peer), reason)
            sock.close()
            runtime.opening -= 1
            runtime.on_change()
            return
        runtime.opening -= 1
        await self._open(sock, self._register(sock, client or peer, peer))

    def _register(self, sock: socket.socket, client: Address | None, peer: Address | None) -> ClientConnection:
        """Make the connection and count it. Trust goes by the peer, which a PROXY header does not change."""
        runtime = self._runtime
        scheme, server = self._endpoint
        trusted = runtime.config.trusted_proxies.trusts(peer[0] if peer else None)
        context = ConnectionContext(
            runtime=runtime,
            client=client,
            server=server or sock.getsockname()[:2],
            scheme=scheme,
            trusted_proxy=trusted,
            notable=self._notable_to_proxies if trusted else NOTABLE,
        )
        # As in gunicorn, HTTP/2 without TLS is for trusted peers.
        negotiates = self._tls is not None or (self._speaks_cleartext_http2 and trusted)
        connection = Negotiation(context, self._tls, self._http2) if negotiates else HTTP1Connection(context)
        runtime.connections.add(connection)
        return connection

    async def _open(self, sock: socket.socket, connection: ClientConnection) -> None:
        handshakes = self._handshakes
        try:
            if handshakes is None:
                await self._runtime.loop.connect_accepted_socket(lambda: connection, sock)
            else:
                await handshakes.open(sock, connection)
        except OSError as error:  # ssl.SSLError and TimeoutError are such
            if handshakes is not None:
                handshakes.report(connection.client, error)
            _give_up(sock, connection)
        except Exception:  # whatever it is, the connection must not count for ever
            self._runtime.log.exception("Can't open the connection of %s", name_peer(connection.client))
            _give_up(sock, connection)


def _give_up(sock: socket.socket, connection: ClientConnection) -> None:
    sock.close()
    connection.connection_lost(None)


async def read_proxy_header(sock: socket.socket, mode: ProxyMode) -> Address | None:
    """Read a PROXY header off a non-blocking socket and not a byte more: TLS or HTTP begins behind it.

    Returns the client's address, or None if the header names none or there is no header.

    Raises:
        ProxyProtocolError: the header is malformed or incomplete.
        OSError: the connection broke.
    """
    loop = asyncio.get_running_loop()
    wanted = _PEEK_SIZE
    pause = _PEEK_AGAIN
    while True:
        try:
            buffer = sock.recv(wanted, socket.MSG_PEEK)
        except BlockingIOError:
            readable = loop.create_future()
            loop.add_reader(sock, _resolve, readable)
            try:
                await readable
            finally:
                loop.remove_reader(sock)
            continue
        if not buffer:
            raise ProxyProtocolError("the client closed before its PROXY header was complete")
        found = parse(buffer, mode)
        if isinstance(found, ProxyHeader):
            sock.recv(found.consumed)
            return found.source
        if isinstance(found, NotProxy):
            return None
        wanted = max(wanted, found.size)
        # Bytes that were only peeked at keep the socket readable, so readiness can't tell of more.
        await asyncio.sleep(pause)
        pause = min(2 * pause, _PEEK_SELDOM)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _describe(sock: socket.socket, tls: TLS | None) -> tuple[str, Endpoint | None]:
    """Scheme and ASGI `server` of a listener; None where each connection has its own local address."""
    scheme = "https" if tls else "http"
    name = sock.getsockname()
    if isinstance(name, tuple):
        is_wildcard = name[0] in ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound to
        return scheme, None if is_wildcard else (name[0], name[1])
    return scheme, (name if isinstance(name, str) else name.decode("utf-8", "replace"), None)
