"""Request heads to ASGI scopes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httptools
import pytest

from outrider.http1_head import interpret
from outrider.http1_rules import BadRequest
from outrider.runtime import (
    DRAIN_STATE_KEY,
    EXPECTS_CONTINUE,
    HEAD,
    HTTP10,
    HTTP_EXTENSIONS,
    PERSISTENT,
    UPGRADE,
    ConnectionContext,
    Scope,
)
from outrider_testing.fakes import ManualLoop, constant, make_context, make_runtime
from outrider_testing.fakes.runtime import CLIENT, SERVER

Read = tuple[Scope, int]


class Reader:
    """Collects a head as the connection does, and interprets it."""

    def __init__(self, context: ConnectionContext, *, odd: bool) -> None:
        self._context = context
        self._odd = odd
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self.parser = httptools.HttpRequestParser(self)
        self.result: Read | BadRequest | None = None

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        try:
            self.result = interpret(self._context, self.parser, self._url, self._headers, self._odd)
        except BadRequest as error:
            self.result = error


def read(loop: ManualLoop, head: bytes, *, odd: bool = True, trusted: bool = False, **config: Any) -> Read | BadRequest:
    runtime = make_runtime(loop, constant(), **config)
    reader = Reader(make_context(runtime, trusted_proxy=trusted), odd=odd)
    with suppress(httptools.HttpParserUpgrade):
        reader.parser.feed_data(head)
    assert reader.result is not None, "the head is not complete"
    return reader.result


def accepted(loop: ManualLoop, head: bytes, **how: Any) -> Read:
    result = read(loop, head, **how)
    assert not isinstance(result, BadRequest), result
    return result


def refused(loop: ManualLoop, head: bytes, **how: Any) -> int:
    result = read(loop, head, **how)
    assert isinstance(result, BadRequest), result
    return result.status


def get(
    *lines: bytes, target: bytes = b"/", method: bytes = b"GET", version: bytes = b"1.1", host: bool = True
) -> bytes:
    first = b"%b %b HTTP/%b" % (method, target, version)
    return b"\r\n".join([first, *([b"Host: a"] if host else []), *lines, b"", b""])


# -- the scope


@pytest.mark.parametrize("odd", [False, True])
def test_scope_says_what_was_asked(loop: ManualLoop, odd: bool) -> None:
    scope, flags = accepted(loop, get(b"Accept: x", b"accept: y", target=b"/a%20b?c=%20"), odd=odd)
    state = scope.pop("state")
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c=%20",
        "root_path": "",
        "headers": [(b"host", b"a"), (b"accept", b"x"), (b"accept", b"y")],
        "client": CLIENT,
        "server": SERVER,
        "extensions": HTTP_EXTENSIONS,
    }
    assert DRAIN_STATE_KEY in state
    assert flags == PERSISTENT


def test_scope_of_each_request_is_its_own(loop: ManualLoop) -> None:
    context = make_context(make_runtime(loop, constant()))
    context.runtime.state["pool"] = pool = object()
    scopes = []
    for _ in range(2):
        reader = Reader(context, odd=False)
        reader.parser.feed_data(get())
        assert isinstance(reader.result, tuple)
        scopes.append(reader.result[0])
    assert scopes[0]["state"] is not scopes[1]["state"]
    assert scopes[0]["state"]["pool"] is scopes[1]["state"]["pool"] is pool
    assert scopes[0]["asgi"] is not scopes[1]["asgi"]
    assert scopes[0]["headers"] is not scopes[1]["headers"]
    assert scopes[0]["extensions"] is not scopes[1]["extensions"]


def test_http10_has_no_trailers_and_no_hints(loop: ManualLoop) -> None:
    scope, _ = accepted(loop, get(version=b"1.0"))
    assert scope["extensions"] == {"http.response.pathsend": {}, "http.response.zerocopysend": {}}
    assert accepted(loop, get())[0]["extensions"] == HTTP_EXTENSIONS


def test_debug_extension_is_there_where_it_was_asked_for(loop: ManualLoop) -> None:
    scope, _ = accepted(loop, get(), debug_extension=True)
    assert scope["extensions"] == HTTP_EXTENSIONS | {"http.response.debug": {}}


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH"])
def test_scope_has_the_method(loop: ManualLoop, method: str) -> None:
    scope, flags = accepted(loop, get(method=method.encode()))
    assert scope["method"] == method
    assert flags == PERSISTENT | (HEAD if method == "HEAD" else 0)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_scope_has_the_version(loop: ManualLoop, version: str) -> None:
    assert accepted(loop, get(version=version.encode()))[0]["http_version"] == version


def test_root_path_comes_before_the_path(loop: ManualLoop) -> None:
    scope, _ = accepted(loop, get(target=b"/a%20b"), root_path="/api")
    assert scope["root_path"] == "/api"
    assert scope["path"] == "/api/a b"
    assert scope["raw_path"] == b"/api/a%20b"


def test_asterisk_is_no_path_below_the_root_path(loop: ManualLoop) -> None:
    scope, _ = accepted(loop, get(method=b"OPTIONS", target=b"*"), root_path="/api")
    assert scope["path"] == "*"
    assert scope["raw_path"] == b"*"


def test_authority_of_the_target_replaces_host(loop: ManualLoop) -> None:
    scope, _ = accepted(loop, get(b"X: y", target=b"http://b:80/c?d"))
    assert scope["headers"] == [(b"host", b"b:80"), (b"x", b"y")]
    assert scope["path"] == "/c"
    assert scope["query_string"] == b"d"


# -- version and persistence


@pytest.mark.parametrize(
    "head, flags",
    [
        (get(b"Connection: close"), 0),
        (get(b"Connection: keep-alive, close"), 0),
        (get(b"Connection: close\t"), 0),
        (get(b"Connection: keep-alive"), PERSISTENT),
        (get(version=b"1.0"), HTTP10),
        (get(b"Connection: keep-alive", version=b"1.0"), PERSISTENT | HTTP10),
        (get(b"Connection: keep-alive, Close", version=b"1.0"), HTTP10),
        (get(b"Connection: close", b"Connection: keep-alive", version=b"1.0"), HTTP10),
        (get(b"Connection: upgrade", b"Upgrade: x"), PERSISTENT | UPGRADE),
        (get(b"Upgrade: x"), PERSISTENT),
        (get(b"Expect: 100-continue"), PERSISTENT | EXPECTS_CONTINUE),
        (get(b"Expect: 100-continue", version=b"1.0"), HTTP10),
        (get(b"Expect: x", version=b"1.0"), HTTP10),
        (get(b"Transfer-Encoding: chunked"), PERSISTENT),
    ],
)
def test_flags_say_what_is_special(loop: ManualLoop, head: bytes, flags: int) -> None:
    scope, seen = accepted(loop, head)
    assert seen == flags
    assert scope["http_version"] == ("1.0" if flags & HTTP10 else "1.1")


def test_keepalive_of_zero_makes_no_request_persistent(loop: ManualLoop) -> None:
    assert accepted(loop, get(), keepalive=0)[1] == 0
    assert accepted(loop, get(b"Connection: keep-alive"), keepalive=0)[1] == 0


@pytest.mark.parametrize("version", [b"2.0", b"0.9"])
@pytest.mark.parametrize("lines", [[], [b"Connection: keep-alive"]])
def test_other_version_is_refused(loop: ManualLoop, version: bytes, lines: list[bytes]) -> None:
    assert refused(loop, get(*lines, version=version)) == 505


# -- what is refused


@pytest.mark.parametrize(
    "head, status",
    [
        (get(host=False), 400),
        (get(b"Host:", host=False), 400),
        (get(b"Host: u@a", host=False), 400),
        (get(b"Host: a"), 400),
        (get(b"HOST: b"), 400),
        (get(b"Host:", host=False, version=b"1.0"), 400),
        (get(host=False, target=b"http://b/"), 400),
        (get(b"Host: c", target=b"http://b/"), 400),
        (get(b"Content-Type: x", b"Content-Type: x"), 400),
        (get(target=b"http://u@b/"), 400),
        (get(target=b"*"), 400),
        (get(b"Expect: x"), 417),
        (get(b"Transfer-Encoding: gzip, chunked"), 501),
        (get(b"Transfer-Encoding: chunked", version=b"1.0"), 400),
        (get(b"Transfer-Encoding: chunked", b"Connection: keep-alive", version=b"1.0"), 400),
        (get(method=b"CONNECT", target=b"a:443"), 501),
        (get(method=b"SOURCE"), 501),
    ],
)
def test_unusable_head_is_refused(loop: ManualLoop, head: bytes, status: int) -> None:
    assert refused(loop, head) == status


@pytest.mark.parametrize("version, lines", [(b"1.0", []), (b"1.0", [b"Connection: keep-alive"])])
def test_http10_needs_no_host(loop: ManualLoop, version: bytes, lines: list[bytes]) -> None:
    assert accepted(loop, get(*lines, host=False, version=version))[0]["headers"][:1] != [(b"host", b"a")]


def test_too_many_fields_are_refused(loop: ManualLoop) -> None:
    assert refused(loop, get(b"X: y"), odd=False, limit_request_fields=1) == 431
    accepted(loop, get(b"X: y"), limit_request_fields=2)


def test_long_request_line_is_refused(loop: ManualLoop) -> None:
    size = len(b"GET / HTTP/1.1")
    assert refused(loop, get(), limit_request_line=size - 1) == 414
    accepted(loop, get(), limit_request_line=size)
    accepted(loop, get(target=b"/" + b"x" * 10_000), limit_request_line=0)


def test_long_field_is_refused(loop: ManualLoop) -> None:
    assert refused(loop, get(b"X: yyyyyyy"), limit_request_field_size=11) == 431
    accepted(loop, get(b"X: yyyyyyy"), limit_request_field_size=12)


# -- what is taken out of fields


def test_white_space_around_values_is_taken_off(loop: ManualLoop) -> None:
    scope, _ = accepted(loop, b"GET / HTTP/1.1\r\nHost: \ta \t\r\nX:\ty z \t \r\nY: \t \r\n\r\n")
    assert scope["headers"] == [(b"host", b"a"), (b"x", b"y z"), (b"y", b"")]


def test_underscores_follow_header_map(loop: ManualLoop) -> None:
    head = get(b"X_Y: 1", b"Script_Name: /x")
    for policy, trusted, names in (
        ("drop", False, [b"host"]),
        ("drop", True, [b"host", b"script_name"]),
        ("dangerous", False, [b"host", b"x_y", b"script_name"]),
    ):
        scope, _ = accepted(loop, head, header_map=policy, trusted=trusted)
        assert [name for name, _ in scope["headers"]] == names
    assert refused(loop, head, header_map="refuse") == 400


# -- proxies


def test_trusted_proxy_tells_client_and_scheme(loop: ManualLoop) -> None:
    head = get(b"X-Forwarded-For: 198.51.100.9", b"X-Forwarded-Proto: https")
    scope, _ = accepted(loop, head, trusted=True)
    assert scope["client"] == CLIENT  # 192.0.2.7 is not in forwarded_allow_ips
    assert scope["scheme"] == "https"


def test_trusted_proxy_tells_the_client(loop: ManualLoop) -> None:
    runtime = make_runtime(loop, constant())
    context = make_context(runtime, client=("127.0.0.1", 5), trusted_proxy=True)
    reader = Reader(context, odd=False)
    reader.parser.feed_data(get(b"X-Forwarded-For: 203.0.113.1", b"X-Forwarded-For: 198.51.100.9, 127.0.0.1"))
    assert isinstance(reader.result, tuple)
    assert reader.result[0]["client"] == ("198.51.100.9", 0)
    assert reader.result[0]["scheme"] == "http"


def test_trusted_proxy_without_its_headers_changes_nothing(loop: ManualLoop) -> None:
    scope, _ = accepted(loop, get(b"Connection: keep-alive"), trusted=True)
    assert scope["client"] == CLIENT
    assert scope["scheme"] == "http"


def test_contradiction_of_a_trusted_proxy_is_refused(loop: ManualLoop) -> None:
    assert refused(loop, get(b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off"), trusted=True) == 400


def test_headers_of_an_untrusted_proxy_are_only_headers(loop: ManualLoop) -> None:
    scope, _ = accepted(loop, get(b"X-Forwarded-For: 198.51.100.9", b"X-Forwarded-Proto: https"))
    assert scope["client"] == CLIENT
    assert scope["scheme"] == "http"
    assert (b"x-forwarded-proto", b"https") in scope["headers"]
