"""permessage-deflate (RFC 7692): negotiation, and the two halves of the compression.

An idle connection holds no memory for it. Clients are told to compress each message on its own
(`client_no_context_takeover`), so there is no window of theirs to keep. The server's own window is dropped while a
connection is quiet: a compressor that starts anew refers to nothing that the client would have to remember.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

from outrider.websocket_frames import INVALID_DATA, WebSocketError

LEAST_COMPRESSED = 128
"""Bytes: what is shorter gains less than the work costs, and is sent as it is."""

_NAME = b"permessage-deflate"
_TAIL = b"\x00\x00\xff\xff"  # RFC 7692 §7.2.1: the end of a sync flush, which is not sent
# A window of 4 KiB and 16 KiB of hash tables: a tenth of zlib's default, for a few percent of size.
_WINDOW_BITS = 12
_MEMORY_LEVEL = 5
# A third of the default level's time, for three to ten percent of size: other clients wait meanwhile.
_LEVEL = 1
_LEAST_WINDOW_BITS = 9  # zlib has no raw deflate with less
_MOST_WINDOW_BITS = 15
_PARAMETER = re.compile(rb'\s*([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)\s*(?:=\s*(?:"(\d+)"|(\d+))\s*)?')
_FLAGS = (b"server_no_context_takeover", b"client_no_context_takeover")
_WINDOWS = (b"server_max_window_bits", b"client_max_window_bits")


class Agreement(NamedTuple):
    """What was negotiated: the response header's value, and how the server may compress."""

    response: bytes
    keeps_context: bool
    window_bits: int


def negotiate(offers: bytes) -> Agreement | None:
    """Take the first offer of a Sec-WebSocket-Extensions value that can be met (RFC 7692 §5.1, §7.1)."""
    for offer in offers.split(b","):
        name, *parameters = offer.split(b";")
        if name.strip() == _NAME:
            asked = _parse(parameters)
            if asked is not None:
                return _agree(asked)
    return None


def _agree(asked: dict[bytes, int | None]) -> Agreement:
    response = [_NAME, b"client_no_context_takeover"]
    keeps_context = b"server_no_context_takeover" not in asked
    if not keeps_context:
        response.append(b"server_no_context_takeover")
    window_bits = _WINDOW_BITS
    limit = asked.get(b"server_max_window_bits")
    if limit is not None:
        window_bits = min(window_bits, limit)
        response.append(b"server_max_window_bits=%d" % window_bits)
    return Agreement(b"; ".join(response), keeps_context, window_bits)


def _parse(parameters: list[bytes]) -> dict[bytes, int | None] | None:
    """The parameters of an offer; None if it has to be declined."""
    asked: dict[bytes, int | None] = {}
    for parameter in parameters:
        match = _PARAMETER.fullmatch(parameter)
        if match is None or match[1] in asked:
            return None
        name = match[1]
        digits = match[2] or match[3]
        value = int(digits) if digits else None
        if name in _FLAGS:
            is_valid = value is None
        elif name in _WINDOWS:
            least = 8 if name == b"client_max_window_bits" else _LEAST_WINDOW_BITS
            is_valid = value is None or least <= value <= _MOST_WINDOW_BITS
            is_valid = is_valid and (value is not None or name == b"client_max_window_bits")
        else:
            is_valid = False
        if not is_valid:
            return None
        asked[name] = value
    return asked


class Compressor:
    """Compresses what the server sends."""

    __slots__ = ("_agreement", "_stream")

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._stream: zlib._Compress | None = None

    def compress(self, payload: bytes) -> bytes:
        """Compress a message (RFC 7692 §7.2.1)."""
        stream = self._stream
        if stream is None:
            stream = zlib.compressobj(_LEVEL, wbits=-self._agreement.window_bits, memLevel=_MEMORY_LEVEL)
            if self._agreement.keeps_context:
                self._stream = stream
        compressed = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
        return compressed[: -len(_TAIL)]

    def release(self) -> None:
        """Give up the window and its memory until the next message."""
        self._stream = None


class Inflater:
    """Inflates what the client sends, never further than there is room."""

    __slots__ = ("_stream",)

    def __init__(self) -> None:
        self._stream: zlib._Decompress | None = None

    def inflate(self, piece: bytes, room: int | None, *, is_end: bool) -> bytes:
        """Inflate a piece of a message (RFC 7692 §7.2.2).

        Args:
            piece: as it came.
            room: how many bytes are allowed; None for any. The result is at most one byte longer, and then not whole.
            is_end: whether the message ends with the piece.

        Raises:
            WebSocketError: the piece is no deflate data.
        """
        stream = self._stream
        if stream is None:
            stream = self._stream = zlib.decompressobj(-_MOST_WINDOW_BITS)
        most = 0 if room is None else room + 1
        try:
            data = stream.decompress(piece + _TAIL if is_end else piece, most)
        except zlib.error:
            raise WebSocketError(INVALID_DATA, "a compressed message that is no deflate data") from None
        # After a last block, only the start of an empty one may follow (RFC 7692 §7.2.3.4).
        if stream.unused_data not in (b"", b"\x00", b"\x00" + _TAIL, _TAIL):
            raise WebSocketError(INVALID_DATA, "bytes behind the end of a compressed message")
        if is_end:
            self._stream = None
        return data
