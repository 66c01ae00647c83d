"""A transport in memory, as strict as uvloop's."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

READ_SIZE = 262144  # what uvloop reads at most in one go


# A descriptor on which nothing ever arrives; the end to write to stays open.
_SILENT, _KEPT_OPEN = os.pipe()


class FakeSocket:
    """Keeps the options that were set. Who polls it finds nothing to read, and nobody gets another one of it."""

    def __init__(self, family: socket.AddressFamily) -> None:
        self.family = family
        self.options: list[tuple[int, int, int | bytes]] = []

    def dup(self) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self.options.append((level, option, value))

    def fileno(self) -> int:
        return _SILENT


class FakeTransport(asyncio.Transport):
    """Both ends of a connection as the protocol sees them.

    The test's side: `feed` and `feed_eof` put bytes in (they wait while reading is paused), `written` is what came
    out, `congested` makes the client stop reading, `take` lets it read some.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        *,
        family: socket.AddressFamily = socket.AF_INET,
        half_close: bool = True,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._half_close = half_close
        self._incoming = bytearray()
        self._unsent = 0
        self._high = 65536
        self._write_paused = False
        self._eof = False
        self._lost = False
        self._aborted = False
        self._reading = True
        self.socket = FakeSocket(family)
        self.written = bytearray()
        self.writes = 0
        self.congested = False
        self.closing = False
        self.eof_written = False
        self.written_late = bytearray()

    # -- the test's side

    def feed(self, data: bytes) -> None:
        """The client sends."""
        self._incoming += data
        self._deliver()

    def feed_eof(self) -> None:
        """The client shuts down its sending side."""
        self._eof = True
        self._deliver()

    def take(self, size: int) -> None:
        """The client of a congested connection reads."""
        self._unsent = max(0, self._unsent - size)
        if self._write_paused and self._unsent <= self._high // 4:
            self._write_paused = False
            self._protocol.resume_writing()
        self._close_if_flushed()

    def lose(self, error: Exception | None = None) -> None:
        """The connection breaks."""
        self.closing = True
        self._connection_lost(error)

    @property
    def waiting(self) -> int:
        """Bytes from the client that the protocol does not read yet."""
        return len(self._incoming)

    def was_aborted(self) -> bool:
        """Whether the protocol gave the connection up without sending what it had written."""
        return self._aborted

    # -- the protocol's side

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.closing:
            self.written_late += data
            return
        self.writes += 1
        self.written += data
        if self.congested:
            self._unsent += len(data)
            self._pause_if_full()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self.eof_written = True

    def can_write_eof(self) -> bool:
        return self._half_close

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self._close_if_flushed()

    def abort(self) -> None:
        self._aborted = True
        self.closing = True
        self._loop.call_soon(self._connection_lost, None)

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading and not self.closing:
            self._reading = True
            self._loop.call_soon(self._deliver)

    def is_reading(self) -> bool:
        return self._reading and not self.closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65536 if high is None else high
        self._pause_if_full()

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    # -- inside

    def _pause_if_full(self) -> None:
        if self._unsent > self._high and not self._write_paused:
            self._write_paused = True
            self._protocol.pause_writing()

    def _deliver(self) -> None:
        while self._incoming and self.is_reading():
            data = bytes(self._incoming[:READ_SIZE])
            del self._incoming[:READ_SIZE]
            self._protocol.data_received(data)
        if self._eof and self.is_reading():
            self._eof = False
            self._reading = False
            if not self._protocol.eof_received():
                self.close()

    def _close_if_flushed(self) -> None:
        if self.closing and not self._aborted and not self._unsent:
            self._loop.call_soon(self._connection_lost, None)

    def _connection_lost(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(error)
