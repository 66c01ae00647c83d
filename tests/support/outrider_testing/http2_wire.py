"""A small blocking HTTP/2 client that sends what it is given, and keeps what the server does."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from hpack import Decoder
from hyperframe import frame as hyper

from outrider_testing import http2_frames as h2
from outrider_testing.http_client import Address, connect

TIMEOUT = 10.0
MARK = b"\xffmarker\xff"


class UnexpectedFrame(AssertionError):
    """The server sent what no server may send."""


@dataclass
class Response:
    """What has arrived on one stream."""

    informational: list[int] = field(default_factory=list)
    fields: list[h2.Field] = field(default_factory=list)
    trailers: list[h2.Field] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    data_sizes: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def status(self) -> int:
        """The status; 0 before the head has arrived."""
        return int(dict(self.fields).get(":status", "0"))


class WireClient:
    """One client connection. Use as a context manager.

    It acknowledges SETTINGS by itself, and does nothing else that it is not told. What the server did is in `settings`
    (with the defaults of RFC 9113 §6.5.2), `responses` and `resets` by stream, `goaway` and `last_stream`, `closed`,
    `pongs`, `acknowledged` (how many SETTINGS of ours) and `window_updates` by stream.
    """

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None, timeout: float = TIMEOUT) -> None:
        self._socket = connect(address, timeout)
        if isinstance(address, tuple):
            # Small writes are what a case consists of: without this, each would wait for the server's kernel.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
            assert self._socket.selected_alpn_protocol() == "h2"
        self._timeout = timeout
        self._buffer = bytearray()
        self._decoder = Decoder()
        self._block: tuple[hyper.HeadersFrame, bytes] | None = None
        self.settings = {h2.MAX_FRAME_SIZE: h2.DEFAULT_FRAME_SIZE, h2.INITIAL_WINDOW_SIZE: h2.DEFAULT_WINDOW}
        self.settings_frames = 0
        self.acknowledged = 0
        self.responses: dict[int, Response] = {}
        self.resets: dict[int, int] = {}
        self.goaway: int | None = None
        self.last_stream: int | None = None
        self.closed = False
        self.pongs: list[bytes] = []
        self.window_updates: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def table_size(self) -> int:
        """The size of the dynamic table that the server may use; set it when it has acknowledged a smaller one."""
        return self._decoder.max_allowed_table_size

    @table_size.setter
    def table_size(self, size: int) -> None:
        self._decoder.max_allowed_table_size = size

    def send(self, octets: bytes) -> None:
        """Send all of it; a connection that the server has closed is noticed when reading."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            self._socket.sendall(octets)

    def handshake(self, client_settings: bytes = h2.settings()) -> None:
        """Send the preface; return when the settings of both sides are acknowledged."""
        self.send(h2.PREFACE + client_settings)
        self.read_until(lambda: self.settings_frames > 0 and self.acknowledged > 0, "the server's preface")
        assert not self.closed, "closed in the handshake"

    def synchronise(self) -> None:
        """Return when the server has dealt with all that was sent, or has closed."""
        seen = len(self.pongs)
        self.send(h2.ping(MARK))
        self.read_until(lambda: MARK in self.pongs[seen:], "the answer to a PING")

    def read_until(self, condition: Callable[[], bool], what: str) -> None:
        """Read until `condition` holds or the server has closed; TimeoutError tells what has come instead."""
        end = time.monotonic() + self._timeout
        while not condition() and not self.closed:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            try:
                received = self._socket.recv(1 << 16)
            except (ConnectionResetError, ssl.SSLEOFError):
                received = b""
            except TimeoutError:
                message = f"not within {self._timeout} s: {what}. Seen: {self.describe()}"
                raise TimeoutError(message) from None
            self.closed = not received
            self._buffer += received
            self._take_frames()

    def ended(self, stream: int) -> bool:
        """Tell whether the server sends no more on a stream."""
        return stream in self.resets or (stream in self.responses and self.responses[stream].ended)

    def response(self, stream: int) -> Response:
        """Wait for the whole response on a stream."""
        self.read_until(lambda: self.ended(stream), f"the end of stream {stream}")
        assert stream in self.responses, self.describe()
        assert self.responses[stream].ended, self.describe()
        return self.responses[stream]

    def describe(self) -> str:
        """What the server did, for the message of a failed test."""
        responses = {stream: (each.status, len(each.body), each.ended) for stream, each in self.responses.items()}
        return f"{responses=} resets={self.resets} goaway={self.goaway} closed={self.closed} pongs={self.pongs}"

    # Reading

    def _take_frames(self) -> None:
        while len(self._buffer) >= 9:
            frame, length = hyper.Frame.parse_frame_header(memoryview(bytes(self._buffer[:9])))
            if length > h2.DEFAULT_FRAME_SIZE:
                message = f"{frame} is larger than allowed"
                raise UnexpectedFrame(message)
            if len(self._buffer) < 9 + length:
                return
            frame.parse_body(memoryview(bytes(self._buffer[9 : 9 + length])))
            del self._buffer[: 9 + length]
            self._note(frame)

    def _note(self, frame: Any) -> None:
        if not self.settings_frames and not (isinstance(frame, hyper.SettingsFrame) and "ACK" not in frame.flags):
            message = f"{frame} is not the server's preface"
            raise UnexpectedFrame(message)
        if self._block is not None and not isinstance(frame, hyper.ContinuationFrame):
            message = f"{frame} within a field block"
            raise UnexpectedFrame(message)
        match frame:
            case hyper.SettingsFrame():
                self._note_settings(frame)
            case hyper.PingFrame():
                assert "ACK" in frame.flags, "a PING of the server's own"
                self.pongs.append(frame.opaque_data)
            case hyper.GoAwayFrame():
                self.goaway, self.last_stream = frame.error_code, frame.last_stream_id
            case hyper.WindowUpdateFrame():
                before = self.window_updates.get(frame.stream_id, 0)
                self.window_updates[frame.stream_id] = before + frame.window_increment
            case _:
                self._note_on_stream(frame)

    def _note_settings(self, frame: hyper.SettingsFrame) -> None:
        if "ACK" in frame.flags:
            self.acknowledged += 1
        else:
            self.settings |= frame.settings
            self.settings_frames += 1
            self.send(h2.frame(h2.SETTINGS, h2.ACK))

    def _note_on_stream(self, frame: Any) -> None:
        response = self.responses.setdefault(frame.stream_id, Response())
        match frame:
            case hyper.RstStreamFrame():
                self.resets[frame.stream_id] = frame.error_code
            case hyper.DataFrame():
                assert response.status, f"{frame} before a head"
                assert not response.ended, f"{frame} after the end"
                response.body += frame.data
                response.data_sizes.append(len(frame.data))
                response.ended = "END_STREAM" in frame.flags
            case hyper.HeadersFrame() | hyper.ContinuationFrame():
                self._note_block(response, frame)
            case _:
                message = f"{frame} from a server"
                raise UnexpectedFrame(message)

    def _note_block(self, response: Response, frame: Any) -> None:
        head, block = self._block or (frame, b"")
        self._block = head, block + frame.data
        if "END_HEADERS" in frame.flags:
            self._block = None
            self._note_fields(response, head, block + frame.data)

    def _note_fields(self, response: Response, head: hyper.HeadersFrame, block: bytes) -> None:
        assert not response.ended, f"{head} after the end"
        decoded = self._decoder.decode(block, raw=True)
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in decoded]
        status = int(dict(pairs).get(":status", "0"))
        if 100 <= status < 200:
            response.informational.append(status)
        elif not response.fields:
            response.fields = pairs
        else:
            response.trailers = pairs
        response.ended = "END_STREAM" in head.flags


# Opens a connection to the server under test.
Connect = Callable[[], WireClient]
