from __future__ import annotations

import socket
from typing import Literal

import pytest

from outrider.proxy_protocol import (
    MAX_V1_SIZE,
    MAX_V2_SIZE,
    NeedMore,
    NotProxy,
    ProxyHeader,
    ProxyMode,
    ProxyProtocolError,
    parse,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UDP6, UNIX = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31
V6_SOURCE = "2001:db8::1"
V6_DESTINATION = "2001:db8::ff"
TLV = b"\x02\x00\x07example"  # PP2_TYPE_AUTHORITY


def v2(transport: int, payload: bytes, command: int = PROXY) -> bytes:
    return SIGNATURE + bytes((command, transport)) + len(payload).to_bytes(2, "big") + payload


def inet(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    ports = source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")
    return socket.inet_pton(family, source) + socket.inet_pton(family, destination) + ports


V1_TCP4 = b"PROXY TCP4 192.0.2.7 198.51.100.9 56324 443\r\n"
V2_TCP4 = v2(TCP4, inet("192.0.2.7", "198.51.100.9", 56324, 443))
V2_TCP6 = v2(TCP6, inet(V6_SOURCE, V6_DESTINATION, 1, 65535))
V4_ADDRESSES = (("192.0.2.7", 56324), ("198.51.100.9", 443))
V6_ADDRESSES = ((V6_SOURCE, 1), (V6_DESTINATION, 65535))
NOBODY = (None, None)

HEADERS = {
    "v1 TCP4": (V1_TCP4, V4_ADDRESSES),
    "v1 TCP6": (f"PROXY TCP6 {V6_SOURCE} 2001:DB8:0::FF 1 65535\r\n".encode(), V6_ADDRESSES),
    "v1 port zero": (b"PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n", (("1.2.3.4", 0), ("5.6.7.8", 0))),
    "v1 mapped": (
        b"PROXY TCP6 ::ffff:192.0.2.7 ::1 80 80\r\n",
        (("::ffff:192.0.2.7", 80), ("::1", 80)),
    ),
    "v1 longest TCP6": (
        b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
        ((":".join(["ffff"] * 8), 65535), (":".join(["ffff"] * 8), 65535)),
    ),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", NOBODY),
    "v1 UNKNOWN with addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", NOBODY),
    "v1 longest": (b"PROXY UNKNOWN ".ljust(MAX_V1_SIZE - 2, b"x") + b"\r\n", NOBODY),
    "v2 TCP4": (V2_TCP4, V4_ADDRESSES),
    "v2 TCP6": (V2_TCP6, V6_ADDRESSES),
    "v2 TCP4 with TLV": (v2(TCP4, inet("192.0.2.7", "198.51.100.9", 56324, 443) + TLV), V4_ADDRESSES),
    "v2 TCP6 with TLV": (v2(TCP6, inet(V6_SOURCE, V6_DESTINATION, 1, 65535) + TLV), V6_ADDRESSES),
    "v2 unspecified": (v2(UNSPEC, b""), NOBODY),
    "v2 unspecified with TLV": (v2(UNSPEC, TLV), NOBODY),
    "v2 unix": (v2(UNIX, b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")), NOBODY),
    "v2 LOCAL": (v2(UNSPEC, b"", LOCAL), NOBODY),
    "v2 LOCAL with family": (v2(TCP4, inet("1.1.1.1", "2.2.2.2", 1, 2), LOCAL), NOBODY),
    "v2 LOCAL with unknown family": (v2(0xEE, b"abc", LOCAL), NOBODY),
}


def mode_of(header: bytes) -> Literal["v1", "v2"]:
    return "v1" if header.startswith(b"PROXY") else "v2"


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("auto", [True, False])
def test_parser_reads_header_at_every_split(name: str, auto: bool) -> None:
    header, (source, destination) = HEADERS[name]
    mode: ProxyMode = "auto" if auto else mode_of(header)
    for size in range(len(header)):
        answer = parse(header[:size], mode)
        assert isinstance(answer, NeedMore)
        assert size < answer.size <= len(header)
    expected = ProxyHeader(len(header), source, destination)
    assert parse(header, mode) == expected
    assert parse(header + b"GET / HTTP/1.1\r\n\r\n", mode) == expected


def test_parser_reads_longest_v2_header() -> None:
    header = v2(TCP4, inet("192.0.2.7", "198.51.100.9", 56324, 443).ljust(0xFFFF, b"\0"))
    assert len(header) == MAX_V2_SIZE
    assert parse(header[:-1], "v2") == NeedMore(MAX_V2_SIZE)
    assert parse(header, "v2") == ProxyHeader(MAX_V2_SIZE, *V4_ADDRESSES)


@pytest.mark.parametrize("header", [V1_TCP4, V2_TCP4, b""])
def test_parser_that_is_off_sees_no_header(header: bytes) -> None:
    assert parse(header, "off") == NotProxy()


@pytest.mark.parametrize("header, mode", [(V1_TCP4, "v2"), (V2_TCP4, "v1")])
def test_parser_sees_no_header_of_other_version(header: bytes, mode: ProxyMode) -> None:
    assert parse(header, mode) == NotProxy()
    assert parse(header[:1], mode) == NotProxy()


@pytest.mark.parametrize(
    "start, decided_at",
    [
        (b"GET / HTTP/1.1\r\n", 1),
        (b"PROPFIND / HTTP/1.1\r\n", 4),
        (b"POST / HTTP/1.1\r\n", 2),
        (b"PROXYING / HTTP/1.1\r\n", 6),
        (b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n", 1),
        (b"\r\nGET / HTTP/1.1\r\n", 3),
        (b"\r\n\r\n\x00\r\nQUIT\r", 12),
        (b"\x16\x03\x01", 1),
    ],
)
def test_parser_decides_at_first_byte_that_differs(start: bytes, decided_at: int) -> None:
    answers = [parse(start[:size], "auto") for size in range(len(start) + 1)]
    assert all(isinstance(answer, NeedMore) for answer in answers[:decided_at])
    assert all(answer == NotProxy() for answer in answers[decided_at:])


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY ",
        b"PROXY TCP4",
        b"PROXY tcp4 1.1.1.1 2.2.2.2 1 2",
        b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2",
        b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2",
        b"PROXY  TCP4 1.1.1.1 2.2.2.2 1 2",
        b"PROXY TCP4 1.1.1.1  2.2.2.2 1 2",
        b"PROXY TCP4\t1.1.1.1 2.2.2.2 1 2",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 ",
        b"PROXY TCP4 1.1.1 2.2.2.2 1 2",
        b"PROXY TCP4 1.1.1.256 2.2.2.2 1 2",
        b"PROXY TCP4 1.1.1.01 2.2.2.2 1 2",
        b"PROXY TCP4 ::1 ::2 1 2",
        b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2",
        b"PROXY TCP6 ::1%eth0 ::2 1 2",
        b"PROXY TCP6 1::2::3 ::2 1 2",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 -1 2",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 +1 2",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1_0 2",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 1",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 999999",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 \u0662".encode(),
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\nGET / HTTP/1.1",
        b"PROXY UNKNOWN\nGET / HTTP/1.1",
        b"PROXY UNKNOWN a\x00b",
        b"PROXY UNKNOWNS",
    ],
)
def test_parser_refuses_malformed_v1_line(line: bytes) -> None:
    with pytest.raises(ProxyProtocolError, match=r"^PROXY v1: "):
        parse(line + b"\r\n", "auto")


def test_parser_refuses_v1_line_without_end() -> None:
    line = b"PROXY UNKNOWN ".ljust(MAX_V1_SIZE - 1, b"x")
    assert parse(line, "v1") == NeedMore(MAX_V1_SIZE)
    with pytest.raises(ProxyProtocolError, match="no line end within 107 bytes"):
        parse(line + b"\r", "v1")
    with pytest.raises(ProxyProtocolError, match="no line end within 107 bytes"):
        parse(line + b"\r\n", "v1")


@pytest.mark.parametrize("command", [0x00, 0x11, 0x22, 0x2F, 0x31])
def test_parser_refuses_v2_version_and_command_at_their_byte(command: int) -> None:
    with pytest.raises(ProxyProtocolError, match="neither LOCAL nor PROXY"):
        parse(SIGNATURE + bytes((command,)), "auto")


@pytest.mark.parametrize("transport", [UDP4, UDP6, 0x32, 0x01, 0x10, 0x13, 0x30, 0x41])
def test_parser_refuses_v2_transport_at_its_byte(transport: int) -> None:
    with pytest.raises(ProxyProtocolError, match="not a stream"):
        parse(SIGNATURE + bytes((PROXY, transport)), "auto")


@pytest.mark.parametrize("transport, size", [(TCP4, 11), (TCP6, 35), (UNIX, 215)])
def test_parser_refuses_v2_addresses_that_are_cut_short(transport: int, size: int) -> None:
    with pytest.raises(ProxyProtocolError, match=f"{size} bytes are too few"):
        parse(v2(transport, b"\0" * size)[:16], "auto")
