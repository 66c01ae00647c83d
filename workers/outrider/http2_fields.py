"""Fields of an HTTP/2 response (RFC 9113 §8.2, §8.3.2): the application's, validated and in lower case, and ours.

What makes a field valid is decided in `http1_encoding`, for both versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from outrider.http1_encoding import encode_fields as encode_lines

if TYPE_CHECKING:
    from outrider.http1_encoding import DefaultHeaders, HeaderPair

_CACHED_SETS = 1024
_CACHED_SIZE = 1024
# What belongs to a connection of HTTP/1.1 (RFC 9113 §8.2.2), and encode_lines lets pass.
_OF_A_CONNECTION = frozenset((b"keep-alive", b"proxy-connection", b"te", b"upgrade"))

STATUS_FIELDS: dict[int, HeaderPair] = {status: (b":status", b"%d" % status) for status in range(100, 1000)}

# The application's fields, its Content-Length, False, and which of the server's own fields it gave: made like
# http1_encoding.EncodedFields, since a stream knows no version.
Fields = tuple[Any, int | None, bool, int]

_known_sets: dict[tuple[HeaderPair, ...], Fields] = {}
_known_set = _known_sets.get


def encode_fields(headers: Iterable[HeaderPair]) -> Fields:
    """Validate the application's response fields. Those of an HTTP/1.1 connection are dropped.

    Raises:
        InvalidResponse: a name that is no token, a CR, LF or NUL in a value, or unusable Content-Length.
    """
    headers = tuple(headers)
    try:
        known = _known_set(headers)
    except (TypeError, ValueError):  # a list instead of a tuple, or a writable buffer, is no dict key
        known = None
    return known or _encode(headers)


def _encode(headers: tuple[HeaderPair, ...]) -> Fields:
    lines, length, _, given = encode_lines(headers)
    fields = split_lines(lines), length, False, given
    # A memoryview may be a key as well, but would keep alive what it is a view of.
    if len(lines) <= _CACHED_SIZE and all(type(part) is bytes for header in headers for part in header):
        if len(_known_sets) >= _CACHED_SETS:
            _known_sets.clear()
        _known_sets[headers] = fields
    return fields


def split_lines(lines: bytes) -> tuple[HeaderPair, ...]:
    """Field lines of HTTP/1.1 as pairs in lower case, without those that belong to its connection."""
    pairs = (line.partition(b": ") for line in lines.split(b"\r\n") if line)
    fields = ((name.lower(), value) for name, _, value in pairs)
    return tuple(field for field in fields if field[0] not in _OF_A_CONNECTION)


class DefaultFields:
    """The server's own fields, as `DefaultHeaders` has them at this moment."""

    __slots__ = ("_defaults", "_endings", "_fields")

    def __init__(self, defaults: DefaultHeaders) -> None:
        self._defaults = defaults
        self._endings: list[bytes] = []
        self._fields: list[tuple[HeaderPair, ...]] = []

    def __getitem__(self, given: int) -> tuple[HeaderPair, ...]:
        """The fields to add to a response in which the application gave some of them itself."""
        endings = self._defaults.endings
        if endings is not self._endings:  # it was refreshed
            self._endings = endings
            self._fields = [split_lines(ending) for ending in endings]
        return self._fields[given]
