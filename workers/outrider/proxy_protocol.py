"""PROXY protocol, versions 1 and 2, as a pure function over the first bytes of a connection.

It is meant for bytes that were peeked (MSG_PEEK): the caller then takes exactly `ProxyHeader.consumed` bytes
off the socket, so that TLS or HTTP starts at the byte after the header. The section numbers are those of
HAProxy's specification (proxy-protocol.txt).
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Literal

ProxyMode = Literal["off", "v1", "v2", "auto"]
Address = tuple[str, int]

MAX_V1_SIZE = 107
MAX_V2_SIZE = 16 + 0xFFFF

_MAX_PORT = 0xFFFF
_V1_PREFIX = b"PROXY "
_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED_SIZE = 16
_V2_COMMAND_AT = 12
_V2_TRANSPORT_AT = 13

# §2.1: single spaces, decimal ports without leading zeros. inet_pton checks the addresses.
_V1_TCP = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")
# What follows UNKNOWN is to be ignored; a control character in it would hide the start of something else.
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [\x20-\x7e]*)?")

_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_V2_UNSPEC, _V2_TCP4, _V2_TCP6, _V2_UNIX_STREAM = 0x00, 0x11, 0x21, 0x31
_V2_ADDRESS_SIZES = {_V2_UNSPEC: 0, _V2_TCP4: 12, _V2_TCP6: 36, _V2_UNIX_STREAM: 216}


class ProxyProtocolError(ValueError):
    """The bytes begin a PROXY header and break its rules; the connection must be closed (§2)."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A complete header of `consumed` bytes.

    `source` and `destination` are (host, port), or None where the header names no internet address (LOCAL,
    UNKNOWN, unspecified and unix): the connection's own addresses hold then.
    """

    consumed: int
    source: Address | None = None
    destination: Address | None = None


@dataclass(frozen=True, slots=True)
class NeedMore:
    """The bytes may be the start of a header; ask again when there are at least `size` in all."""

    size: int


@dataclass(frozen=True, slots=True)
class NotProxy:
    """The bytes cannot be the start of a header that `mode` admits."""


def parse(buffer: bytes, mode: ProxyMode) -> ProxyHeader | NeedMore | NotProxy:
    """Read the header at the start of `buffer`, which holds every byte received so far.

    Raises:
        ProxyProtocolError: the header is malformed.
    """
    if mode != "off":
        if mode != "v2" and _agree(buffer, _V1_PREFIX):
            return _parse_v1(buffer)
        if mode != "v1" and _agree(buffer, _V2_SIGNATURE):
            return _parse_v2(buffer)
    return NotProxy()


def _agree(buffer: bytes, prefix: bytes) -> bool:
    """Whether both are equal as far as both go."""
    return prefix.startswith(buffer[: len(prefix)])


def _parse_v1(buffer: bytes) -> ProxyHeader | NeedMore:
    end = buffer.find(b"\r\n", 0, MAX_V1_SIZE)
    if end < 0:
        if len(buffer) >= MAX_V1_SIZE:
            raise ProxyProtocolError(f"PROXY v1: no line end within {MAX_V1_SIZE} bytes")
        return NeedMore(len(buffer) + 1)
    line = buffer[:end]
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyHeader(end + 2)
    match = _V1_TCP.fullmatch(line)
    if match is None:
        raise ProxyProtocolError("PROXY v1: the line is not 'PROXY TCP4|TCP6 source destination port port'")
    version, source, destination, source_port, destination_port = match.groups()
    family = socket.AF_INET if version == b"4" else socket.AF_INET6
    return ProxyHeader(
        end + 2,
        _v1_address(family, source, source_port),
        _v1_address(family, destination, destination_port),
    )


def _v1_address(family: socket.AddressFamily, host: bytes, port: bytes) -> Address:
    try:
        packed = socket.inet_pton(family, host.decode("ascii"))
    except OSError as error:
        raise ProxyProtocolError("PROXY v1: an address is not one of its family") from error
    number = int(port)
    if number > _MAX_PORT:
        raise ProxyProtocolError("PROXY v1: a port is above 65535")
    return socket.inet_ntop(family, packed), number


def _parse_v2(buffer: bytes) -> ProxyHeader | NeedMore:
    # Each byte is judged as soon as it is there.
    command = buffer[_V2_COMMAND_AT] if len(buffer) > _V2_COMMAND_AT else _V2_PROXY
    if command not in (_V2_LOCAL, _V2_PROXY):
        raise ProxyProtocolError(f"PROXY v2: version and command are {command:#04x}, neither LOCAL nor PROXY")
    # §2.2: the family of a LOCAL header is ignored, any other that is not listed is refused.
    transport = _V2_UNSPEC
    if len(buffer) > _V2_TRANSPORT_AT and command == _V2_PROXY:
        transport = buffer[_V2_TRANSPORT_AT]
    if transport not in _V2_ADDRESS_SIZES:
        raise ProxyProtocolError(f"PROXY v2: family and transport are {transport:#04x}, not a stream")
    if len(buffer) < _V2_FIXED_SIZE:
        return NeedMore(_V2_FIXED_SIZE)
    size = int.from_bytes(buffer[14:16], "big")
    if size < _V2_ADDRESS_SIZES[transport]:
        raise ProxyProtocolError(f"PROXY v2: {size} bytes are too few for the addresses")
    consumed = _V2_FIXED_SIZE + size
    if len(buffer) < consumed:
        return NeedMore(consumed)
    if transport == _V2_TCP4:
        return ProxyHeader(consumed, *_v2_addresses(socket.AF_INET, 4, buffer))
    if transport == _V2_TCP6:
        return ProxyHeader(consumed, *_v2_addresses(socket.AF_INET6, 16, buffer))
    return ProxyHeader(consumed)


def _v2_addresses(family: socket.AddressFamily, width: int, buffer: bytes) -> tuple[Address, Address]:
    """Read source, destination and their ports. TLVs may follow (§2.2.1); nothing here needs them."""
    source = buffer[16 : 16 + width]
    destination = buffer[16 + width : 16 + 2 * width]
    ports = buffer[16 + 2 * width : 20 + 2 * width]
    return (
        (socket.inet_ntop(family, source), int.from_bytes(ports[:2], "big")),
        (socket.inet_ntop(family, destination), int.from_bytes(ports[2:], "big")),
    )
