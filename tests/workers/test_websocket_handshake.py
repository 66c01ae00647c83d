"""What a handshake must look like, and the scope that it becomes."""

from __future__ import annotations

from base64 import b64encode

import pytest

from outrider.http1_rules import BadRequest
from outrider.websocket_handshake import (
    accept_value,
    asks_for_websocket,
    check_request,
    extension_offers,
    response_fields,
    websocket_scope,
)

GOOD = {
    b"host": b"a",
    b"upgrade": b"websocket",
    b"sec-websocket-version": b"13",
    b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize("value", [b"websocket", b"WebSocket", b"h2c, websocket"])
def test_upgrade_asks_for_websocket(value: bytes) -> None:
    assert asks_for_websocket([(b"upgrade", value)])


@pytest.mark.parametrize("headers", [[], [(b"upgrade", b"h2c")], [(b"upgrade", b"websockets")], [(b"x", b"websocket")]])
def test_other_upgrade_does_not(headers: list[tuple[bytes, bytes]]) -> None:
    assert not asks_for_websocket(headers)


def test_good_request_passes() -> None:
    check_request("GET", list(GOOD.items()))
    check_request("GET", [*GOOD.items(), (b"content-length", b"0")])


@pytest.mark.parametrize(
    "changes,status",
    [
        ({b"sec-websocket-version": b"8"}, 426),
        ({b"sec-websocket-version": b"13, 8"}, 426),
        ({b"sec-websocket-version": None}, 426),
        ({b"sec-websocket-key": None}, 400),
        ({b"sec-websocket-key": b""}, 400),
        ({b"sec-websocket-key": b"c2hvcnQ="}, 400),
        ({b"sec-websocket-key": b"no base64 in here, is it"}, 400),
        ({b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==!"}, 400),
        ({b"content-length": b"5"}, 400),
        ({b"transfer-encoding": b"chunked"}, 400),
    ],
)
def test_bad_request_is_refused(changes: dict[bytes, bytes | None], status: int) -> None:
    headers = [(name, value) for name, value in (GOOD | changes).items() if value is not None]
    with pytest.raises(BadRequest) as caught:
        check_request("GET", headers)
    assert caught.value.status == status
    expected = {b"upgrade": b"websocket", b"sec-websocket-version": b"13"} if status == 426 else {}
    assert dict(caught.value.fields) == expected


def test_two_keys_are_refused() -> None:
    with pytest.raises(BadRequest, match="key"):
        check_request("GET", [*GOOD.items(), (b"sec-websocket-key", GOOD[b"sec-websocket-key"])])


def test_other_method_is_refused() -> None:
    with pytest.raises(BadRequest, match="GET") as caught:
        check_request("POST", list(GOOD.items()))
    assert caught.value.status == 400


def test_accept_value_is_that_of_the_rfc() -> None:
    assert accept_value(list(GOOD.items())) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_scope_is_that_of_a_websocket() -> None:
    headers = [(b"sec-websocket-protocol", b"a, b"), (b"origin", b"null"), (b"sec-websocket-protocol", b"c")]
    http = {
        "type": "http",
        "method": "GET",
        "scheme": "https",
        "path": "/x",
        "headers": headers,
        "state": {"a": 1},
        "extensions": {"tls": {"tls_version": 772}, "http.response.trailers": {}},
    }
    scope = websocket_scope(http)
    assert scope == {
        "type": "websocket",
        "scheme": "wss",
        "path": "/x",
        "headers": headers,
        "state": {"a": 1},
        "subprotocols": ["a", "b", "c"],
        "extensions": {"websocket.http.response": {}, "tls": {"tls_version": 772}},
    }
    assert http["type"] == "http"


def test_offers_of_all_lines_are_one_list() -> None:
    headers = [(b"sec-websocket-extensions", b"a; x"), (b"sec-websocket-extensions", b"b")]
    assert extension_offers(headers) == b"a; x,b"


def test_response_has_the_applications_fields_and_what_was_negotiated() -> None:
    given = [(b"X-A", b"1"), (b"Upgrade", b"x"), (b"content-length", b"0"), (b"sec-websocket-accept", b"x")]
    assert response_fields(given, "chat", b"permessage-deflate") == [
        (b"X-A", b"1"),
        (b"sec-websocket-protocol", b"chat"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
    ]
    assert response_fields([], None, None) == []


def test_key_of_17_bytes_is_refused() -> None:
    with pytest.raises(BadRequest, match="key"):
        check_request("GET", list((GOOD | {b"sec-websocket-key": b64encode(bytes(17))}).items()))


def test_two_versions_are_refused() -> None:
    with pytest.raises(BadRequest, match="version"):
        check_request("GET", [*GOOD.items(), (b"sec-websocket-version", b"8")])


def test_empty_elements_are_no_subprotocols() -> None:
    http = {"scheme": "http", "headers": [(b"sec-websocket-protocol", b"a,, b,"), (b"sec-websocket-protocol", b"")]}
    assert websocket_scope(http)["subprotocols"] == ["a", "b"]


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"transfer-encoding",
        b"upgrade",
    ],
)
def test_application_does_not_say_what_the_server_says(name: bytes) -> None:
    assert response_fields(iter([(name, b"x"), (name.title(), b"x"), (b"x", b"y")]), None, None) == [(b"x", b"y")]
