"""HTTP/2 messages, RFC 9113 §8: what is a request, and what is malformed."""

from __future__ import annotations

from outrider_testing import http2_frames as h2
from outrider_testing.http2_cases import (
    Answer,
    Case,
    Holds,
    Refused,
    Response,
    StreamFault,
    Told,
    parametrize,
    play,
)
from outrider_testing.http2_wire import Connect

MALFORMED = StreamFault(1, h2.PROTOCOL_ERROR)
METHOD, SCHEME, PATH, AUTHORITY = h2.pseudo()
TRAILERS = h2.headers(1, h2.fields(("x-checksum", "1")))


def asks(section: str, sends: str, fields: list[h2.Field], *allowed: Answer) -> Case:
    """A request without a body, on stream 1."""
    return Case(section, sends, [h2.headers(1, h2.fields(*fields))], *allowed)


def adds(section: str, sends: str, *more: h2.Field, allowed: Answer = MALFORMED) -> Case:
    """The same with some more fields; malformed, unless it says otherwise."""
    return asks(section, sends, [*h2.pseudo(path="/scope"), *more], allowed)


def posts(section: str, sends: str, length: str, *bodies: bytes, allowed: Answer = MALFORMED) -> Case:
    """A POST with a Content-Length; its last DATA ends it."""
    frames = [h2.data(1, body, 0) for body in bodies[:-1]] + [h2.data(1, bodies[-1])]
    return Case(section, sends, [h2.post(1, ("content-length", length)), *frames], allowed)


EXCHANGES = [
    Case("8.1", "GET", [h2.get(1)], Response(1, body=b"hello")),
    asks("8.1", "HEAD", h2.pseudo("HEAD"), Response(1, body=b"")),
    asks("8.1", "HEAD of a large response", h2.pseudo("HEAD", "/bulk?size=100000"), Response(1, body=b"")),
    Case("8.1", "POST", [h2.post(1), h2.data(1, b"body")], Response(1, body=b"body")),
    Case("8.1", "POST without a body", [h2.headers(1, h2.POST)], Response(1, body=b"")),
    Case("8.1", "POST that ends with an empty DATA", [h2.post(1), h2.data(1)], Response(1, body=b"")),
    Case("8.1", "trailers", [h2.post(1), h2.data(1, b"body", 0), TRAILERS], Response(1, body=b"body")),
    Case("8.1", "trailers without a body", [h2.post(1), TRAILERS], Response(1, body=b"")),
    Case("8.1", "trailers that do not end the stream",
         [h2.post(1), h2.data(1, b"body", 0), h2.headers(1, h2.fields(("x", "y")), h2.END_HEADERS)], MALFORMED),
    Case("8.1", "DATA after trailers", [h2.post(1), TRAILERS, h2.data(1, b"late")],
         StreamFault(1, h2.STREAM_CLOSED)),
    Case("8.1", "an unknown path", [h2.get(1, "/nowhere")], Response(1, 404)),
]  # fmt: skip

NAMES = {
    "in upper case": "X-Upper",
    "with one letter in upper case": "x-uppeR",
    "with a space": "x y",
    "that begins with a space": " x",
    "that ends with a space": "x ",
    "with a tab": "x\ty",
    "with a NUL": "x\0y",
    "with CR LF": "x\r\ny",
    "with DEL": "x\x7f",
    "with an octet beyond ASCII": "x\xe9",
    "with a colon": "x:y",
    "of no letters": "",
}
VALUES = {
    "with a NUL": "x\0y",
    "with LF": "x\ny",
    "with CR": "x\ry",
    "with CR LF and a field": "x\r\ny: z",
    "that begins with a space": " x",
    "that ends with a space": "x ",
    "that begins with a tab": "\tx",
    "that ends with a tab": "x\t",
}

FIELDS = [
    *(adds("8.2.1", f"a name {what}", (name, "value")) for what, name in NAMES.items()),
    *(adds("8.2.1", f"a value {what}", ("x-test", value)) for what, value in VALUES.items()),
    adds("8.2.1", "a value with a space, a tab, and octets beyond ASCII", ("x-test", "a b\tc\xe9"),
         allowed=Told(1, headers=[("x-test", "a b\tc\xe9")])),
    adds("8.2.1", "an empty value", ("x-test", ""), allowed=Told(1, headers=[("x-test", "")])),
    adds("8.2.1", "every mark that a name may have, except _, which header_map drops", ("x!#$%&'*+-.^`|~0", "y"),
         allowed=Told(1, headers=[("x!#$%&'*+-.^`|~0", "y")])),
    adds("8.2.1", "fields with the same name", ("x-test", "1"), ("x-other", "2"), ("x-test", "3"),
         allowed=Told(1, headers=[("x-test", "1"), ("x-test", "3")])),
    *(adds("8.2.2", name, (name, value)) for name, value in [
        ("connection", "close"), ("keep-alive", "timeout=1"), ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"), ("upgrade", "h2c")]),
    adds("8.2.2", "te that is not trailers", ("te", "trailers, deflate;q=0.5")),
    adds("8.2.2", "te trailers", ("te", "trailers"), allowed=Told(1)),
    adds("8.2.3", "cookie in crumbs", ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3"),
         allowed=Told(1, headers=[("cookie", "a=1; b=2; c=3")])),
    adds("8.2.3", "one cookie", ("cookie", "a=1; b=2"), allowed=Told(1, headers=[("cookie", "a=1; b=2")])),
]  # fmt: skip

PSEUDO_FIELDS = [
    adds("8.3", "an unknown pseudo-header field", (":test", "ok")),
    asks("8.3", "an unknown pseudo-header field first", [(":test", "ok"), *h2.pseudo()], MALFORMED),
    adds("8.3", "a response's pseudo-header field", (":status", "200")),
    asks("8.3", "a response's pseudo-header field first", [(":status", "200"), *h2.pseudo()], MALFORMED),
    asks("8.3", "a pseudo-header field after a field", [METHOD, SCHEME, AUTHORITY, ("x", "y"), PATH], MALFORMED),
    asks("8.3", "all pseudo-header fields after a field", [("x", "y"), *h2.pseudo()], MALFORMED),
    Case("8.3", "a pseudo-header field in trailers",
         [h2.post(1), h2.data(1, b"a", 0), h2.headers(1, h2.fields(METHOD))], MALFORMED),
    Case("8.3", "a response's pseudo-header field in trailers",
         [h2.post(1), h2.headers(1, h2.fields((":status", "200")))], MALFORMED),
    *(asks("8.3", f"two {pair[0]}", [*h2.pseudo(), pair], MALFORMED) for pair in h2.pseudo()),
    *(asks("8.3", f"two {pair[0]} together", [pair, *h2.pseudo()], MALFORMED) for pair in h2.pseudo()),
    *(asks("8.3.1", f"no {missing[0]}", [pair for pair in h2.pseudo() if pair != missing], MALFORMED)
      for missing in (METHOD, SCHEME, PATH)),
    asks("8.3.1", "nothing at all", [], MALFORMED),
    asks("8.3.1", "an empty :path", [METHOD, SCHEME, (":path", ""), AUTHORITY], MALFORMED),
    asks("8.3.1", "an empty :method", [(":method", ""), SCHEME, PATH, AUTHORITY], MALFORMED),
    asks("8.3.1", "an empty :scheme", [METHOD, (":scheme", ""), PATH, AUTHORITY], MALFORMED),
    asks("8.3.1", "a :path without a slash", [METHOD, SCHEME, (":path", "scope"), AUTHORITY], MALFORMED),
    asks("8.3.1", "a :path of an asterisk for GET", h2.pseudo("GET", "*"), MALFORMED),
    asks("8.3.1", "a :path of an asterisk for OPTIONS", h2.pseudo("OPTIONS", "*"), Response(1, 404)),
    asks("8.3.1", "a :path with a space", h2.pseudo("GET", "/a b"), MALFORMED, Refused(1)),
    asks("8.3.1", "a :path with CR LF", h2.pseudo("GET", "/\r\nx: y"), MALFORMED),
    asks("8.3.1", "a :method with a space", h2.pseudo("GET /x HTTP/1.1\r\nX:"), MALFORMED, Refused(1)),
    asks("8.3.1", "an :authority with a user",
         [METHOD, SCHEME, PATH, (":authority", "user@test")], MALFORMED, Refused(1)),
    asks("8.3.1", "an :authority with CR LF", [METHOD, SCHEME, PATH, (":authority", "test\r\nx: y")], MALFORMED),
    asks("8.3.1", "an :authority and a host that differ", [*h2.pseudo(), ("host", "other")], MALFORMED, Refused(1)),
    asks("8.3.1", "two hosts that differ", [METHOD, SCHEME, PATH, ("host", "a"), ("host", "b")], MALFORMED, Refused(1)),
    asks("8.3.1", "an :authority and the same host", [*h2.pseudo(path="/scope"), ("host", "test")],
         Told(1, headers=[("host", "test")])),
    asks("8.3.1", "an :authority", h2.pseudo(path="/scope"), Told(1, headers=[("host", "test")])),
    asks("8.3.1", "a host instead of an :authority", [METHOD, SCHEME, (":path", "/scope"), ("host", "instead")],
         Told(1, headers=[("host", "instead")])),
    asks("8.3.1", "a query", h2.pseudo(path="/scope?a=%20b&c"),
         Told(1, {"path": "/scope", "query": "a=%20b&c", "method": "GET", "version": "2"})),
]  # fmt: skip

LENGTHS = [
    posts("8.1.1", "Content-Length that agrees", "4", b"body", allowed=Response(1, body=b"body")),
    posts("8.1.1", "Content-Length that agrees with all pieces", "4", b"bo", b"", b"dy",
          allowed=Response(1, body=b"body")),
    posts("8.1.1", "Content-Length 0 and no body", "0", b"", allowed=Response(1, body=b"")),
    posts("8.1.1", "too small Content-Length", "3", b"body"),
    posts("8.1.1", "too small Content-Length for all pieces", "3", b"bo", b"dy"),
    posts("8.1.1", "too large Content-Length", "5", b"body"),
    posts("8.1.1", "too large Content-Length for all pieces", "5", b"bo", b"dy"),
    posts("8.1.1", "Content-Length for an empty DATA", "5", b""),
    posts("8.1.1", "Content-Length that is no number", "4a", b"body"),
    posts("8.1.1", "Content-Length with a sign", "+4", b"body"),
    posts("8.1.1", "negative Content-Length", "-1", b"body"),
    posts("8.1.1", "Content-Length with an underscore", "0_4", b"body"),
    posts("8.1.1", "Content-Length of two values", "4, 5", b"body"),
    Case("8.1.1", "Content-Length with HEADERS that end the stream",
         [h2.headers(1, h2.request("/echo", ("content-length", "5"), method="POST"))], MALFORMED),
    Case("8.1.1", "two different Content-Length",
         [h2.post(1, ("content-length", "4"), ("content-length", "5")), h2.data(1, b"body")], MALFORMED),
    Case("8.1.1", "Content-Length and trailers before the end of the body",
         [h2.post(1, ("content-length", "5")), h2.data(1, b"body", 0), TRAILERS], MALFORMED),
    Case("8.1.1", "Content-Length and trailers",
         [h2.post(1, ("content-length", "4")), h2.data(1, b"body", 0), TRAILERS], Response(1, body=b"body")),
]  # fmt: skip

CONNECT = [
    asks("8.5", "CONNECT", [(":method", "CONNECT"), AUTHORITY], MALFORMED, Refused(1)),
    asks("8.5", "CONNECT with a :path", [(":method", "CONNECT"), AUTHORITY, PATH], MALFORMED),
    asks("8.5", "CONNECT with a :scheme", [(":method", "CONNECT"), AUTHORITY, SCHEME], MALFORMED),
    asks("8.5", "CONNECT without an :authority", [(":method", "CONNECT")], MALFORMED),
    asks("RFC 8441 4", ":protocol without CONNECT", [*h2.pseudo(), (":protocol", "websocket")], MALFORMED),
    asks("RFC 8441 4", "extended CONNECT without a :scheme",
         [(":method", "CONNECT"), (":protocol", "websocket"), PATH, AUTHORITY], MALFORMED),
    asks("RFC 8441 4", "extended CONNECT without a :path",
         [(":method", "CONNECT"), (":protocol", "websocket"), SCHEME, AUTHORITY], MALFORMED),
    asks("RFC 8441 4", "extended CONNECT for an unknown protocol",
         [(":method", "CONNECT"), (":protocol", "telepathy"), SCHEME, PATH, AUTHORITY], Refused(1), MALFORMED),
]  # fmt: skip

RESPONSES = [
    Case("8.2.2", "a request to an application that answers with fields of HTTP/1.1",
         [h2.get(1, "/connection-fields")],
         Holds("fields of HTTP/2", lambda client: {name for name, _ in client.response(1).fields}.isdisjoint(
             {"connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"}))),
    Case("8.2.1", "a request to an application that answers with a name in upper case",
         [h2.get(1, "/connection-fields")],
         Holds("lower case", lambda client: all(name == name.lower() for name, _ in client.response(1).fields)
               and ("x-upper", "Case") in client.response(1).fields)),
    Case("8.3.2", "a request, to which the answer has :status and no other pseudo-header field", [h2.get(1)],
         Holds(":status alone", lambda client: [name for name, _ in client.response(1).fields if name[0] == ":"]
               == [":status"] and client.response(1).fields[0] == (":status", "200"))),
    Case("8.1", "Expect: 100-continue",
         [h2.post(1, ("expect", "100-continue")),
          lambda client: client.read_until(lambda: 1 in client.responses and client.responses[1].informational == [100],
                                           "100 Continue"),
          h2.data(1, b"body")], Response(1, body=b"body")),
]  # fmt: skip


@parametrize(EXCHANGES + FIELDS + PSEUDO_FIELDS + LENGTHS + CONNECT + RESPONSES)
def test_server_takes_message_as_specified(connect: Connect, case: Case) -> None:
    play(case, connect)
