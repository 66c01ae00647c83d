"""The clients of the load generator: each makes one kind of exchange and says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import random
import select
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import ClassVar, SupportsIndex

from outrider_testing.http_client import Address, Response, encode_request, parse_head


class Outcome(enum.StrEnum):
    """How one request ended. Everything but OK is a lost request."""

    OK = "ok"
    REFUSED = "refused"  # nobody listened
    RESET = "reset"  # the connection was reset
    EMPTY = "empty"  # closed without one byte of a response
    SHORT = "short"  # closed within the response
    SERVER_ERROR = "5xx"
    WRONG = "wrong"  # another status or another body than asked for
    NO_ANSWER = "no answer"  # no complete response in time


@dataclass(frozen=True)
class Pace:
    """Seconds that clients take over things, as (least, most), and the patience they have."""

    silence: tuple[float, float] = (0.5, 1.5)
    stream: tuple[float, float] = (1.0, 2.0)
    patience: float = 30.0


@dataclass(slots=True)
class Exchange:
    """What became of one request. Times are of the loop's clock, in seconds."""

    kind: str
    begun: float
    outcome: Outcome = Outcome.OK
    detail: str = ""
    sent: float = math.nan
    """When the whole request had been sent; NaN if it came to no such thing."""
    first_byte: float = math.nan
    ended: float = math.nan
    version: str = ""
    """X-Version of the response: which release answered."""
    pid: int = 0
    """X-Pid of the response."""
    port: int = 0
    """The client's own port; 0 on a unix socket."""

    @property
    def wait(self) -> float:
        """How long the client waited for the first byte; NaN if none came."""
        return self.first_byte - self.sent


STREAM_PIECES = 20
STREAM_PIECE_SIZE = 500
POST_BODY = bytes(range(256)) * 16


class _TimedReader(asyncio.StreamReader):
    """A stream that knows when its first byte since `rearm` arrived."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._clock = loop.time
        self.first_byte = math.nan

    def rearm(self) -> None:
        self.first_byte = math.nan

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        if math.isnan(self.first_byte):
            self.first_byte = self._clock()
        super().feed_data(data)


class Connection:
    """A connection of a client and the responses read from it."""

    def __init__(self, reader: _TimedReader, transport: asyncio.Transport) -> None:
        self._reader = reader
        self._transport = transport
        address = transport.get_extra_info("sockname")
        self.port: int = address[1] if isinstance(address, tuple) else 0

    @classmethod
    async def open(cls, address: Address, tls: ssl.SSLContext | None = None) -> Connection:
        """Connect."""
        loop = asyncio.get_running_loop()
        reader = _TimedReader(loop)

        def make_protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(reader, loop=loop)

        if isinstance(address, tuple):
            name = "localhost" if tls else None
            transport, _ = await loop.create_connection(make_protocol, *address, ssl=tls, server_hostname=name)
        else:
            transport, _ = await loop.create_unix_connection(make_protocol, address)
        return cls(reader, transport)

    @property
    def is_over(self) -> bool:
        """Whether the server has closed or reset it. What the loop has not read yet counts: it may be late."""
        if self._reader.at_eof() or self._reader.exception() is not None or self._transport.is_closing():
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    def send(self, data: bytes) -> None:
        """Send without waiting: what clients of this load send fits into the socket's buffer."""
        self._reader.rearm()
        self._transport.write(data)

    async def read_response(self) -> Response:
        """Read one response.

        Raises asyncio.IncompleteReadError when the peer closes; its `partial` is not empty if a part of a
        response had come.
        """
        head = parse_head((await self._reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n"))
        try:
            return Response(head.version, head.status, head.reason, head.fields, await self._read_body(head))
        except asyncio.IncompleteReadError as error:
            raise asyncio.IncompleteReadError(b"head " + error.partial, error.expected) from None

    async def ask(self, data: bytes, exchange: Exchange, body: bytes | None = None) -> Response:
        """Send what is left of a request, read the response, judge it, and note all that in `exchange`."""
        exchange.port = self.port
        exchange.sent = asyncio.get_running_loop().time()
        self.send(data)
        try:
            response = await self.read_response()
        finally:
            exchange.first_byte = self._reader.first_byte
        exchange.version = response.field("x-version")
        exchange.pid = int(response.field("x-pid") or 0)
        exchange.outcome = judge(response, body)
        if exchange.outcome is not Outcome.OK:
            exchange.detail = f"status {response.status}, body {response.body[:80]!r}"
        return response

    def close(self) -> None:
        """Close without waiting for the peer, as TLS would."""
        if self._transport.get_extra_info("ssl_object"):
            self._transport.abort()
        else:
            self._transport.close()

    async def _read_body(self, head: Response) -> bytes:
        if head.field("transfer-encoding").lower() != "chunked":
            return await self._reader.readexactly(int(head.field("content-length") or 0))
        parts = []
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readuntil(b"\r\n")
        return b"".join(parts)


@contextlib.asynccontextmanager
async def open_connection(address: Address, tls: ssl.SSLContext | None = None) -> AsyncIterator[Connection]:
    """Connect, and close at the end without waiting for the peer."""
    connection = await Connection.open(address, tls)
    try:
        yield connection
    finally:
        connection.close()


def judge(response: Response, body: bytes | None = None) -> Outcome:
    """Compare a response with what was asked for."""
    if response.status >= 500:
        return Outcome.SERVER_ERROR
    if response.status != 200 or (body is not None and response.body != body):
        return Outcome.WRONG
    return Outcome.OK


class Client:
    """The base of all kinds: what they share is the address, a seeded source of chance, and the pace."""

    kind: ClassVar[str]
    tls: ClassVar[ssl.SSLContext | None] = None

    def __init__(self, address: Address, chance: random.Random, pace: Pace) -> None:
        self.address = address
        self.chance = chance
        self.pace = pace

    async def make(self) -> Exchange:
        """Make one exchange, and translate the ways it can break."""
        loop = asyncio.get_running_loop()
        exchange = Exchange(self.kind, loop.time())
        try:
            async with asyncio.timeout(self.pace.patience):
                await self.perform(exchange)
        except TimeoutError:
            exchange.outcome, exchange.detail = Outcome.NO_ANSWER, f"in {self.pace.patience:g} s"
        except (ConnectionRefusedError, FileNotFoundError) as error:
            exchange.outcome, exchange.detail = Outcome.REFUSED, str(error)
        except asyncio.IncompleteReadError as error:
            exchange.outcome = Outcome.SHORT if error.partial else Outcome.EMPTY
            exchange.detail = repr(error.partial[-80:])
        except OSError as error:
            exchange.outcome, exchange.detail = Outcome.RESET, repr(error)
        exchange.ended = loop.time()
        return exchange

    async def perform(self, exchange: Exchange) -> None:
        """Make one exchange."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open between exchanges."""

    async def pause(self, span: tuple[float, float]) -> None:
        """Do what a slow client does: nothing, for a time within `span`. It is the load, not a wait."""
        await asyncio.sleep(self.chance.uniform(*span))


class KeepAliveClient(Client):
    """Uses a pool of connections in turn, each until the server says `Connection: close`.

    None idles for as long as any keep-alive time-out, so one that turns out closed once a request was sent on it is a
    loss. One that the server has closed before is left aside, as a browser or a proxy does.
    """

    kind = "keep-alive"
    connections = 20
    request = encode_request("GET", "/pid")
    answer: bytes | None = None

    def __init__(self, address: Address, chance: random.Random, pace: Pace) -> None:
        super().__init__(address, chance, pace)
        self._idle: deque[Connection] = deque()

    async def perform(self, exchange: Exchange) -> None:
        """Ask on the connection that idled longest, or on a new one until there are enough."""
        connection = self._take() or await Connection.open(self.address, self.tls)
        try:
            response = await connection.ask(self.request, exchange, self.answer)
        except BaseException:
            connection.close()
            raise
        if response.field("connection").lower() == "close" or len(self._idle) >= self.connections:
            connection.close()
        else:
            self._idle.append(connection)

    def _take(self) -> Connection | None:
        while len(self._idle) >= self.connections:
            connection = self._idle.popleft()
            if not connection.is_over:
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """Close the pool."""
        while self._idle:
            self._idle.pop().close()


class KeepAlivePostClient(KeepAliveClient):
    """Does the same with requests that a proxy must not send twice."""

    kind = "keep-alive POST"
    request = encode_request("POST", "/echo", body=POST_BODY)
    answer = POST_BODY


class NewConnectionClient(Client):
    """Makes a connection for each request."""

    kind = "new connection"

    async def perform(self, exchange: Exchange) -> None:
        """Connect, ask, read."""
        async with open_connection(self.address, self.tls) as connection:
            await connection.ask(encode_request("GET", "/pid", [("Connection", "close")]), exchange)


class SilentClient(Client):
    """Connects and says nothing for a while."""

    kind = "silent first"

    async def perform(self, exchange: Exchange) -> None:
        """Connect, wait, ask, read."""
        async with open_connection(self.address, self.tls) as connection:
            exchange.port = connection.port
            await self.pause(self.pace.silence)
            await connection.ask(encode_request("GET", "/pid", [("Connection", "close")]), exchange)


class HalfSentPostClient(Client):
    """Pauses in the middle of a request's body."""

    kind = "half-sent POST"

    async def perform(self, exchange: Exchange) -> None:
        """Send the head and half of the body, wait, send the rest, read the echo."""
        request = encode_request("POST", "/echo", [("Connection", "close")], POST_BODY)
        middle = len(request) - len(POST_BODY) // 2
        async with open_connection(self.address, self.tls) as connection:
            exchange.port = connection.port
            connection.send(request[:middle])
            await self.pause(self.pace.silence)
            await connection.ask(request[middle:], exchange, POST_BODY)


class SlowStreamClient(Client):
    """Reads a response that the application takes a while to write."""

    kind = "slow stream"

    async def perform(self, exchange: Exchange) -> None:
        """Ask for a stream and read it to its proper end."""
        interval = self.chance.uniform(*self.pace.stream) / STREAM_PIECES
        target = f"/stream?count={STREAM_PIECES}&size={STREAM_PIECE_SIZE}&interval={interval:.3f}"
        async with open_connection(self.address, self.tls) as connection:
            request = encode_request("GET", target, [("Connection", "close")])
            await connection.ask(request, exchange, b"x" * (STREAM_PIECES * STREAM_PIECE_SIZE))
