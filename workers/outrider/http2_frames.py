"""What RFC 9113 demands of frame headers and libnghttp2 lets pass."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from outrider.http2_engine import ErrorCode

HEADER = 9
PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _CONTINUATION = 0, 1, 2, 3, 9
_ID_MASK = 0x7FFFFFFF
# The loop's other work waits for no more than this, however small a client makes its frames.
FRAMES_PER_TURN = 256
# How many of the streams that it skipped, and of those that ended before their time, are remembered of a client.
MOST_GAPS = 64
MOST_RESETS = 1000


class Violation(NamedTuple):
    """An error of the connection: what it was, and where in the bytes; those before are still to be dealt with."""

    code: ErrorCode
    reason: str
    position: int


class FrameWatch:
    """Follows the frames of a client through whatever pieces its bytes come in.

    `late` collects streams that the client has reset and sent on: each such frame is an error of its stream. `settled`
    is the last stream that the engine has told of; what comes on later ones is as yet for the engine alone to judge.
    `frames_left` is how many frames may still come in this turn of the loop, and `taken` how much `check` looked at.
    """

    __slots__ = (
        "_cancelled",
        "_forgiven",
        "_gaps",
        "_highest",
        "_largest",
        "_open",
        "_partial",
        "_skip",
        "frames_left",
        "late",
        "settled",
        "taken",
    )

    def __init__(self, largest: int, open_streams: Container[int]) -> None:
        """Begin before the preface.

        Args:
            largest: the http2_max_frame_size that the client was told.
            open_streams: those of which the bytes before are known.
        """
        self._largest = largest
        self._open = open_streams
        self._skip = PREFACE
        self._partial = b""
        self._highest = -1
        self._gaps: list[range] = []
        self._cancelled: dict[int, None] = {}
        self._forgiven: dict[int, None] = {}
        self.frames_left = FRAMES_PER_TURN
        self.late: list[int] = []
        self.settled = 0
        self.taken = 0

    def forgive(self, stream: int) -> None:
        """The server resets a stream, and the client may not know (RFC 9113 §5.1, closed)."""
        if stream not in self._cancelled:
            _remember(self._forgiven, stream)

    def check(self, data: bytes | memoryview) -> Violation | None:
        """Look at the next bytes from the client, up to the last frame that may come in this turn of the loop."""
        position = self._skip
        frames_left = self.frames_left
        before = len(self._partial)
        if before:
            data = self._partial + bytes(data)
            self._partial = b""
        end = len(data) - HEADER
        while position <= end and frames_left:
            frames_left -= 1
            kind = data[position + 3]
            length = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            if kind <= _RST_STREAM or kind == _CONTINUATION:
                stream = int.from_bytes(data[position + 5 : position + HEADER], "big") & _ID_MASK
                if kind == _HEADERS and stream > self._highest:
                    self._open_stream(stream)
                else:
                    error = self._check_frame(kind, length, stream)
                    if error is not None:
                        return Violation(*error, max(0, position - before))
            position += HEADER + length
        self.frames_left = frames_left
        rest = len(data) - position
        if not frames_left and rest > 0:
            self._skip = 0
            self.taken = position - before
            return None
        self.taken = len(data) - before
        if rest > 0:
            self._partial = bytes(data[position:])
            self._skip = 0
        else:
            self._skip = -rest
        return None

    def _open_stream(self, stream: int) -> None:
        first_skipped = self._highest + 2
        if stream > first_skipped:
            self._gaps = [*self._gaps[1 - MOST_GAPS :], range(first_skipped, stream, 2)]
        self._highest = stream

    def _check_frame(self, kind: int, length: int, stream: int) -> tuple[ErrorCode, str] | None:
        if kind == _HEADERS and self._gaps and any(stream in gap for gap in self._gaps):
            return ErrorCode.PROTOCOL_ERROR, "a request on a stream of a lower number than one before"
        if kind <= _HEADERS:
            return self._check_state(stream)
        if kind == _RST_STREAM:
            _remember(self._cancelled, stream)
        elif kind == _PRIORITY and not stream:
            return ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0 (RFC 9113 §6.3)"
        elif length > self._largest:
            return ErrorCode.FRAME_SIZE_ERROR, "a frame larger than http2_max_frame_size (RFC 9113 §4.2)"
        return None

    def _check_state(self, stream: int) -> tuple[ErrorCode, str] | None:
        """DATA or HEADERS has come on a stream that should be open (RFC 9113 §5.1)."""
        if stream in self._cancelled:
            self.late.append(stream)
        elif 0 < stream <= self.settled and stream not in self._open and stream not in self._forgiven:
            return ErrorCode.STREAM_CLOSED, "something more on a stream that has ended"
        return None


def _remember(streams: dict[int, None], stream: int) -> None:
    streams[stream] = None
    if len(streams) > MOST_RESETS:
        del streams[next(iter(streams))]
