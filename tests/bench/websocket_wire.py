"""The client's side of a WebSocket (RFC 6455, RFC 7692), as far as the benchmark needs it."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache

from address import Address
from loads import Feature, Load

# The example of RFC 6455, section 1.3: a server that answers it with another value is wrong.
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

_FIN, _COMPRESSED = 0x80, 0x40
_TEXT, _BINARY, _CLOSE = 1, 2, 8
_MASK = b"\x37\xfa\x21\x3d"
_EMPTY_BLOCK = b"\x00\x00\xff\xff"
_SMALLEST_WINDOW = 9  # zlib cannot make streams for a window of 8 bits


class FrameError(ConnectionError):
    """What came is not the beginning of the one whole, unmasked message that was expected."""


def handshake(load: Load) -> bytes:
    """Return the request that opens a WebSocket; compression is offered as browsers offer it."""
    lines = [
        f"GET {load.path} HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {_KEY}",
    ]
    if Feature.DEFLATE in load.needs:
        lines.append("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def window_bits(response: bytes, load: Load) -> int:
    """Return the window that the client may compress with, or 0 without compression.

    Raises:
        ConnectionError: the response does not open the WebSocket that ``load`` needs.

    """
    status, _, rest = response.partition(b"\r\n")
    if b" 101 " not in status + b" " or _ACCEPT not in rest:
        raise ConnectionError(f"no WebSocket: {status.decode('latin-1')}")
    agreed = b"permessage-deflate" in rest
    if agreed != (Feature.DEFLATE in load.needs):
        raise ConnectionError("does not compress" if not agreed else "compresses, and nobody has offered it")
    chosen = re.search(rb"client_max_window_bits=(\d+)", rest)
    return (int(chosen[1]) if chosen else 15) if agreed else 0


@lru_cache(maxsize=4)
def message_frame(message: bytes, *, is_text: bool, bits: int) -> bytes:
    """Return ``message`` as one masked frame, compressed for a window of ``bits`` where that is not 0.

    It refers to nothing before it, so that it can be sent again and again on the same connection.
    """
    first = _FIN | (_TEXT if is_text else _BINARY)
    if bits:
        first |= _COMPRESSED
        compressor = zlib.compressobj(wbits=-max(bits, _SMALLEST_WINDOW))
        message = (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_EMPTY_BLOCK)
    size = len(message)
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 65536:
        head = bytes([first, 0x80 | 126]) + size.to_bytes(2)
    else:
        head = bytes([first, 0x80 | 127]) + size.to_bytes(8)
    mask = (_MASK * (size // 4 + 1))[:size]
    return head + _MASK + (int.from_bytes(message) ^ int.from_bytes(mask)).to_bytes(size)


def frame_size(start: bytes | bytearray) -> int:
    """Return the size, header included, of the frame that begins with ``start``, at least ten bytes or all of it.

    Raises:
        FrameError: it is no whole message, or masked.

    """
    if start[0] & 0x8F not in (_FIN | _TEXT, _FIN | _BINARY) or start[1] & 0x80:
        raise FrameError(f"a frame that begins with {bytes(start[:2]).hex()}")
    if start[1] < 126:
        return 2 + start[1]
    if start[1] == 126:
        return 4 + int.from_bytes(start[2:4])
    return 10 + int.from_bytes(start[2:10])


class WebSocket:
    """An open WebSocket that echoes one message again and again.

    Raises (when made):
        OSError: the server refuses it, or does not agree to what the load needs.

    """

    def __init__(self, address: Address, load: Load, source: str = "127.0.0.1") -> None:
        """Connect from the loopback address ``source``."""
        self.socket = address.connect(source)
        self._expected = load.expected
        try:
            self.socket.sendall(handshake(load))
            self.bits = window_bits(self._read_until(b"\r\n\r\n"), load)
        except BaseException:
            self.socket.close()
            raise
        self._inflater = zlib.decompressobj(wbits=-15) if self.bits else None
        self._frame = message_frame(load.body, is_text=load.is_text, bits=self.bits)

    def check(self) -> str:
        """Have one message echoed and return what is wrong with the answer, or the empty string.

        Raises:
            OSError: no answer.

        """
        self.socket.sendall(self._frame)
        message = self._read_message()
        if message != self._expected:
            return f"wrong answer: a message of {len(message)} bytes that is not the {len(self._expected)} expected"
        return ""

    def close(self) -> None:
        """Close the connection, without the closing handshake."""
        self.socket.close()

    def _read_message(self) -> bytes:
        received = self._receive()
        while len(received) < 2 or len(received) < frame_size(received + bytes(10)):
            received += self._receive()
        size = frame_size(received)
        if len(received) > size:
            raise FrameError(f"{len(received) - size} bytes more than the answer")
        start = 2 if received[1] < 126 else 4 if received[1] == 126 else 10
        if self._inflater is None or not received[0] & _COMPRESSED:
            return received[start:]
        return self._inflater.decompress(received[start:] + _EMPTY_BLOCK)

    def _read_until(self, end: bytes) -> bytes:
        received = b""
        while not received.endswith(end):
            received += self._receive()
        return received

    def _receive(self) -> bytes:
        received = self.socket.recv(65536)
        if not received:
            raise ConnectionError("the server closed the connection")
        return received
