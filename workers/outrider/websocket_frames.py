"""WebSocket frames (RFC 6455 §5): bytes to messages and control frames, and back. No I/O and no ASGI here.

An everyday message, one small frame that came whole, takes the short way in `FrameReader.feed`. Everything else goes
through `_begin_frame` and `_read_payload`, which take a frame as it comes: its text is validated and its size counted
piece by piece, so that what is wrong with a message ends it before the message is complete.
"""

from __future__ import annotations

import codecs
from typing import Protocol

from outrider.websocket_mask import apply_mask

FINAL = 0x80
COMPRESSED = 0x40
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
WHOLE_TEXT = FINAL | TEXT
WHOLE_BINARY = FINAL | BINARY

# RFC 6455 §7.4.1, and IANA's registry for 1012.
NORMAL_CLOSURE = 1000
PROTOCOL_ERROR = 1002
NO_STATUS = 1005
ABNORMAL_CLOSURE = 1006
INVALID_DATA = 1007
TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012

MOST_IN_CONTROL = 125
# The loop's other work waits for no more than this, however small a client makes its frames.
FRAMES_PER_TURN = 256
_MASKED = 0x80
_RESERVED_BITS = 0x70
_LENGTH = 0x7F
_LENGTH_16, _LENGTH_64 = 126, 127
_INCOMPLETE = -1
_BETWEEN_FRAMES = -1
_new_decoder = codecs.getincrementaldecoder("utf-8")

SHORT_HEADERS = {
    first: [bytes((first, size)) for size in range(MOST_IN_CONTROL + 1)] for first in (WHOLE_TEXT, WHOLE_BINARY)
}
"""Headers of the server's frames that carry at most 125 bytes, by first byte and size."""


class WebSocketError(Exception):
    """The client broke the protocol or a limit: the connection fails with this close code (RFC 6455 §7.1.7)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Receiver(Protocol):
    """Who a `FrameReader` tells what came."""

    def on_message(self, payload: str | bytes) -> None: ...
    def on_ping(self, payload: bytes) -> None: ...
    def on_pong(self, payload: bytes) -> None: ...
    def on_close(self, code: int, reason: str) -> None: ...
    def on_turn_over(self) -> None: ...


class PieceInflater(Protocol):
    """What inflates compressed messages piece by piece; see `websocket_deflate.Inflater`."""

    def inflate(self, piece: bytes, room: int | None, *, is_end: bool) -> bytes: ...


class FrameReader:
    """Reads a client's frames. The receiver may set `paused`: what comes from then on is told after `resume`.

    After FRAMES_PER_TURN frames, or pieces of them, the reader calls `on_turn_over` and stops by itself, until it gets
    `begin_turn` and `resume`.
    """

    __slots__ = (
        "_buffer",
        "_control",
        "_decoder",
        "_first",
        "_frames_left",
        "_held",
        "_held_from",
        "_inflater",
        "_is_compressed",
        "_left",
        "_mask",
        "_most",
        "_opcode",
        "_receiver",
        "paused",
    )

    def __init__(self, receiver: Receiver, max_message_size: int, inflater: PieceInflater | None) -> None:
        """Read for a receiver.

        Args:
            receiver: is called as messages and control frames are complete.
            max_message_size: bytes, after inflation; 0 for any.
            inflater: where permessage-deflate was negotiated.
        """
        self._receiver = receiver
        self._most = max_message_size
        self._inflater = inflater
        self._held = b""
        self._held_from = 0
        self._frames_left = FRAMES_PER_TURN
        self.paused = False
        # Of the frame whose payload is being read: its first byte, mask, and bytes to come.
        self._first = _BETWEEN_FRAMES
        self._mask = b""
        self._left = 0
        self._control = b""
        # Of the message whose frames are being read; the opcode is 0 between messages.
        self._opcode = 0
        self._is_compressed = False
        self._buffer = bytearray()
        self._decoder: codecs.IncrementalDecoder | None = None

    @property
    def has_stopped(self) -> bool:
        """Whether what comes is held, for one reason or the other."""
        return self.paused or not self._frames_left

    def feed(self, data: bytes, at: int = 0) -> None:
        """Take bytes from the client, from `data[at]` on.

        Raises:
            WebSocketError: they are no frames that a client may send, or more than it may.
        """
        if self._held:
            data = self._held[self._held_from :] + data
            self._held = b""
        size = len(data)
        frames_before = frames_left = self._frames_left
        while at < size and frames_left and not self.paused:
            frames_left -= 1
            first = data[at]
            if first in SHORT_HEADERS and self._first < 0 and at + 6 <= size:
                start = at + 6
                end = start + (data[at + 1] ^ _MASKED)
                if end <= size and end - start <= MOST_IN_CONTROL and not self._opcode:
                    payload = apply_mask(data[start:end], data[at + 2 : start])
                    at = end
                    self._receiver.on_message(_decode(payload) if first == WHOLE_TEXT else payload)
                    continue
            if self._first < 0:
                start = self._begin_frame(data, at)
                if start == _INCOMPLETE:
                    break
                at = start
            at = self._read_payload(data, at)
        self._frames_left = frames_left
        if at < size and self.has_stopped:
            # A receiver that pauses after each message would have the rest copied each time.
            self._held = data
            self._held_from = at
        elif at < size:
            self._held = data[at:]
            self._held_from = 0
        if frames_before and not frames_left:
            self._receiver.on_turn_over()

    def begin_turn(self) -> None:
        """Allow as many frames again."""
        self._frames_left = FRAMES_PER_TURN

    def resume(self) -> None:
        """Go on with what came while the receiver was paused.

        Raises:
            WebSocketError: as `feed`.
        """
        self.paused = False
        if self._held and self._frames_left:
            held, self._held = self._held, b""
            self.feed(held, self._held_from)

    # -- inside

    def _begin_frame(self, data: bytes, at: int) -> int:
        """Take a frame's header; return where its payload begins, or _INCOMPLETE."""
        if len(data) - at < 2:
            return _INCOMPLETE
        first, second = data[at], data[at + 1]
        opcode = first & 0x0F
        if not second & _MASKED:
            raise WebSocketError(PROTOCOL_ERROR, "a frame of a client without a mask")
        length = second & _LENGTH
        if opcode & CLOSE:
            _check_control(first, opcode, length)
        else:
            self._check_data(first, opcode)
        start = at + 2
        if length >= _LENGTH_16:
            size = 2 if length == _LENGTH_16 else 8
            start += size
            length = int.from_bytes(data[at + 2 : start], "big")
            if length >> 63:
                raise WebSocketError(PROTOCOL_ERROR, "a frame length of more than 63 bits")
        if start + 4 > len(data):
            return _INCOMPLETE
        if not opcode & CLOSE:
            self._begin_data(first, opcode, length)
        self._first = first
        self._mask = data[start : start + 4]
        self._left = length
        return start + 4

    def _check_data(self, first: int, opcode: int) -> None:
        if opcode > BINARY:
            raise WebSocketError(PROTOCOL_ERROR, "a reserved opcode")
        if bool(self._opcode) is not (opcode == CONTINUATION):
            what = "a continuation of no message" if opcode == CONTINUATION else "a message within a message"
            raise WebSocketError(PROTOCOL_ERROR, what)
        reserved = first & _RESERVED_BITS
        if reserved and (reserved != COMPRESSED or opcode == CONTINUATION or self._inflater is None):
            raise WebSocketError(PROTOCOL_ERROR, "a reserved bit that no extension has given a meaning")

    def _begin_data(self, first: int, opcode: int, length: int) -> None:
        if opcode != CONTINUATION:
            self._opcode = opcode
            self._is_compressed = bool(first & COMPRESSED)
        if self._most and length > self._most - len(self._buffer) and not self._is_compressed:
            raise _too_big(self._most)

    def _read_payload(self, data: bytes, at: int) -> int:
        """Take what there is of the frame's payload; return where it ends."""
        piece = data[at : at + self._left]
        size = len(piece)
        self._left -= size
        is_end = not self._left
        if not size and not is_end:
            return at
        piece = apply_mask(piece, self._mask)
        turn = size & 3
        if turn:
            self._mask = self._mask[turn:] + self._mask[:turn]
        first = self._first
        if is_end:
            self._first = _BETWEEN_FRAMES
        if first & CLOSE:
            self._control += piece
            if is_end:
                payload, self._control = self._control, b""
                self._end_control(first & 0x0F, payload)
        else:
            self._add(piece, is_end=is_end and bool(first & FINAL))
        return at + size

    def _end_control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._receiver.on_ping(payload)
        elif opcode == PONG:
            self._receiver.on_pong(payload)
        else:
            self._receiver.on_close(*parse_close(payload))

    def _add(self, piece: bytes, *, is_end: bool) -> None:
        """Add to the message, and hand it over at its end."""
        buffer = self._buffer
        if self._is_compressed and self._inflater is not None:
            room = self._most - len(buffer) if self._most else None
            piece = self._inflater.inflate(piece, room, is_end=is_end)
            if room is not None and len(piece) > room:
                raise _too_big(self._most)
        is_text = self._opcode == TEXT
        message: str | bytes
        if is_end and not buffer and self._decoder is None:
            message = _decode(piece) if is_text else piece
        else:
            buffer += piece
            if is_text:
                self._validate(piece, is_end=is_end)
            if not is_end:
                return
            message = buffer.decode() if is_text else bytes(buffer)
            self._buffer = bytearray()
            self._decoder = None
        self._opcode = 0
        self._receiver.on_message(message)

    def _validate(self, piece: bytes, *, is_end: bool) -> None:
        if self._decoder is None:
            self._decoder = _new_decoder()
        try:
            self._decoder.decode(piece, is_end)
        except UnicodeDecodeError:
            raise WebSocketError(INVALID_DATA, "a text that is not UTF-8") from None


def encode_frame(first: int, payload: bytes) -> bytes:
    """Frame a payload of any size; `first` is the first byte: the FIN bit, RSV bits and the opcode."""
    size = len(payload)
    if size <= MOST_IN_CONTROL:
        return b"%c%c%b" % (first, size, payload)
    return encode_header(first, size) + payload


def encode_header(first: int, size: int) -> bytes:
    """The header of a frame of more than 125 bytes."""
    if size <= 0xFFFF:
        return b"%c%c%b" % (first, _LENGTH_16, size.to_bytes(2, "big"))
    return b"%c%c%b" % (first, _LENGTH_64, size.to_bytes(8, "big"))


def encode_close(code: int, reason: str) -> bytes:
    """A Close frame (RFC 6455 §5.5.1). NO_STATUS makes an empty one; a reason that is too long is cut."""
    if code == NO_STATUS:
        return encode_frame(FINAL | CLOSE, b"")
    text = reason.encode("utf-8", "replace")
    if len(text) > MOST_IN_CONTROL - 2:
        text = text[: MOST_IN_CONTROL - 2].decode("utf-8", "ignore").encode()
    return encode_frame(FINAL | CLOSE, code.to_bytes(2, "big") + text)


def parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a Close frame; NO_STATUS if it has none.

    Raises:
        WebSocketError: half a code, one that may not be sent, or a reason that is not UTF-8.
    """
    if not payload:
        return NO_STATUS, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not may_be_sent(code):
        raise WebSocketError(PROTOCOL_ERROR, "a close code that may not be sent")
    return code, _decode(payload[2:])


def may_be_sent(code: int) -> bool:
    """Whether a Close frame may have this code (RFC 6455 §7.4): registered, or of a framework or an application."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def _check_control(first: int, opcode: int, length: int) -> None:
    if opcode > PONG:
        raise WebSocketError(PROTOCOL_ERROR, "a reserved opcode")
    if not first & FINAL or length > MOST_IN_CONTROL:
        raise WebSocketError(PROTOCOL_ERROR, "a control frame in pieces, or of more than 125 bytes")
    if first & _RESERVED_BITS:
        raise WebSocketError(PROTOCOL_ERROR, "a reserved bit in a control frame")


def _decode(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise WebSocketError(INVALID_DATA, "a text that is not UTF-8") from None


def _too_big(most: int) -> WebSocketError:
    return WebSocketError(TOO_BIG, f"a message of more than {most} bytes")
