"""What the values of Outrider's settings may be.

Each function takes what a configuration file, an environment variable or a flag gave. It returns the value,
or raises ValueError with the words that follow "must be".
"""

from __future__ import annotations

import math
import re

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_PATH = re.compile(r"/[!-~]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN_IN_VALUE = re.compile(r"[\r\n\x00]")
# RFC 9112 §6, RFC 9110 §7.6.1: where a message ends and what becomes of its connection, the server says.
_FRAMING = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})


def seconds(value: object) -> float:
    """Validate a time."""
    try:
        number = float(value) if isinstance(value, int | float | str) else -1
    except (ValueError, OverflowError):
        number = -1
    if isinstance(value, bool) or not math.isfinite(number) or number < 0:
        raise ValueError("a number of seconds, 0 or more")
    return number


def log_format(value: object) -> str:
    """Validate how the lines of a log look."""
    if value in ("auto", "text", "json"):
        return str(value)
    raise ValueError("auto, text or json")


def count(value: object) -> int:
    """Validate a whole number."""
    try:
        number = int(value) if isinstance(value, int | str) else -1
    except ValueError:
        number = -1
    if isinstance(value, bool) or number < 0:
        raise ValueError("a whole number, 0 or more")
    return number


def boolean(value: object) -> bool:
    """Validate a switch."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("true or false (also yes/no, on/off, 1/0)")


class Secret(str):
    """A string that is not shown: gunicorn prints its whole configuration with `--print-config` and when debugging."""

    __slots__ = ()

    def __str__(self) -> str:
        return "***" if self else ""

    __repr__ = __str__


def secret(value: object) -> Secret:
    """Validate a password."""
    if isinstance(value, str):
        return Secret(value)
    raise ValueError("a string")


def certificates(value: object) -> tuple[tuple[str, str], ...]:
    """Validate certificate files, each with the file of its key, which may be the same."""
    entries = value.splitlines() if isinstance(value, str) else value
    if isinstance(entries, list | tuple):
        return tuple(_certificate(entry) for entry in entries)
    raise ValueError('a list of "CERTFILE" or "CERTFILE,KEYFILE" strings, or of pairs')


def _certificate(entry: object) -> tuple[str, str]:
    paths = tuple(entry.split(",")) if isinstance(entry, str) else entry
    if isinstance(paths, list | tuple) and len(paths) in (1, 2):
        certfile, keyfile = paths[0], paths[-1]
        if isinstance(certfile, str) and isinstance(keyfile, str) and certfile and keyfile:
            return certfile, keyfile
    raise ValueError(f'a list of "CERTFILE" or "CERTFILE,KEYFILE" strings, or of pairs, which {entry!r} is not')


def probe_path(value: object) -> str:
    """Validate a path, with or without a query."""
    if value == "" or (isinstance(value, str) and _PATH.fullmatch(value) and "#" not in value):
        return str(value)
    raise ValueError("empty or a path that starts with / and is percent-encoded")


def response_headers(value: object) -> tuple[tuple[bytes, bytes], ...]:
    """Validate header lines: a list of them, or a string with one a line."""
    lines = value.splitlines() if isinstance(value, str) else value
    if isinstance(lines, list | tuple):
        return tuple(_header(line) for line in lines)
    raise ValueError('a list of "Name: value" strings')


def _header(line: object) -> tuple[bytes, bytes]:
    if not isinstance(line, str) or ":" not in line:
        raise ValueError(f'a list of "Name: value" strings, which {line!r} is not')
    name, _, content = line.partition(":")
    content = content.strip(" \t")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"headers whose name is a token (RFC 9110 §5.1), which {name!r} is not")
    if name.lower() in _FRAMING:
        raise ValueError(f"headers other than {name}, which the server itself decides on")
    if _FORBIDDEN_IN_VALUE.search(content):
        raise ValueError(f"headers without CR, LF or NUL, which are in {line!r}")
    try:
        return name.encode("ascii"), content.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"headers of Latin-1 characters, which {line!r} is not") from None
