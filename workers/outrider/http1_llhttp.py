"""What llhttp (httptools) does and says, in our terms: its errors, the bodies it will not read, the bytes it leaves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import httptools

from outrider.http1_head import METHODS
from outrider.http1_rules import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

UNDERSCORE, TAB = b"_\t"
_REQUEST_LINE = re.compile(rb"(?:\r\n)*([!#$%&'*+\-.^_`|~0-9A-Za-z]+) \S+ HTTP/\d\.\d\r\n")


class BodyReader(Protocol):
    """Whatever takes a request body from a parser."""

    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class _BodyEvents:
    """The callbacks of a parser that reads only a body, its head having been parsed by another."""

    __slots__ = ("on_body", "on_message_complete")

    def __init__(self, reader: BodyReader) -> None:
        self.on_body: Callable[[bytes], None] = reader.on_body
        self.on_message_complete: Callable[[], None] = reader.on_message_complete


def body_parser(reader: BodyReader, framing: bytes) -> httptools.HttpRequestParser:
    """Make a parser that stands before a body with this framing: Content-Length or Transfer-Encoding lines.

    llhttp stops behind the head of a request with Upgrade, so that another must read its body.
    """
    parser = httptools.HttpRequestParser(_BodyEvents(reader))
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: body\r\n%b\r\n" % framing)
    return parser


def is_odd(head: bytes) -> bool:
    """Whether a name may hold an underscore or a value end in white space: then `interpret` looks at each field."""
    # Single bytes by number, because `in` is several times slower for a byte string.
    return UNDERSCORE in head or TAB in head or head.find(b" \r\n") >= 0


def bad_request(error: Exception, data: bytes) -> BadRequest:
    """The refusal that a parser error stands for.

    Raises:
        BaseException: whatever a callback of ours raised by mistake.
    """
    if isinstance(error, httptools.HttpParserCallbackError):
        cause = error.__context__
        if isinstance(cause, BadRequest):
            return cause
        raise cause or error
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        line = _REQUEST_LINE.match(data)
        # A method that is known began `data`: the parser stopped at a later request.
        if line is not None and line[1] not in METHODS:
            return BadRequest(501, "an unknown method")
    if str(error) == "Invalid HTTP version":
        return BadRequest(505, "an HTTP version other than 1.0 and 1.1")
    if str(error) == "Pause on PRI/Upgrade":
        return BadRequest(
            400, "HTTP/2, which this connection does not speak; without TLS see http2_cleartext and forwarded_allow_ips"
        )
    return BadRequest(400, str(error))
