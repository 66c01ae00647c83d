"""What ASGI's extensions add to a response: trailers, files, early hints, debug information.

`ExtendedResponse` is the part of an `HTTPStream` that handles them. An everyday response never comes here.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from contextlib import suppress
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from outrider.file_region import MOST_READ, FileRegion
from outrider.runtime import name_request

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from outrider.http1_encoding import EncodedFields, HeaderPair
    from outrider.runtime import Message, Runtime, Scope

# Fields that a recipient needs before the body, or that would change the message's framing, routing or
# authentication behind its back (RFC 9110 §6.5.1).
NOT_IN_TRAILERS = frozenset(
    b"age authorization cache-control connection content-encoding content-length content-range content-type date "
    b"expires host keep-alive location proxy-authenticate proxy-authorization proxy-connection retry-after set-cookie "
    b"te trailer transfer-encoding upgrade vary warning www-authenticate".split()
)


class ClientDisconnected(OSError):
    """`send()` after the client went away (ASGI HTTP spec 2.4)."""


def stems_from_disconnect(error: BaseException) -> bool:
    """Whether an error is `ClientDisconnected`, or was raised in its place as frameworks do.

    Of a group, each error must be.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        if isinstance(each, ClientDisconnected):
            return True
        if isinstance(each, BaseExceptionGroup) and all(map(stems_from_disconnect, each.exceptions)):
            return True
        seen.add(id(each))
        pending += each.__cause__, each.__context__
    return False


class Wire(Protocol):
    """What a stream asks of the connection that carries it.

    With `more`, something of the message is still to come: body, or trailers. `send_trailers` ends a message whose
    last piece of body had `more`; it is given no fields where the client does not take any.
    `send_informational` is called before `send_response` only; a wire may drop what it can't send. `send_file` may
    return None, and has then done nothing: the stream reads the file, and sends it with `send_body`. `stream` is the
    HTTPStream, which this module lies below.
    """

    def encode(self, headers: Iterable[HeaderPair]) -> EncodedFields: ...
    def send_informational(self, stream: Any, status: int, headers: Iterable[HeaderPair]) -> None: ...
    def send_response(self, stream: Any, status: int, fields: EncodedFields, body: bytes, more: bool) -> None: ...
    def send_body(self, stream: Any, body: bytes, more: bool) -> None: ...
    def send_file(self, stream: Any, region: FileRegion, more: bool) -> Coroutine[Any, Any, None] | None: ...
    def send_trailers(self, stream: Any, headers: Iterable[HeaderPair]) -> None: ...
    def send_continue(self, stream: Any) -> None: ...
    def response_complete(self, stream: Any) -> None: ...
    def cut(self, stream: Any) -> None: ...
    def body_consumed(self, stream: Any) -> None: ...
    def wait_writable(self, stream: Any) -> asyncio.Future[None] | None: ...


class Response(Enum):
    """How far the response is.

    FILE: part of a file is being sent, or was when that failed. TRAILING: the body is over, the trailers are owed.
    CUT: the connection was broken off under it.
    """

    PENDING = "pending"
    STARTED = "started"
    STREAMING = "streaming"
    FILE = "sending a file"
    TRAILING = "waiting for trailers"
    COMPLETE = "complete"
    CUT = "cut"


_PENDING, _STARTED, _STREAMING, _FILE, _TRAILING, _COMPLETE, _CUT = Response

ON_THE_WIRE = frozenset((_STREAMING, _FILE, _TRAILING))
"""The head of the response is sent, and its end is not."""


class ExtendedResponse:
    """The part of a stream that handles the messages of extensions."""

    __slots__ = (
        "_disconnected",
        "_fields",
        "_runtime",
        "_status",
        "_trailers",
        "_wire",
        "response",
        "scope",
        "sent",
    )

    _disconnected: bool
    _fields: EncodedFields
    _runtime: Runtime
    _status: int
    _trailers: list[HeaderPair] | None
    _wire: Wire
    response: Response
    scope: Scope
    sent: int

    @abstractmethod
    async def send(self, message: Message) -> None: ...

    @abstractmethod
    def _complete(self) -> None:
        """The response is whole."""

    async def _send_extension(self, kind: str, message: Message) -> None:
        """Handle a message that is neither `http.response.start` nor `http.response.body` in its place."""
        response = self.response
        if response is _COMPLETE:
            return  # ASGI HTTP, "Response Body": further messages are ignored
        if response is _CUT:
            raise ClientDisconnected("the connection was broken off")
        if kind == "http.response.trailers" and response is _TRAILING:
            self._send_trailers(message)
        elif kind == "http.response.pathsend" and (response is _STARTED or (response is _STREAMING and not self.sent)):
            await self._send_region(await self._open(message["path"]), response, more=False)
        elif kind == "http.response.zerocopysend" and (response is _STARTED or response is _STREAMING):
            region = _region_of(message)
            await self._send_region(region, response, more=message.get("more_body", False))
        elif kind == "http.response.early_hint" and response is not _TRAILING:
            self._send_hint(message["links"])
        elif kind == "http.response.debug" and response is _PENDING and self._runtime.config.debug_extension:
            self._runtime.log.debug("Debug information of %s: %r", name_request(self.scope), message["info"])
        else:
            raise RuntimeError(f"{kind!r} was sent while the response was {response.value}")

    # -- early hints

    def _send_hint(self, links: Iterable[bytes]) -> None:
        """Send a 103 (RFC 8297), unless the final response is on its way: a hint is no longer early then."""
        if self.response is _PENDING or self.response is _STARTED:
            headers = [(b"link", link) for link in links]
            self._wire.send_informational(self, HTTPStatus.EARLY_HINTS, headers)

    # -- trailers

    def _send_trailers(self, message: Message) -> None:
        self._trailers = trailers = [*(self._trailers or ()), *message.get("headers", ())]
        for name, _ in trailers:
            if name.lower() in NOT_IN_TRAILERS:
                raise RuntimeError(f"the field {name!r} may not be sent in trailers (RFC 9110 §6.5.1)")
        if not message.get("more_trailers", False):
            self._wire.send_trailers(self, trailers if accepts_trailers(self.scope["headers"]) else ())
            self._complete()

    # -- files

    async def _open(self, path: str) -> FileRegion:
        """Open a file in a thread.

        Raises:
            RuntimeError: it can't be sent. Not an OSError, which would look as if the client had gone.
        """
        if not Path(path).is_absolute():
            raise RuntimeError(f"http.response.pathsend needs an absolute path, not {path!r}")
        opening = self._runtime.loop.run_in_executor(None, FileRegion.open, path)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_region)
            raise
        except (OSError, ValueError) as error:
            raise RuntimeError(f"{path!r} can't be sent: {error}") from error

    async def _send_region(self, region: FileRegion, before: Response, *, more: bool) -> None:
        """Send part of a file as the next piece of body, and close it.

        Raises:
            ClientDisconnected: the client has gone.
            RuntimeError: the file can't be read, or does not fit.
        """
        with region:
            if self._disconnected:
                raise ClientDisconnected("the client has disconnected")
            if self.response is not before:
                raise RuntimeError("another message was sent while a file was opened")
            if self.scope["method"] == "HEAD":
                region.left = 0
            elif before is _STARTED:
                self._check_length(region.left, more)
            try:
                if region.left > MOST_READ:
                    await self._send_large(region, more)
                else:
                    body = await region.read(self._runtime.loop) if region.left else b""
                    await self.send({"type": "http.response.body", "body": body, "more_body": more})
            except ClientDisconnected:
                raise
            except OSError as error:
                raise RuntimeError(f"a file can't be read: {error}") from error

    async def _send_large(self, region: FileRegion, more: bool) -> None:
        """Send what is more than one read. Where that fails, nobody knows what has been sent: nothing may follow."""
        if self.response is _STARTED:
            self._wire.send_response(self, self._status, self._fields, b"", more=True)
        self.response = _FILE
        size = region.left
        unfinished = more or self._trailers is not None
        try:
            sending = self._wire.send_file(self, region, unfinished)
            await (self._copy(region, unfinished) if sending is None else sending)
        finally:
            self.sent += size - region.left
        if self._disconnected:
            raise ClientDisconnected("the client has disconnected")
        if more:
            self.response = _STREAMING
        elif self._trailers is None:
            self._complete()
        else:
            self.response = _TRAILING

    async def _copy(self, region: FileRegion, unfinished: bool) -> None:
        """Read, and send what was read."""
        while region.left:
            body = await region.read(self._runtime.loop)
            if self._disconnected:
                return
            self._wire.send_body(self, body, unfinished or region.left > 0)
            if (writable := self._wire.wait_writable(self)) is not None:
                await asyncio.shield(writable)

    def _check_length(self, size: int, more: bool) -> None:
        """See that a file fits the Content-Length while there is still time for a 500."""
        length = self._fields[1]
        if length is not None and (size > length or (size < length and not more)):
            raise RuntimeError(f"the file has {size} bytes, and the response a Content-Length of {length}")


def accepts_trailers(headers: Iterable[HeaderPair]) -> bool:
    """Whether a request says that trailers are welcome (`TE: trailers`, RFC 9110 §10.1.4)."""
    return any(
        name == b"te" and b"trailers" in [coding.strip() for coding in value.lower().split(b",")]
        for name, value in headers
    )


def _region_of(message: Message) -> FileRegion:
    try:
        return FileRegion.of(message["file"], message.get("offset"), message.get("count"))
    except (OSError, ValueError) as error:
        raise RuntimeError(f"{message['file']!r} can't be sent: {error}") from error


def _close_region(opening: asyncio.Future[FileRegion]) -> None:
    """The call that asked for a file was cancelled meanwhile."""
    with suppress(OSError, ValueError), opening.result():
        pass
