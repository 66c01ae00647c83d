"""Frames: what a client may send and what it may not, however it arrives; and what the server sends."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest

from outrider.websocket_deflate import Inflater
from outrider.websocket_frames import (
    BINARY,
    CLOSE,
    FINAL,
    FRAMES_PER_TURN,
    INVALID_DATA,
    NO_STATUS,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    FrameReader,
    WebSocketError,
    encode_close,
    encode_frame,
    encode_header,
    parse_close,
)
from outrider_testing import websocket_bytes as ws

MOST = 1 << 20


class Recorder:
    """Keeps what the reader tells; pauses it after each message if asked to."""

    def __init__(self, *, most: int = MOST, inflater: Inflater | None = None, pauses: bool = False) -> None:
        self.events: list[Any] = []
        self.pauses = pauses
        self.turns = 0
        self.reader = FrameReader(self, most, inflater)

    def on_message(self, payload: str | bytes) -> None:
        self.events.append(payload)
        self.reader.paused = self.pauses

    def on_ping(self, payload: bytes) -> None:
        self.events.append(("ping", payload))

    def on_pong(self, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def on_close(self, code: int, reason: str) -> None:
        self.events.append((code, reason))

    def on_turn_over(self) -> None:
        self.turns += 1


def read(data: bytes, step: int = 0, **options: Any) -> list[Any]:
    """What the reader tells of the data, which comes at once or in steps; at its end a close code if it refuses."""
    recorder = Recorder(**options)
    pieces = [data[at : at + step] for at in range(0, len(data), step)] if step else [data]
    try:
        for piece in pieces:
            recorder.reader.feed(piece)
            while recorder.reader.has_stopped and not recorder.reader.paused:
                recorder.reader.begin_turn()
                recorder.reader.resume()
    except WebSocketError as error:
        recorder.events.append(error.code)
    return recorder.events


def deflate(payload: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


CLIENT_SENDS = [
    ("short text", ws.frame(ws.TEXT, b"hello"), ["hello"]),
    ("short binary", ws.frame(ws.BINARY, b"\xff\x00"), [b"\xff\x00"]),
    ("empty messages", ws.frame(ws.TEXT) + ws.frame(ws.BINARY), ["", b""]),
    ("125 bytes", ws.frame(ws.TEXT, b"x" * 125), ["x" * 125]),
    ("126 bytes", ws.frame(ws.TEXT, b"x" * 126), ["x" * 126]),
    ("65536 bytes", ws.frame(ws.BINARY, b"x" * 65536), [b"x" * 65536]),
    ("two messages", ws.frame(ws.TEXT, b"a") + ws.frame(ws.TEXT, b"b"), ["a", "b"]),
    ("three fragments", ws.frame(ws.TEXT, b"a", 0) + ws.frame(ws.CONTINUATION, b"b", 0) + ws.frame(0, b"c"), ["abc"]),
    ("empty fragments", ws.frame(ws.BINARY, b"", 0) + ws.frame(0, b"", 0) + ws.frame(0, b""), [b""]),
    ("a character in two fragments", ws.frame(ws.TEXT, "€".encode()[:1], 0) + ws.frame(0, "€".encode()[1:]), ["€"]),
    ("a ping between fragments", ws.frame(1, b"a", 0) + ws.frame(9, b"p") + ws.frame(0, b"b"), [("ping", b"p"), "ab"]),
    ("a pong", ws.frame(ws.PONG, b"x" * 125), [("pong", b"x" * 125)]),
    ("a close", ws.close(1001, "früh".encode()), [(1001, "früh")]),
    ("a close without code", ws.close(None), [(NO_STATUS, "")]),
]


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("data,told", [pytest.param(*case[1:], id=case[0]) for case in CLIENT_SENDS])
def test_client_sends(data: bytes, told: list[Any], step: int) -> None:
    assert read(data, step) == told


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("mask", [bytes(4), b"\x82\xfe\x7f\x80", b"\xff\x00\x81\x85"])
def test_client_may_choose_any_mask(mask: bytes, step: int) -> None:
    frames = ws.frame(ws.TEXT, b"hello", mask=mask) + ws.frame(ws.BINARY, bytes(5), mask=mask)
    assert read(frames, step) == ["hello", bytes(5)]


CLIENT_BREAKS = [
    ("no mask", ws.frame(ws.TEXT, b"a", mask=None), PROTOCOL_ERROR),
    ("no mask on a short frame", ws.frame(ws.TEXT, b"a" * 20, mask=None) * 2, PROTOCOL_ERROR),
    ("no mask on a long frame", ws.frame(ws.TEXT, b"a" * 200, mask=None), PROTOCOL_ERROR),
    ("reserved opcode", ws.frame(0x3), PROTOCOL_ERROR),
    ("reserved control opcode", ws.frame(0xB), PROTOCOL_ERROR),
    ("reserved bit 1 without deflate", ws.frame(ws.TEXT, b"a", FINAL | 0x40), PROTOCOL_ERROR),
    ("reserved bit 2", ws.frame(ws.TEXT, b"a", FINAL | 0x20), PROTOCOL_ERROR),
    ("reserved bit 3", ws.frame(ws.TEXT, b"a", FINAL | 0x10), PROTOCOL_ERROR),
    ("reserved bit of a ping", ws.frame(ws.PING, b"", FINAL | 0x40), PROTOCOL_ERROR),
    ("ping in fragments", ws.frame(ws.PING, b"", 0), PROTOCOL_ERROR),
    ("ping of 126 bytes", ws.frame(ws.PING, b"x" * 126), PROTOCOL_ERROR),
    ("continuation of nothing", ws.frame(ws.CONTINUATION, b"a"), PROTOCOL_ERROR),
    ("message within a message", ws.frame(ws.TEXT, b"a", 0) + ws.frame(ws.TEXT, b"b"), PROTOCOL_ERROR),
    ("length of 64 bits", b"\x82\xff" + b"\xff" * 8 + bytes(4), PROTOCOL_ERROR),
    ("close with half a code", ws.frame(ws.CLOSE, b"\x03"), PROTOCOL_ERROR),
    ("close with a bad reason", ws.close(1000, b"\xff"), INVALID_DATA),
    ("text that is not UTF-8", ws.frame(ws.TEXT, b"\xc3\x28"), INVALID_DATA),
    ("text that ends within a character", ws.frame(ws.TEXT, "€".encode()[:2]), INVALID_DATA),
    ("fragments that end within a character", ws.frame(1, b"a", 0) + ws.frame(0, "€".encode()[:2]), INVALID_DATA),
    ("surrogate", ws.frame(ws.TEXT, b"\xed\xa0\x80"), INVALID_DATA),
]


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("data,code", [pytest.param(*case[1:], id=case[0]) for case in CLIENT_BREAKS])
def test_client_breaks_the_protocol(data: bytes, code: int, step: int) -> None:
    assert read(data, step) == [code]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_close_code_that_may_not_be_sent_is_refused(code: int) -> None:
    assert read(ws.close(code)) == [PROTOCOL_ERROR]


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1011, 1014, 3000, 4999])
def test_close_code_is_told(code: int) -> None:
    assert read(ws.close(code)) == [(code, "")]


def test_text_is_refused_at_the_first_octet_that_is_wrong() -> None:
    data = ws.frame(ws.TEXT, b"abc\xf4\x90" + b"x" * 1000)
    recorder = Recorder()
    recorder.reader.feed(data[: 8 + 4])
    with pytest.raises(WebSocketError) as caught:
        recorder.reader.feed(data[8 + 4 : 8 + 5])
    error = caught.value
    assert (error.code, error.reason, str(error)) == (INVALID_DATA, "a text that is not UTF-8", error.reason)


# Sizes


@pytest.mark.parametrize("step", [0, 5])
def test_message_of_the_largest_size_is_read(step: int) -> None:
    assert read(ws.frame(ws.BINARY, b"x" * 1000), step, most=1000) == [b"x" * 1000]
    fragments = ws.frame(ws.BINARY, b"x" * 600, 0) + ws.frame(0, b"x" * 400)
    assert read(fragments, step, most=1000) == [b"x" * 1000]


def test_larger_frame_is_refused_at_its_header() -> None:
    assert read(ws.frame(ws.BINARY, b"x" * 1001)[:8], most=1000) == [TOO_BIG]


def test_larger_message_is_refused_at_the_header_of_the_fragment_that_makes_it_so() -> None:
    first = ws.frame(ws.BINARY, b"x" * 600, 0)
    assert read(first + ws.frame(0, b"x" * 401)[:8], most=1000) == [TOO_BIG]


def test_size_of_0_is_unlimited() -> None:
    assert read(ws.frame(ws.BINARY, b"x" * 100_000), most=0) == [b"x" * 100_000]


# Compression


@pytest.mark.parametrize("step", [0, 1, 7])
def test_compressed_messages_are_inflated(step: int) -> None:
    text = "zażółć gęślą jaźń " * 20
    data = deflate(text.encode())
    whole = ws.frame(ws.TEXT, data, ws.FINAL | ws.COMPRESSED)
    fragments = ws.frame(ws.TEXT, data[:9], ws.COMPRESSED) + ws.frame(0, data[9:])
    plain = ws.frame(ws.TEXT, b"plain")
    assert read(whole + fragments + plain + whole, step, inflater=Inflater()) == [text, text, "plain", text]


def test_compressed_continuation_is_refused() -> None:
    data = ws.frame(ws.TEXT, deflate(b"a"), ws.COMPRESSED) + ws.frame(0, b"", ws.FINAL | ws.COMPRESSED)
    assert read(data, inflater=Inflater()) == [PROTOCOL_ERROR]


@pytest.mark.parametrize("step", [0, 100])
def test_bomb_is_refused(step: int) -> None:
    bomb = ws.frame(ws.BINARY, deflate(bytes(10_000_000)), ws.FINAL | ws.COMPRESSED)
    assert read(bomb, step, most=1000, inflater=Inflater()) == [TOO_BIG]


def test_compressed_message_of_the_largest_size_is_read() -> None:
    frame = ws.frame(ws.BINARY, deflate(bytes(1000)), ws.FINAL | ws.COMPRESSED)
    assert read(frame, most=1000, inflater=Inflater()) == [bytes(1000)]


def test_compressed_message_of_any_size_is_read_where_there_is_no_limit() -> None:
    frame = ws.frame(ws.BINARY, deflate(bytes(1000)), ws.FINAL | ws.COMPRESSED)
    assert read(frame, most=0, inflater=Inflater()) == [bytes(1000)]


def test_compressed_text_that_is_not_utf8_is_refused() -> None:
    frame = ws.frame(ws.TEXT, deflate(b"\xff"), ws.FINAL | ws.COMPRESSED)
    assert read(frame, inflater=Inflater()) == [INVALID_DATA]


# Pauses


def test_paused_reader_tells_the_rest_after_resume() -> None:
    recorder = Recorder(pauses=True)
    recorder.reader.feed(b"".join(ws.frame(ws.TEXT, text) for text in (b"a", b"b", b"c")))
    recorder.reader.feed(ws.frame(ws.PING))
    assert recorder.events == ["a"]
    recorder.reader.resume()
    assert recorder.events == ["a", "b"]
    recorder.pauses = False
    recorder.reader.resume()
    assert recorder.events == ["a", "b", "c", ("ping", b"")]


def test_frame_that_is_cut_behind_a_pause_is_told_whole() -> None:
    recorder = Recorder(pauses=True)
    last = ws.frame(ws.TEXT, b"c")
    recorder.reader.feed(ws.frame(ws.TEXT, b"a") + ws.frame(ws.TEXT, b"b") + last[:3])
    recorder.pauses = False
    recorder.reader.resume()
    recorder.reader.feed(last[3:])
    assert recorder.events == ["a", "b", "c"]


# What the server sends


@pytest.mark.parametrize(
    "size,header", [(0, "8100"), (125, "817d"), (126, "817e007e"), (65535, "817effff"), (65536, "817f0000000000010000")]
)
def test_frame_is_encoded(size: int, header: str) -> None:
    payload = b"x" * size
    assert encode_frame(FINAL | TEXT, payload) == bytes.fromhex(header) + payload


def test_header_is_encoded() -> None:
    assert encode_header(FINAL | BINARY, 300) == bytes.fromhex("827e012c")


def test_close_is_encoded() -> None:
    assert encode_close(1001, "away") == bytes((FINAL | CLOSE, 6)) + b"\x03\xe9away"
    assert encode_close(NO_STATUS, "") == bytes((FINAL | CLOSE, 0))


def test_long_reason_is_cut_at_a_character() -> None:
    frame = encode_close(1000, "x" + "€" * 60)
    assert frame[1] <= 125
    assert parse_close(frame[2:]) == (1000, "x" + "€" * 40)


# What is easily taken for something else


def test_payload_of_a_ping_that_looks_like_a_message_is_none() -> None:
    recorder = Recorder()
    looks_so = ws.frame(ws.TEXT, b"a")
    data = ws.frame(ws.PING, b"x" + looks_so, mask=bytes(4))
    recorder.reader.feed(data[:7])
    recorder.reader.feed(data[7:])
    assert recorder.events == [("ping", b"x" + looks_so)]


@pytest.mark.parametrize("reserved", [0x20, 0x10, 0x60])
def test_other_reserved_bits_are_refused_with_deflate_as_well(reserved: int) -> None:
    frame = ws.frame(ws.TEXT, deflate(b"a"), FINAL | reserved)
    assert read(frame, inflater=Inflater()) == [PROTOCOL_ERROR]


def test_compressed_fragments_are_held_to_the_size_of_the_whole_message() -> None:
    stream = zlib.compressobj(wbits=-15)
    half = stream.compress(bytes(600)) + stream.flush(zlib.Z_SYNC_FLUSH)
    fragments = ws.frame(ws.BINARY, half, ws.COMPRESSED) + ws.frame(0, half)
    assert read(fragments, most=1200, inflater=Inflater()) == [bytes(1200)]
    assert read(fragments, most=1000, inflater=Inflater()) == [TOO_BIG]


def test_compressed_message_may_be_larger_on_the_wire() -> None:
    message = random.Random(0).randbytes(1000)
    data = deflate(message)
    assert len(data) > 1000
    frame = ws.frame(ws.BINARY, data, ws.FINAL | ws.COMPRESSED)
    assert read(frame, most=1000, inflater=Inflater()) == [message]


@pytest.mark.parametrize("size, sent", [(123, 123), (124, 123), (125, 123)])
def test_reason_is_cut_to_what_a_control_frame_holds(size: int, sent: int) -> None:
    assert encode_close(1000, "x" * size)[2:] == (1000).to_bytes(2, "big") + b"x" * sent


def test_reason_that_is_no_unicode_is_sent_without_what_is_wrong() -> None:
    assert encode_close(1000, "a\udc80b")[4:] == b"a?b"


# -- turns of the loop

FLOODS = [
    pytest.param(ws.frame(ws.TEXT, b"a"), id="messages"),
    pytest.param(ws.frame(ws.BINARY, bytes(200)), id="longer messages"),
    pytest.param(ws.frame(ws.PING), id="pings"),
    pytest.param(ws.frame(ws.PONG), id="pongs"),
    pytest.param(ws.frame(ws.CONTINUATION, b"", 0), id="empty fragments"),
]


@pytest.mark.parametrize("frame", FLOODS)
def test_reader_stops_after_as_many_frames_as_one_turn_may_have(frame: bytes) -> None:
    recorder = Recorder()
    reader = recorder.reader
    if frame[0] == ws.CONTINUATION:
        reader.feed(ws.frame(ws.BINARY, b"", 0))
        reader.begin_turn()
    frames = 2 * FRAMES_PER_TURN + 1
    reader.feed(frame * frames + ws.frame(ws.PING, b"end")[:4])
    for turns in (1, 2):
        assert (recorder.turns, reader.has_stopped) == (turns, True)
        reader.resume()
        assert len(recorder.events) <= turns * FRAMES_PER_TURN
        reader.feed(ws.frame(ws.PING, b"end")[4 * turns : 4 * turns + 4])
        reader.begin_turn()
        reader.resume()
    assert (recorder.turns, reader.has_stopped) == (2, False)
    assert recorder.events[-1] == ("ping", b"end")
    assert len(recorder.events) in (1, frames + 1)


def test_reader_that_is_paused_in_a_turn_stays_so_in_the_next() -> None:
    recorder = Recorder(pauses=True)
    reader = recorder.reader
    reader.feed(ws.frame(ws.PING) * (FRAMES_PER_TURN - 1) + ws.frame(ws.TEXT, b"a") * 2)
    assert (recorder.turns, reader.paused) == (1, True)
    reader.begin_turn()
    assert reader.has_stopped
    reader.resume()
    assert recorder.events[-2:] == ["a", "a"]
