"""Bytes of an HTTP/1.1 response head (RFC 9112 §4, RFC 9110 §5.5, §6.6).

Everything that repeats is computed once: status lines at import, header lines in a bounded cache that only ever
holds validated lines, the Server and Date lines once a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from enum import IntEnum
from http import HTTPStatus
from typing import Any

HeaderPair = tuple[bytes, bytes]

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN_IN_VALUE = re.compile(rb"[\r\n\x00]")
_CACHED_LINES = 4096
_CACHED_LINE_SIZE = 256
_CACHED_BLOCKS = 1024
_CACHED_BLOCK_SIZE = 1024


def status_line(status: int) -> bytes:
    """The status line for a status code, with the registered reason phrase or an empty one."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


STATUS_LINES: dict[int, bytes] = {status: status_line(status) for status in range(100, 1000)}


class Kind(IntEnum):
    """What a response header means to the server. Values from SERVER on are bits for `DefaultHeaders`."""

    ORDINARY = 0
    SERVER = 1
    DATE = 2
    CONTENT_LENGTH = 4
    CONNECTION = 5
    TRANSFER_ENCODING = 6


_KINDS = {
    b"server": Kind.SERVER,
    b"date": Kind.DATE,
    b"content-length": Kind.CONTENT_LENGTH,
    b"connection": Kind.CONNECTION,
    b"transfer-encoding": Kind.TRANSFER_ENCODING,
}


class SpecialLine(bytes):
    """A validated header line that says something about the message.

    `meaning` is its `Kind` and a number: the length for Content-Length, 1 for a Connection that asks to close.
    """

    meaning: tuple[int, int]


# The application's header lines, its Content-Length, whether it asks to close, and which of the server's own
# headers it gave. A plain tuple, since one is made for every response.
EncodedFields = tuple[bytes, int | None, bool, int]


class InvalidResponse(RuntimeError):
    """The application sent a response that may not go on the wire; the message says which part."""


def wrong_length(left: int) -> str:
    """How a body misses its Content-Length, for the message of an `InvalidResponse`: `left` bytes, maybe negative."""
    how = "longer" if left < 0 else "shorter"
    return f"the response body is {abs(left)} bytes {how} than its Content-Length"


# Validated headers and their lines. A plain dictionary, because its `get` then runs in C for each header.
_lines: dict[HeaderPair, bytes] = {}
_known_line = _lines.get
# Whole responses' headers, kept once each of their lines is a known one: most applications send the same few sets.
_blocks: dict[tuple[HeaderPair, ...], EncodedFields] = {}
_known_block = _blocks.get
# Module names, because reaching through the Enum class costs a lookup on every header.
_DATE, _CONTENT_LENGTH, _CONNECTION = int(Kind.DATE), int(Kind.CONTENT_LENGTH), int(Kind.CONNECTION)


def encode_fields(headers: Iterable[HeaderPair]) -> EncodedFields:
    """Encode and validate the application's response headers.

    Connection and Transfer-Encoding are dropped: the server frames the message (RFC 9112 §6); a `close` option in
    Connection is honoured.

    Raises:
        InvalidResponse: a name that is no token, a CR, LF or NUL in a value, or unusable Content-Length.
    """
    headers = tuple(headers)
    try:
        known = _known_block(headers)
    except (TypeError, ValueError):  # a list instead of a tuple, or a writable buffer, is no dict key
        known = None
    return known or _encode_block(headers)


def _encode_block(headers: tuple[HeaderPair, ...]) -> EncodedFields:
    lines = []
    length = None
    close = False
    given = 0
    dropped = False
    repeats = True
    for header in headers:
        try:
            line = _known_line(header)
        except (TypeError, ValueError):
            line = None
        if line is None:
            repeats = False
            line = _encode_line(header)
        lines.append(line)
        if type(line) is SpecialLine:
            kind, number = line.meaning
            if kind == _CONTENT_LENGTH:
                if length not in (None, number):
                    raise InvalidResponse("the response has two Content-Length headers that differ")
                dropped = dropped or length is not None
                length = number
            elif kind <= _DATE:
                given |= kind
            else:
                dropped = True
                close = close or (kind == _CONNECTION and number == 1)
    fields = b"".join(_without_dropped(lines) if dropped else lines), length, close, given
    if repeats:
        _keep_block(headers, fields)
    return fields


def _keep_block(headers: tuple[HeaderPair, ...], fields: EncodedFields) -> None:
    # A memoryview may be a key as well, but would keep alive what it is a view of.
    plain = all(type(part) is bytes for header in headers for part in header)
    if plain and len(fields[0]) <= _CACHED_BLOCK_SIZE:
        if len(_blocks) >= _CACHED_BLOCKS:
            _blocks.clear()
        _blocks[headers] = fields


def _without_dropped(lines: list[bytes]) -> list[bytes]:
    """Leave out Connection, Transfer-Encoding, and the repetition of an equal Content-Length."""
    kept: list[bytes] = []
    seen_length = False
    for line in lines:
        kind = line.meaning[0] if isinstance(line, SpecialLine) else Kind.ORDINARY
        is_repeated = kind == _CONTENT_LENGTH and seen_length
        seen_length = seen_length or kind == _CONTENT_LENGTH
        if kind <= _CONTENT_LENGTH and not is_repeated:
            kept.append(line)
    return kept


def _encode_line(header: Sequence[Any]) -> bytes:
    try:
        name, value = (bytes(memoryview(part)) for part in header)
    except (TypeError, ValueError):
        raise InvalidResponse(f"a response header must be a pair of byte strings, not {header!r}") from None
    if not _TOKEN.fullmatch(name):
        raise InvalidResponse(f"the response header name {name!r} is not a token (RFC 9110 §5.1)")
    if _FORBIDDEN_IN_VALUE.search(value):
        raise InvalidResponse(f"the value of response header {name!r} contains CR, LF or NUL (RFC 9110 §5.5)")
    line = b"%b: %b\r\n" % (name, value.strip(b" \t"))
    kind = _KINDS.get(name.lower(), Kind.ORDINARY)
    if kind is not Kind.ORDINARY:
        line = SpecialLine(line)
        line.meaning = (int(kind), _number_in(kind, value))
    if len(line) <= _CACHED_LINE_SIZE:
        if len(_lines) >= _CACHED_LINES:
            _lines.clear()
        _lines[name, value] = line
    return line


def _number_in(kind: Kind, value: bytes) -> int:
    if kind is Kind.CONTENT_LENGTH:
        return _content_length(value)
    return int(kind is Kind.CONNECTION and b"close" in [option.strip() for option in value.lower().split(b",")])


def _content_length(value: bytes) -> int:
    if not value.isdigit():
        raise InvalidResponse(f"the response has Content-Length {value!r}, which is not a number")
    return int(value)


class DefaultHeaders:
    """The lines the server adds unless the application sent its own: configured ones, Server and Date.

    `endings[given]`, indexed by the `Kind.SERVER | Kind.DATE` bits the application gave, is the end of a head: the
    lines to add and the empty line.
    """

    __slots__ = ("_date", "_extra", "_server", "endings")

    def __init__(self, *, server: bool, date: bool, extra: Iterable[HeaderPair]) -> None:
        self._extra, _, _, given = encode_fields(extra)
        self._server = server and not given & Kind.SERVER
        self._date = date and not given & Kind.DATE
        self.endings: list[bytes] = []
        self.refresh(0)

    def refresh(self, unix_time: float) -> None:
        """Recompute the Date line (RFC 9110 §6.6.1); called once a second."""
        server = b"server: outrider\r\n" if self._server else b""
        date = b"date: %b\r\n" % formatdate(unix_time, usegmt=True).encode("ascii") if self._date else b""
        extra = self._extra
        self.endings = [b"%b%b\r\n" % (extra, lines) for lines in (server + date, date, server, b"")]
