"""Header fields of HTTP/2 requests to ASGI scopes."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.http1_rules import BadRequest
from outrider.http2_head import Malformed, interpret
from outrider.runtime import DRAIN_STATE_KEY, EXPECTS_CONTINUE, HEAD, Scope
from outrider_testing.fakes import ManualLoop, constant, make_context, make_runtime
from outrider_testing.fakes.runtime import CLIENT, SERVER

HeaderPair = tuple[bytes, bytes]
GET: tuple[HeaderPair, ...] = (
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"a.example:8443"),
    (b":path", b"/a%20b?c=d"),
)


def read(
    loop: ManualLoop, headers: tuple[HeaderPair, ...], *, trusted: bool = False, tls: Any = None, **config: Any
) -> tuple[Scope, int, bytes | None]:
    context = make_context(make_runtime(loop, constant(), **config), trusted_proxy=trusted)
    template = {**context.scope_template, "http_version": "2"}
    if tls is not None:
        template["extensions"] = template["extensions"] | {"tls": tls}
    return interpret(context, template, headers)


def headers_of(loop: ManualLoop, *headers: HeaderPair, **config: Any) -> list[HeaderPair]:
    fields: list[HeaderPair] = read(loop, (*GET, *headers), **config)[0]["headers"]
    return fields


def test_request_becomes_a_complete_scope(loop: ManualLoop) -> None:
    scope, flags, protocol = read(loop, (*GET, (b"accept", b"*/*")))
    extensions = scope.pop("extensions")
    assert set(extensions) >= {"http.response.trailers", "http.response.early_hint"}
    assert scope.pop("state").keys() == {DRAIN_STATE_KEY}
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "2",
        "method": "GET",
        "scheme": "http",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c=d",
        "root_path": "",
        "headers": [(b"host", b"a.example:8443"), (b"accept", b"*/*")],
        "client": CLIENT,
        "server": SERVER,
    }
    assert (flags, protocol) == (0, None)


def test_requests_of_a_connection_share_nothing_that_an_app_may_change(loop: ManualLoop) -> None:
    context = make_context(make_runtime(loop, constant()))
    template = {**context.scope_template, "http_version": "2"}
    first, second = (interpret(context, template, GET)[0] for _ in range(2))
    for name in ("asgi", "headers", "state", "extensions"):
        assert first[name] is not second[name]


@pytest.mark.parametrize("method, flags", [(b"HEAD", HEAD), (b"POST", 0), (b"PROPFIND", 0)])
def test_method_is_told(loop: ManualLoop, method: bytes, flags: int) -> None:
    scope, found, _ = read(loop, ((b":method", method), *GET[1:]))
    assert scope["method"] == method.decode()
    assert found == flags


def test_expectation_is_told(loop: ManualLoop) -> None:
    assert read(loop, (*GET, (b"expect", b"100-continue")))[1] == EXPECTS_CONTINUE


def test_protocol_of_an_extended_connect_is_told(loop: ManualLoop) -> None:
    headers = ((b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:], (b"x", b"y"))
    scope, _, protocol = read(loop, headers)
    assert protocol == b"websocket"
    assert scope["headers"] == [(b"host", b"a.example:8443"), (b"x", b"y")]


# -- Host


def test_authority_takes_the_place_of_an_equal_host(loop: ManualLoop) -> None:
    assert headers_of(loop, (b"x", b"y"), (b"host", b"A.example:8443")) == [
        (b"host", b"a.example:8443"),
        (b"x", b"y"),
    ]


def test_host_that_differs_is_malformed(loop: ManualLoop) -> None:
    with pytest.raises(Malformed):
        headers_of(loop, (b"host", b"b.example"))


def test_host_stands_in_for_a_missing_authority(loop: ManualLoop) -> None:
    headers = (*GET[:2], GET[3], (b"x", b"y"), (b"host", b"b.example"))
    assert read(loop, headers)[0]["headers"] == [(b"x", b"y"), (b"host", b"b.example")]


def test_request_for_no_host_is_refused(loop: ManualLoop) -> None:
    with pytest.raises(BadRequest):
        read(loop, (*GET[:2], GET[3], (b"x", b"y")))


@pytest.mark.parametrize("authority", [b"user@a", b"a b", b"a:b", b""])
def test_authority_that_is_no_host_is_refused(loop: ManualLoop, authority: bytes) -> None:
    with pytest.raises(BadRequest):
        read(loop, (*GET[:2], (b":authority", authority), GET[3]))


# -- fields


def test_cookies_that_were_split_are_one(loop: ManualLoop) -> None:
    found = headers_of(loop, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c=3"))
    assert found[1:] == [(b"cookie", b"a=1; b=2; c=3"), (b"x", b"y")]


def test_other_fields_that_repeat_stay_as_they_are(loop: ManualLoop) -> None:
    repeated = [(b"x", b"1"), (b"cookie", b"a=1"), (b"x", b"2")]
    assert headers_of(loop, *repeated)[1:] == repeated


@pytest.mark.parametrize("policy, kept", [("drop", []), ("dangerous", [(b"a_b", b"c")])])
def test_underscores_are_treated_as_header_map_says(loop: ManualLoop, policy: str, kept: list[HeaderPair]) -> None:
    assert headers_of(loop, (b"a_b", b"c"), header_map=policy)[1:] == kept


def test_underscores_can_be_refused(loop: ManualLoop) -> None:
    with pytest.raises(BadRequest):
        headers_of(loop, (b"a_b", b"c"), header_map="refuse")


# -- proxies and paths


def test_trusted_proxy_speaks_for_its_client(loop: ManualLoop) -> None:
    forwarded = ((b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-proto", b"https"))
    config = {"trusted": True}
    scope, *_ = read(loop, (*GET, *forwarded), **config)
    assert scope["scheme"] == "https"
    scope, *_ = read(loop, (*GET, *forwarded))
    assert scope["scheme"] == "http"
    assert scope["client"] == CLIENT


def test_proxy_that_contradicts_itself_is_refused(loop: ManualLoop) -> None:
    headers = (*GET, (b"x-forwarded-proto", b"https"), (b"x-forwarded-ssl", b"off"))
    with pytest.raises(BadRequest):
        read(loop, headers, trusted=True)


def test_root_path_comes_before_the_path(loop: ManualLoop) -> None:
    scope, *_ = read(loop, GET, root_path="/api")
    assert (scope["path"], scope["raw_path"], scope["root_path"]) == ("/api/a b", b"/api/a%20b", "/api")


@pytest.mark.parametrize("path, method", [(b"http://a/", b"GET"), (b"*", b"GET"), (b"a", b"GET")])
def test_target_that_is_no_path_is_refused(loop: ManualLoop, path: bytes, method: bytes) -> None:
    with pytest.raises(BadRequest):
        read(loop, ((b":method", method), *GET[1:3], (b":path", path)))


def test_asterisk_is_for_options(loop: ManualLoop) -> None:
    scope, *_ = read(loop, ((b":method", b"OPTIONS"), *GET[1:3], (b":path", b"*")), root_path="/api")
    assert scope["path"] == "*"
