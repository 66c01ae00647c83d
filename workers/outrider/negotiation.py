"""Which protocol a connection speaks, where that is not known from the start.

Over TLS the handshake tells (ALPN, RFC 7301), and what the application may know about TLS with it. On cleartext with
`http2_cleartext` the first bytes do (RFC 9113 §3.3). Then the connection proper takes the place of this one.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from outrider.http1 import HTTP1Connection
from outrider.runtime import name_peer
from outrider.tls_extension import tls_extension
from outrider.transports import NOT_CONNECTED, end_now, is_readable, reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from outrider.http2 import HTTP2Connection
    from outrider.runtime import Address, ConnectionContext
    from outrider.tls_certificates import TLS

    HTTP2Factory = Callable[[ConnectionContext], HTTP2Connection]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Negotiation(asyncio.Protocol):
    """Stands in for a connection until it is known which protocol the client speaks."""

    __slots__ = ("_context", "_early", "_http2", "_tls", "_transport", "deadline")

    def __init__(self, context: ConnectionContext, tls: TLS | None, http2: HTTP2Factory | None) -> None:
        self._context = context
        self._tls = tls
        self._http2 = http2
        self._transport = NOT_CONNECTED
        self._early = b""
        self.deadline = math.inf  # a TLS handshake has a timer of its own

    @property
    def client(self) -> Address | None:
        """The client's address; None on a unix socket."""
        return self._context.client

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is open, and where there is TLS, its handshake is over."""
        self._transport = cast("asyncio.Transport", transport)
        if self._tls is None:
            timeout = self._context.runtime.config.header_timeout
            self.deadline = self._context.runtime.now + timeout if timeout else math.inf
            return
        ssl_object = transport.get_extra_info("ssl_object")
        try:
            facts = tls_extension(ssl_object, self._tls.certificate_of(ssl_object.context))
        except Exception:  # whatever it is, the connection must not count for ever
            self._context.runtime.log.exception("Can't open the connection of %s", name_peer(self.client))
            self.abort()
            return
        self._context = replace(self._context, tls=facts)
        self._hand_over(is_http2=ssl_object.selected_alpn_protocol() == "h2")

    def data_received(self, data: bytes) -> None:
        """asyncio: the first bytes on a connection without TLS."""
        self._early += data
        if self._early.startswith(PREFACE):
            self._hand_over(is_http2=True)
        elif not PREFACE.startswith(self._early):
            self._hand_over(is_http2=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone. The listener: it could not be opened."""
        runtime = self._context.runtime
        runtime.connections.discard(self)
        runtime.on_change()

    # -- what the server calls

    def expire(self) -> None:
        """The deadline has passed: nothing that could be answered has come, unless it is still to be read."""
        if not is_readable(self._transport):
            end_now(self._transport)
            self._transport.close()

    def begin_drain(self) -> None:
        """The worker drains: what is on its way is still served."""

    def abort(self) -> None:
        """Reset the connection."""
        reset(self._transport)

    # -- inside

    def _hand_over(self, *, is_http2: bool) -> None:
        connection: HTTP1Connection | HTTP2Connection
        if is_http2 and self._http2 is not None:
            connection = self._http2(self._context)
        else:
            connection = HTTP1Connection(self._context)
        connections = self._context.runtime.connections
        connections.discard(self)
        connections.add(connection)
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        if self._early:
            connection.data_received(self._early)


def http2_factory() -> HTTP2Factory:
    """Import HTTP/2 where it is served: it has requirements of its own."""
    from outrider.http2 import HTTP2Connection  # noqa: PLC0415  # an extra, which may not be installed

    return HTTP2Connection
