"""HTTP/2 frames and field blocks as bytes, the wrong ones as well as the right ones (RFC 9113, RFC 7541).

hyperframe and hpack read what the server sends; they do not write what no client may send.
"""

from __future__ import annotations

import struct

from hpack.hpack import encode_integer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Frame types, RFC 9113 §6
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

# Flags
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20
COMPLETE = END_HEADERS | END_STREAM

# Settings, RFC 9113 §6.5.2 and RFC 8441 §3
HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6
ENABLE_CONNECT_PROTOCOL = 0x8

# Error codes, RFC 9113 §7
NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
INTERNAL_ERROR = 0x2
FLOW_CONTROL_ERROR = 0x3
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
ENHANCE_YOUR_CALM = 0xB

DEFAULT_WINDOW = 65535
LARGEST_WINDOW = 2**31 - 1
DEFAULT_FRAME_SIZE = 16384

# How a field is represented in a block, RFC 7541 §6.2
INDEXED = 0x40
WITHOUT_INDEXING = 0x00
NEVER_INDEXED = 0x10

Field = tuple[str, str]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Any frame. `stream` may have the reserved bit set."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def data(stream: int, payload: bytes = b"", flags: int = END_STREAM) -> bytes:
    """DATA, by default the last."""
    return frame(DATA, flags, stream, payload)


def headers(stream: int, block: bytes, flags: int = COMPLETE) -> bytes:
    """HEADERS, by default a whole request."""
    return frame(HEADERS, flags, stream, block)


def continuation(stream: int, block: bytes = b"", flags: int = END_HEADERS) -> bytes:
    """CONTINUATION, by default the last."""
    return frame(CONTINUATION, flags, stream, block)


def priority(stream: int, depends_on: int = 0, weight: int = 15) -> bytes:
    """PRIORITY; the highest bit of `depends_on` makes it exclusive."""
    return frame(PRIORITY, 0, stream, priority_fields(depends_on, weight))


def priority_fields(depends_on: int = 0, weight: int = 15) -> bytes:
    """What a PRIORITY frame holds, and HEADERS with that flag begins with."""
    return struct.pack(">IB", depends_on, weight)


def rst_stream(stream: int, code: int = CANCEL) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def settings(*pairs: tuple[int, int]) -> bytes:
    """SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def ping(payload: bytes = b"compared", flags: int = 0) -> bytes:
    """PING."""
    return frame(PING, flags, 0, payload)


def goaway(code: int = NO_ERROR, last: int = 0, debug: bytes = b"") -> bytes:
    """GOAWAY."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + debug)


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def padded(payload: bytes, size: int, said: int | None = None) -> bytes:
    """A payload with padding, for the flag PADDED; `said` is the length it claims, if not its own."""
    return bytes([size if said is None else said]) + payload + bytes(size)


# Field blocks


def integer(value: int, prefix_bits: int, pattern: int = 0) -> bytes:
    """An integer (RFC 7541 §5.1) under the bits of a pattern."""
    octets = encode_integer(value, prefix_bits)
    octets[0] |= pattern
    return bytes(octets)


def string(text: bytes | str, *, huffman: bool = False) -> bytes:
    """A string literal (RFC 7541 §5.2); with `huffman`, `text` has been coded before."""
    octets = text.encode("latin-1") if isinstance(text, str) else text
    return integer(len(octets), 7, 0x80 if huffman else 0) + octets


def literal(name: str | int, value: str, kind: int = WITHOUT_INDEXING) -> bytes:
    """A literal field (RFC 7541 §6.2), its name as text or as an index."""
    prefix_bits = 6 if kind == INDEXED else 4
    named = integer(name, prefix_bits, kind) if isinstance(name, int) else bytes([kind]) + string(name)
    return named + string(value)


def indexed(index: int) -> bytes:
    """A field by its index alone (RFC 7541 §6.1)."""
    return integer(index, 7, 0x80)


def table_size(size: int) -> bytes:
    """A dynamic table size update (RFC 7541 §6.3)."""
    return integer(size, 5, 0x20)


def fields(*pairs: Field) -> bytes:
    """A block that leaves the dynamic table alone."""
    return b"".join(literal(*pair) for pair in pairs)


def pseudo(method: str = "GET", path: str = "/") -> list[Field]:
    """The pseudo-header fields of a request."""
    return [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]


def request(path: str = "/", *more: Field, method: str = "GET") -> bytes:
    """The block of a request."""
    return fields(*pseudo(method, path), *more)


GET = request()
POST = request("/echo", method="POST")


def get(stream: int, path: str = "/", *more: Field) -> bytes:
    """A whole GET request in one frame."""
    return headers(stream, request(path, *more))


def post(stream: int, *more: Field, path: str = "/echo") -> bytes:
    """The head of a POST request; its body is to follow."""
    return headers(stream, request(path, *more, method="POST"), END_HEADERS)
