from __future__ import annotations

import socket
import threading
import zlib
from collections.abc import Callable, Iterator

import pytest

from address import Address
from loads import LOADS
from websocket_wire import FrameError, WebSocket, frame_size, handshake, message_frame, window_bits

PLAIN, DEFLATE = LOADS["websocket-64b-32"], LOADS["websocket-64b-32-deflate"]
OPENED = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
AGREED = OPENED + b"Sec-WebSocket-Extensions: permessage-deflate"


def unmasked(frame: bytes, head: int) -> bytes:
    mask, data = frame[head : head + 4], frame[head + 4 :]
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


def test_compression_is_offered_where_the_load_needs_it() -> None:
    assert b"permessage-deflate" not in handshake(PLAIN)
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n" in handshake(DEFLATE)


@pytest.mark.parametrize(
    "agreed, bits", [(b"", 15), (b"; client_max_window_bits=12", 12), (b"; server_max_window_bits=10", 15)]
)
def test_window_is_what_the_server_allows(agreed: bytes, bits: int) -> None:
    assert window_bits(AGREED + agreed + b"\r\n\r\n", DEFLATE) == bits


def test_window_is_0_without_compression() -> None:
    assert window_bits(OPENED + b"\r\n", PLAIN) == 0


def test_server_that_does_not_compress_is_refused() -> None:
    with pytest.raises(ConnectionError, match="does not compress"):
        window_bits(OPENED + b"\r\n", DEFLATE)


def test_server_that_compresses_unasked_is_refused() -> None:
    with pytest.raises(ConnectionError, match="nobody has offered"):
        window_bits(AGREED + b"\r\n\r\n", PLAIN)


@pytest.mark.parametrize("response", [b"HTTP/1.1 403 Forbidden\r\n\r\n", OPENED.replace(b"s3p", b"xyz") + b"\r\n"])
def test_server_that_does_not_open_a_websocket_is_refused(response: bytes) -> None:
    with pytest.raises(ConnectionError, match=r"no WebSocket: HTTP/1.1 "):
        window_bits(response, PLAIN)


@pytest.mark.parametrize(
    "size, head",
    [
        (125, bytes([0x82, 0x80 | 125])),
        (126, bytes([0x82, 0x80 | 126, 0, 126])),
        (65536, bytes([0x82, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0])),
    ],
)
def test_frame_has_the_shortest_length_and_a_mask(size: int, head: bytes) -> None:
    message = bytes(range(256)) * 256
    frame = message_frame(message[:size], is_text=False, bits=0)
    assert frame.startswith(head)
    assert unmasked(frame, len(head)) == message[:size]


def test_text_frame_says_so() -> None:
    assert message_frame(b"a", is_text=True, bits=0)[0] == 0x81


@pytest.mark.parametrize("bits", [8, 12, 15])
def test_compressed_frame_can_be_read_again_and_again(bits: int) -> None:
    frame = message_frame(PLAIN.body, is_text=True, bits=bits)
    assert frame[0] == 0xC1
    inflater = zlib.decompressobj(wbits=-15)
    for _ in range(3):
        assert inflater.decompress(unmasked(frame, 2) + b"\x00\x00\xff\xff") == PLAIN.body


@pytest.mark.parametrize(
    "start, size",
    [(b"\x81\x05", 7), (b"\xc2\x7d", 127), (b"\x82\x7e\x40\x00", 16388), (b"\x82\x7f\0\0\0\0\0\1\0\0", 65546)],
)
def test_frame_size_counts_the_header(start: bytes, size: int) -> None:
    assert frame_size(start + bytes(10)) == size


@pytest.mark.parametrize("start", [b"\x01\x05", b"\x89\x00", b"\x88\x02", b"\x81\x85"])
def test_frame_that_is_no_whole_plain_message_is_an_error(start: bytes) -> None:
    with pytest.raises(FrameError, match=start.hex()):
        frame_size(start + bytes(10))


Serve = Callable[[bytes, list[bytes]], Address]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve one connection: the response of the handshake, then pieces of what follows the client's message."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def start(response: bytes, pieces: list[bytes]) -> Address:
        def converse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(response)
                for piece in pieces:
                    connection.recv(65536)
                    connection.sendall(piece)

        threads.append(threading.Thread(target=converse))
        threads[-1].start()
        return Address(listener.getsockname()[1])

    yield start
    for thread in threads:
        thread.join(10)
    listener.close()


def test_websocket_checks_the_echo(serve: Serve) -> None:
    right, wrong = b"\x81\x40" + PLAIN.body, b"\x81\x02ab"
    websocket = WebSocket(serve(OPENED + b"\r\n", [right, wrong]), PLAIN)
    assert websocket.bits == 0
    assert websocket.check() == ""
    assert websocket.check() == "wrong answer: a message of 2 bytes that is not the 64 expected"
    with pytest.raises(ConnectionError, match="closed the connection"):
        websocket.check()
    websocket.close()


def test_websocket_inflates_the_echo(serve: Serve) -> None:
    compressor = zlib.compressobj(wbits=-15)
    frames = []
    for _ in range(2):
        data = (compressor.compress(DEFLATE.body) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        frames.append(bytes([0xC1, len(data)]) + data)
    websocket = WebSocket(serve(AGREED + b"\r\n\r\n", frames), DEFLATE)
    assert [websocket.check(), websocket.check()] == ["", ""]
    websocket.close()


def test_websocket_wants_nothing_after_the_echo(serve: Serve) -> None:
    websocket = WebSocket(serve(OPENED + b"\r\n", [b"\x81\x40" + PLAIN.body + b"!"]), PLAIN)
    with pytest.raises(FrameError, match="1 bytes more"):
        websocket.check()
    websocket.close()


def test_websocket_that_is_refused_says_why(serve: Serve) -> None:
    with pytest.raises(ConnectionError, match="403 Forbidden"):
        WebSocket(serve(b"HTTP/1.1 403 Forbidden\r\n\r\n", []), PLAIN)
