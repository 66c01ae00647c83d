"""The clients of the load generator: each makes one kind of exchange and says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

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
    STALLED = "stalled"  # no complete response in time


@dataclass(frozen=True)
class Pace:
    """Seconds that clients take over things, as (least, most), and the patience they have."""

    silence: tuple[float, float] = (0.5, 1.5)
    stream: tuple[float, float] = (1.0, 2.0)
    think: tuple[float, float] = (0.0, 0.05)
    patience: float = 30.0


Record = Callable[[Outcome, str], None]

STREAM_PIECES = 20
STREAM_PIECE_SIZE = 500
POST_BODY = bytes(range(256)) * 16


class Connection:
    """A connection of a client and the responses read from it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        """Send without waiting: what clients of this load send fits into the socket's buffer."""
        self._writer.write(data)

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

    async def _read_body(self, head: Response) -> bytes:
        if head.field("transfer-encoding").lower() != "chunked":
            return await self._reader.readexactly(int(head.field("content-length") or 0))
        parts = []
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readuntil(b"\r\n")
        return b"".join(parts)


@contextlib.asynccontextmanager
async def open_connection(address: Address) -> AsyncIterator[Connection]:
    """Connect, and close at the end without waiting for the peer."""
    if isinstance(address, tuple):
        reader, writer = await asyncio.open_connection(*address)
    else:
        reader, writer = await asyncio.open_unix_connection(address)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


async def outcome_of(exchange: Awaitable[Outcome], patience: float) -> tuple[Outcome, str]:
    """Wait for an exchange and translate the ways it can break; the text says more about a loss."""
    try:
        async with asyncio.timeout(patience):
            return await exchange, ""
    except TimeoutError:
        return Outcome.STALLED, f"no answer in {patience} s"
    except ConnectionRefusedError as error:
        return Outcome.REFUSED, str(error)
    except asyncio.IncompleteReadError as error:
        return (Outcome.SHORT if error.partial else Outcome.EMPTY), repr(error.partial[-80:])
    except OSError as error:
        return Outcome.RESET, repr(error)


def judge(response: Response, body: bytes | None = None) -> Outcome:
    """Compare a response with what was asked for."""
    if response.status >= 500:
        return Outcome.SERVER_ERROR
    if response.status != 200 or (body is not None and response.body != body):
        return Outcome.WRONG
    return Outcome.OK


class Client:
    """The base of all kinds: what they share is the address, a seeded source of chance, and the pace."""

    def __init__(self, address: Address, chance: random.Random, pace: Pace) -> None:
        self.address = address
        self.chance = chance
        self.pace = pace

    async def run(self, record: Record, stopping: Callable[[], bool]) -> None:
        """Make exchanges, one after the other, until told to stop. Each reports what became of it."""
        while not stopping():
            record(*await outcome_of(self.exchange(), self.pace.patience))

    async def exchange(self) -> Outcome:
        """Make one exchange on a connection of its own."""
        raise NotImplementedError

    async def pause(self, span: tuple[float, float]) -> None:
        """Do what a slow client does: nothing, for a time within `span`. It is the load, not a wait."""
        await asyncio.sleep(self.chance.uniform(*span))


class KeepAliveClient(Client):
    """Reuses its connection until the server says `Connection: close`.

    It thinks for less than any keep-alive time-out, so a reused connection that turns out closed is a loss.
    """

    async def run(self, record: Record, stopping: Callable[[], bool]) -> None:
        """Make requests; after a loss go on with a new connection."""
        while not stopping():
            lost = await outcome_of(self._use_connection(record, stopping), self.pace.patience * 1000)
            if lost[0] is not Outcome.OK:
                record(*lost)

    async def _use_connection(self, record: Record, stopping: Callable[[], bool]) -> Outcome:
        async with open_connection(self.address) as connection:
            while not stopping():
                connection.send(encode_request("GET", "/pid"))
                async with asyncio.timeout(self.pace.patience):
                    response = await connection.read_response()
                record(judge(response), f"status {response.status}")
                if response.field("connection").lower() == "close":
                    break
                await self.pause(self.pace.think)
        return Outcome.OK


class NewConnectionClient(Client):
    """Makes a connection for each request."""

    async def exchange(self) -> Outcome:
        """Think, connect, ask, read."""
        await self.pause(self.pace.think)
        async with open_connection(self.address) as connection:
            connection.send(encode_request("GET", "/pid", [("Connection", "close")]))
            return judge(await connection.read_response())


class SilentClient(Client):
    """Connects and says nothing for a while."""

    async def exchange(self) -> Outcome:
        """Connect, wait, ask, read."""
        async with open_connection(self.address) as connection:
            await self.pause(self.pace.silence)
            connection.send(encode_request("GET", "/pid", [("Connection", "close")]))
            return judge(await connection.read_response())


class HalfSentPostClient(Client):
    """Pauses in the middle of a request's body."""

    async def exchange(self) -> Outcome:
        """Send the head and half of the body, wait, send the rest, read the echo."""
        request = encode_request("POST", "/echo", [("Connection", "close")], POST_BODY)
        middle = len(request) - len(POST_BODY) // 2
        async with open_connection(self.address) as connection:
            connection.send(request[:middle])
            await self.pause(self.pace.silence)
            connection.send(request[middle:])
            return judge(await connection.read_response(), POST_BODY)


class SlowStreamClient(Client):
    """Reads a response that the application takes a while to write."""

    async def exchange(self) -> Outcome:
        """Ask for a stream and read it to its proper end."""
        interval = self.chance.uniform(*self.pace.stream) / STREAM_PIECES
        target = f"/stream?count={STREAM_PIECES}&size={STREAM_PIECE_SIZE}&interval={interval:.3f}"
        async with open_connection(self.address) as connection:
            connection.send(encode_request("GET", target, [("Connection", "close")]))
            return judge(await connection.read_response(), b"x" * (STREAM_PIECES * STREAM_PIECE_SIZE))
