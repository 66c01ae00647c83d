"""TLS on accepted connections: the handshake, on the fastest transport there is, and what is said when it fails."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, cast

from outrider.runtime import name_peer
from outrider.seldom_log import SeldomLog
from outrider.tls_closing import SHUTDOWN_TIMEOUT
from outrider.transports import read_nothing_ahead

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Coroutine

    from outrider.runtime import Address, Runtime
    from outrider.tls_certificates import TLS

    Connect = Callable[..., Coroutine[Any, Any, Any]]

BUFFER_SIZE = 65536
"""Bytes that aiofastnet reads or writes in one system call; each connection has two such buffers."""
FAILURE_LOG_PERIOD = 10.0
"""Seconds that at least pass between two reports of failed handshakes: anybody can cause them."""


class Handshakes:
    """Opens the TLS connections of a listener."""

    def __init__(self, runtime: Runtime, tls: TLS) -> None:
        self._runtime = runtime
        self._tls = tls
        self._connect_fast = find_fast_transport(runtime) if tls.fast else None
        self._calm_loop = cast("asyncio.AbstractEventLoop", _CalmLoop(runtime.loop))
        self._timeouts = {
            "ssl_handshake_timeout": runtime.config.header_timeout or None,
            "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
        }
        self._report = SeldomLog(runtime.log.info, runtime.loop.time, FAILURE_LOG_PERIOD)

    async def open(self, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        """Shake hands; `protocol` is connected when that is done.

        Raises:
            OSError: the handshake failed or took too long. `report` knows what to say about it.
        """
        loop = self._runtime.loop
        context = self._tls.context
        if self._connect_fast is not None and _is_simple(context):
            await self._connect_fast(
                self._calm_loop,
                lambda: protocol,
                sock,
                ssl=context,
                ssl_incoming_bio_size=BUFFER_SIZE,
                ssl_outgoing_bio_size=BUFFER_SIZE,
                **self._timeouts,
            )
        else:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=context, **self._timeouts)
            read_nothing_ahead(transport)

    def report(self, client: Address | None, error: OSError) -> None:
        """Log a failure, but not each of many, and a client that just left not at all."""
        log = self._runtime.log.debug if _is_departure(error) else self._report
        log("TLS handshake with %s failed: %s.", name_peer(client), _explain(error))


def find_fast_transport(runtime: Runtime) -> Connect | None:
    """Import aiofastnet; None where that can't be done."""
    try:
        from aiofastnet import connect_accepted_socket  # noqa: PLC0415  # an extra
    except ModuleNotFoundError:
        return None
    except ImportError as error:
        runtime.log.warning("aiofastnet can't be used, so TLS is the event loop's own: %s", error)
        return None
    return connect_accepted_socket  # type: ignore[no-any-return, unused-ignore]  # untyped where it is missing


class _CalmLoop:
    """The event loop for aiofastnet 1.2, which reports clients that leave during their handshake as its own faults."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Pass on what is not the class of an exception; `connect` raises the exception itself as well."""
        if context.get("exception") is not ConnectionResetError:
            self._loop.call_exception_handler(context)


def _is_simple(context: ssl.SSLContext) -> bool:
    """Whether aiofastnet can serve a context.

    Its connections are OpenSSL's alone, and Python's callbacks crash without an object of Python's. Where clients have
    certificates, it writes each of those to a temporary file.
    """
    return context.verify_mode is ssl.CERT_NONE and context.sni_callback is None and not context.keylog_filename


def _is_departure(error: OSError) -> bool:
    """Whether the client closed the connection. Port scanners and health checks do little else."""
    return isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError | ssl.SSLZeroReturnError)


def _explain(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not accepted, {error.verify_message}"
    reason: str | None = getattr(error, "reason", None)
    if not reason:
        return str(error) or "the client left"
    return _REASONS.get(reason, reason.lower().replace("_", " "))


_REASONS: dict[Any, str] = {
    "HTTP_REQUEST": "the client speaks HTTP without TLS",
    "NO_SHARED_CIPHER": "the client has no cipher in common with `ciphers` and the key",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client sent no certificate, and cert_reqs wants one",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client does not accept the server's certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not trust the authority of the server's certificate",
    "UNSUPPORTED_PROTOCOL": "the client's TLS is too old",
}
