"""Read what a server wrote, as strictly as RFC 9112 lets a client."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) ([^\r\n]*)\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [^\r\n\x00]*\r\n)*)\r\n")
_TRAILERS = re.compile(rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [^\r\n\x00]*\r\n)*)\r\n")
_CHUNK = re.compile(rb"([0-9a-f]+)\r\n")


@dataclass(frozen=True)
class Answer:
    """One response; `complete` says that its end showed."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool
    trailers: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, name: str) -> str:
        """The value of a header that is there once."""
        (value,) = self.all(name)
        return value

    def __contains__(self, name: str) -> bool:
        """Whether a header is there."""
        return bool(self.all(name))

    def all(self, name: str) -> list[str]:
        """Every value of a header, whose name is given in lower case."""
        return [value for key, value in self.headers if key.lower() == name]

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        """Whether the server said that it is the last one."""
        return "close" in self.all("connection")


def parse_answers(data: bytes, *, closed: bool = False, methods: tuple[str, ...] = ()) -> list[Answer]:
    """Split the bytes of a connection into responses.

    Args:
        data: everything the server sent.
        closed: whether the connection has ended, which ends a body without framing.
        methods: of the requests in order; those that are missing are taken for GET.

    Raises:
        AssertionError: the bytes are no sequence of responses.
    """
    answers: list[Answer] = []
    final = 0
    while data:
        match = _HEAD.match(data)
        assert match, f"no response head: {data[:200]!r}"
        status = int(match[1])
        headers = _parse_fields(match[3])
        data = data[match.end() :]
        method = methods[final] if final < len(methods) else "GET"
        final += status >= 200
        head = Answer(status, match[2].decode(), headers, b"", complete=True)
        body, data, complete = _read_body(head, data, method)
        trailers: tuple[tuple[str, str], ...] = ()
        if complete and method != "HEAD" and status != 304 and "transfer-encoding" in head:
            match = _TRAILERS.match(data)
            assert match, f"no trailers: {data[:200]!r}"
            trailers = tuple(_parse_fields(match[1]))
            data = data[match.end() :]
        complete = complete or (closed and complete is None)
        answers.append(dataclasses.replace(head, body=body, complete=complete, trailers=trailers))
    return answers


def _parse_fields(lines: bytes) -> list[tuple[str, str]]:
    return [
        (name.decode(), value.decode("latin-1"))
        for name, value in (line.split(b": ", 1) for line in lines.split(b"\r\n")[:-1])
    ]


def _read_body(head: Answer, data: bytes, method: str) -> tuple[bytes, bytes, bool | None]:
    """Body, rest, and whether the body is complete; None if only the end of the connection can tell."""
    length = head.all("content-length")
    chunked = head.all("transfer-encoding")
    assert len(length) + len(chunked) <= 1, f"two framings in {head.headers}"
    if head.status < 200 or head.status == 204:
        assert not length, f"{head.status} must have no framing"
        assert not chunked, f"{head.status} must have no framing"
        return b"", data, True
    if head.status == 304 or method == "HEAD":
        return b"", data, True
    if chunked:
        assert chunked == ["chunked"]
        return _read_chunks(data)
    if length:
        size = int(length[0])
        return data[:size], data[size:], len(data) >= size
    return data, b"", None


def _read_chunks(data: bytes) -> tuple[bytes, bytes, bool]:
    body = b""
    while match := _CHUNK.match(data):
        size = int(match[1], 16)
        if size == 0:
            return (body, data[match.end() :], True) if b"\r\n\r\n" in data else (body, b"", False)
        chunk, end, rest = (
            data[match.end() :][:size],
            data[match.end() + size :][:2],
            data[match.end() + size + 2 :],
        )
        if end != b"\r\n":
            assert b"\r\n".startswith(end), f"a chunk without its end: {data[:100]!r}"
            return body + chunk, b"", False
        body += chunk
        data = rest
    assert not data, f"no chunk: {data[:100]!r}"
    return body, b"", False
