"""WebSocket frames as a client sends them, as bytes (RFC 6455 §5.2), the wrong ones as well as the right ones."""

from __future__ import annotations

import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FINAL = 0x80
COMPRESSED = 0x40
MASKED = 0x80

# The example of RFC 6455 §1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x37\xfa\x21\x3d"


def handshake(*fields: str, target: str = "/") -> bytes:
    """The request that opens a WebSocket over HTTP/1.1."""
    lines = [
        f"GET {target} HTTP/1.1",
        "Host: test",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *fields,
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def frame(opcode: int, payload: bytes = b"", flags: int = FINAL, mask: bytes | None = MASK) -> bytes:
    """A frame; without a mask it is one that no client may send."""
    head = bytes([flags | opcode])
    masked = 0 if mask is None else MASKED
    if len(payload) < 126:
        head += bytes([masked | len(payload)])
    elif len(payload) < 1 << 16:
        head += bytes([masked | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([masked | 127]) + struct.pack(">Q", len(payload))
    if mask is None:
        return head + payload
    return head + mask + bytes(octet ^ mask[position % 4] for position, octet in enumerate(payload))


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """A Close frame; without a code its payload is the reason alone."""
    return frame(CLOSE, (b"" if code is None else struct.pack(">H", code)) + reason)
