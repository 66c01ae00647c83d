"""A TLS transport in memory that treats the end of a connection as uvloop's does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outrider_testing.fakes.transport import FakeTransport

if TYPE_CHECKING:
    import asyncio


class FakeTLSTransport(FakeTransport):
    """Tells of the client's closure alert right behind its last bytes, though reading is paused by then, and closes.

    There is no half-close, and nothing can be written behind the end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__(loop, protocol, half_close=False)

    def feed_last(self, data: bytes) -> None:
        """The client sends, and its closure alert with it."""
        self._incoming += data
        self.feed_eof()

    def _deliver(self) -> None:
        if not self.is_reading():
            return
        data = bytes(self._incoming)
        self._incoming.clear()
        if data:
            self._protocol.data_received(data)
        if self._eof:
            self._eof = False
            self._protocol.eof_received()
            self.close()
