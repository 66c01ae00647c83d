"""permessage-deflate: negotiation, compression and bounded inflation."""

from __future__ import annotations

import random
import zlib

import pytest

from outrider.websocket_deflate import Agreement, Compressor, Inflater, negotiate
from outrider.websocket_frames import INVALID_DATA, WebSocketError
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import ManualLoop
from outrider_testing.fakes.websocket import WebSocketExchange

NAME = b"permessage-deflate"
BASE = b"permessage-deflate; client_no_context_takeover"
MESSAGE = b"the quick brown fox jumps over the lazy dog. " * 20
TAIL = b"\x00\x00\xff\xff"


@pytest.mark.parametrize(
    "offers,response",
    [
        (NAME, BASE),
        (b" permessage-deflate ; client_max_window_bits", BASE),
        (b"permessage-deflate;client_max_window_bits", BASE),
        (b"permessage-deflate; client_max_window_bits=8", BASE),
        (b'permessage-deflate; client_max_window_bits="10"', BASE),
        (b"permessage-deflate; client_no_context_takeover", BASE),
        (b"permessage-deflate; server_no_context_takeover", BASE + b"; server_no_context_takeover"),
        (b"permessage-deflate; server_max_window_bits=15", BASE + b"; server_max_window_bits=12"),
        (b"permessage-deflate; server_max_window_bits=9", BASE + b"; server_max_window_bits=9"),
        (b'permessage-deflate; server_max_window_bits="10"', BASE + b"; server_max_window_bits=10"),
        (b"x-webkit-deflate-frame, permessage-deflate", BASE),
        (b"permessage-deflate; server_max_window_bits=8, permessage-deflate", BASE),
    ],
)
def test_offer_is_accepted(offers: bytes, response: bytes) -> None:
    agreement = negotiate(offers)
    assert agreement is not None
    assert agreement.response == response


@pytest.mark.parametrize(
    "offers",
    [
        b"",
        b"x-webkit-deflate-frame",
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; server_max_window_bits=8",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; client_max_window_bits=7",
        b"permessage-deflate; server_no_context_takeover=1",
        b"permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        b'permessage-deflate; server_max_window_bits="16"',
        b"permessage-deflate; unknown",
        b"permessage-deflate; unknown=10",
        b"permessage-deflate; server_max_window_bits=ten",
        b"permessage-deflate;",
    ],
)
def test_offer_is_declined(offers: bytes) -> None:
    assert negotiate(offers) is None


def inflate_all(messages: list[bytes], window_bits: int = 15, *, keeps_context: bool = True) -> list[bytes]:
    """What a client reads."""
    stream = zlib.decompressobj(-window_bits)
    inflated = []
    for message in messages:
        inflated.append(stream.decompress(message + TAIL))
        if not keeps_context:
            stream = zlib.decompressobj(-window_bits)
    return inflated


@pytest.mark.parametrize("window_bits", [9, 12])
def test_client_inflates_messages(window_bits: int) -> None:
    compressor = Compressor(Agreement(b"", keeps_context=True, window_bits=window_bits))
    compressed = [compressor.compress(MESSAGE * 100) for _ in range(3)]
    assert inflate_all(compressed, window_bits) == [MESSAGE * 100] * 3


def test_context_makes_repetition_short() -> None:
    compressor = Compressor(Agreement(b"", keeps_context=True, window_bits=12))
    first, second = compressor.compress(MESSAGE), compressor.compress(MESSAGE)
    assert len(second) < len(first)


def test_context_is_not_kept_where_the_client_does_not_want_it() -> None:
    compressor = Compressor(Agreement(b"", keeps_context=False, window_bits=12))
    compressed = [compressor.compress(MESSAGE) for _ in range(3)]
    assert inflate_all(compressed, keeps_context=False) == [MESSAGE] * 3


def test_client_with_context_inflates_after_a_release() -> None:
    compressor = Compressor(Agreement(b"", keeps_context=True, window_bits=12))
    compressed = [compressor.compress(MESSAGE)]
    compressor.release()
    compressed += [compressor.compress(MESSAGE), compressor.compress(MESSAGE)]
    assert inflate_all(compressed) == [MESSAGE] * 3
    assert compressed[1] == compressed[0], "it refers to nothing from before"


def deflate(payload: bytes) -> bytes:
    """A message as a client sends it."""
    stream = zlib.compressobj(wbits=-15)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("size", [1, 2, 7, 100_000])
def test_message_is_inflated_however_it_is_cut(size: int) -> None:
    data = deflate(MESSAGE)
    inflater = Inflater()
    for _ in range(2):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        inflated = [inflater.inflate(piece, None, is_end=False) for piece in pieces]
        assert b"".join([*inflated, inflater.inflate(b"", None, is_end=True)]) == MESSAGE


def test_bomb_is_inflated_no_further_than_there_is_room() -> None:
    bomb = deflate(bytes(50_000_000))
    assert len(Inflater().inflate(bomb, 1000, is_end=True)) == 1001


def test_message_that_ends_with_a_last_block_is_inflated() -> None:
    # RFC 7692 §7.2.3.4
    hello = bytes.fromhex("f348cdc9c9070000")
    inflater = Inflater()
    assert [inflater.inflate(hello, None, is_end=True) for _ in range(2)] == [b"Hello", b"Hello"]


@pytest.mark.parametrize("at", range(9))
def test_message_that_ends_with_a_last_block_may_be_cut_anywhere(at: int) -> None:
    hello = bytes.fromhex("f348cdc9c9070000")
    inflater = Inflater()
    for _ in range(2):
        first = inflater.inflate(hello[:at], None, is_end=False)
        assert first + inflater.inflate(hello[at:], None, is_end=True) == b"Hello"


def test_message_that_ends_within_a_block_is_refused() -> None:
    stored = bytes.fromhex("000500faff") + b"ab"  # five bytes are announced
    with pytest.raises(WebSocketError):
        Inflater().inflate(stored, None, is_end=True)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", bytes.fromhex("f348cdc9c90700") + b"junk", deflate(MESSAGE)[5:]])
def test_what_is_no_deflate_data_is_refused(data: bytes) -> None:
    with pytest.raises(WebSocketError) as caught:
        Inflater().inflate(data, None, is_end=True)
    assert caught.value.code == INVALID_DATA


def incompressible(size: int) -> bytes:
    """Bytes in which nothing repeats, the same each time."""
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("window_bits", [9, 12])
def test_client_with_the_smallest_window_inflates_messages(window_bits: int) -> None:
    far = incompressible((1 << window_bits) + 100)
    compressor = Compressor(Agreement(b"", keeps_context=True, window_bits=window_bits))
    compressed = [compressor.compress(far) for _ in range(2)]
    assert inflate_all(compressed, window_bits) == [far] * 2
    assert len(compressed[1]) > len(far), "what is beyond the window is not referred to"


def test_client_may_use_the_largest_window() -> None:
    far = incompressible(20_000)
    data = deflate(far + far)
    assert len(data) < 21_000, "it refers back as far as that"
    assert Inflater().inflate(data, None, is_end=True) == far + far


# In a WebSocket


def test_client_may_compress_where_that_was_agreed_upon(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop, headers=[(b"sec-websocket-extensions", NAME)])
    exchange.feed(ws.frame(ws.TEXT, deflate(MESSAGE), ws.FINAL | ws.COMPRESSED))
    assert exchange.call.receive()["text"] == MESSAGE.decode()


def test_client_may_not_compress_elsewhere(loop: ManualLoop) -> None:
    exchange = WebSocketExchange(loop)
    exchange.feed(ws.frame(ws.TEXT, deflate(MESSAGE), ws.FINAL | ws.COMPRESSED))
    assert exchange.call.receive()["code"] == 1002
