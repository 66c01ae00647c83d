"""Response heads as bytes: validation, what the lines say about the message, and the server's own lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from outrider import http1_encoding
from outrider.http1_encoding import STATUS_LINES, DefaultHeaders, InvalidResponse, Kind, encode_fields, status_line


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    caches = (http1_encoding._lines, http1_encoding._blocks)
    for cache in caches:
        cache.clear()
    yield
    for cache in caches:
        cache.clear()


# -- status lines


def test_status_line_has_the_registered_phrase() -> None:
    assert status_line(404) == b"HTTP/1.1 404 Not Found\r\n"


def test_status_line_of_an_unknown_status_has_an_empty_phrase() -> None:
    assert status_line(799) == b"HTTP/1.1 799 \r\n"


def test_status_lines_are_there_for_every_three_digits() -> None:
    assert set(STATUS_LINES) == set(range(100, 1000))
    assert STATUS_LINES[200] == b"HTTP/1.1 200 OK\r\n"


# -- the application's fields


def test_encode_joins_name_and_value() -> None:
    headers = [(b"content-type", b"text/plain"), (b"X-Y", b"z")]
    for _ in range(3):  # line by line from the cache the second time, as a whole the third time
        block, length, close, given = encode_fields(headers)
        assert block == b"content-type: text/plain\r\nX-Y: z\r\n"
        assert (length, close, given) == (None, False, 0)


@pytest.mark.parametrize(
    "headers",
    [
        [[b"a", b"b"]],
        ((b"a", b"b"),),
        iter([(b"a", b"b")]),
        [(bytearray(b"a"), memoryview(b"b"))],
        [(b"a", b" \tb\t ")],
    ],
)
def test_encode_takes_what_applications_give(headers: Any) -> None:
    assert encode_fields(headers)[0] == b"a: b\r\n"


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length"])
def test_encode_finds_the_length(name: bytes) -> None:
    for _ in range(3):
        block, length, _, _ = encode_fields([(b"a", b"b"), (name, b"12")])
        assert length == 12
        assert block == b"a: b\r\n" + name + b": 12\r\n"


def test_encode_keeps_one_of_equal_lengths() -> None:
    block, length, _, _ = encode_fields([(b"content-length", b"5"), (b"a", b"b"), (b"Content-Length", b"5")])
    assert block == b"content-length: 5\r\na: b\r\n"
    assert length == 5


def test_encode_refuses_lengths_that_differ() -> None:
    with pytest.raises(InvalidResponse, match="two Content-Length"):
        encode_fields([(b"content-length", b"5"), (b"content-length", b"6")])


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1.0", b"0x1", b"1,1", b" ", "٣".encode()])
def test_encode_refuses_a_length_that_is_no_number(value: bytes) -> None:
    with pytest.raises(InvalidResponse, match="not a number"):
        encode_fields([(b"content-length", value)])


@pytest.mark.parametrize(
    "value, close",
    [(b"close", True), (b"Close", True), (b"x, close", True), (b"keep-alive", False), (b"closed", False)],
)
def test_encode_drops_connection_and_heeds_close(value: bytes, close: bool) -> None:
    for _ in range(3):
        assert encode_fields([(b"a", b"b"), (b"Connection", value)]) == (b"a: b\r\n", None, close, 0)


def test_encode_drops_transfer_encoding() -> None:
    assert encode_fields([(b"Transfer-Encoding", b"chunked"), (b"a", b"b")]) == (b"a: b\r\n", None, False, 0)


@pytest.mark.parametrize(
    "headers, given",
    [
        ([(b"Server", b"x")], Kind.SERVER),
        ([(b"date", b"x")], Kind.DATE),
        ([(b"date", b"x"), (b"server", b"y")], Kind.SERVER | Kind.DATE),
    ],
)
def test_encode_tells_which_of_the_server_s_own_headers_are_there(headers: Any, given: int) -> None:
    for _ in range(3):
        block, *_, seen = encode_fields(headers)
        assert seen == given
        assert block.count(b"\r\n") == len(headers)


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0b", b"\r\n\r\n<html>"])
def test_encode_refuses_injection_into_a_value(value: bytes) -> None:
    for _ in range(2):  # nothing bad gets into the cache
        with pytest.raises(InvalidResponse, match="contains CR, LF or NUL"):
            encode_fields([(b"location", value)])


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"\xe4", b"a\0", b"(a)"])
def test_encode_refuses_a_name_that_is_no_token(name: bytes) -> None:
    with pytest.raises(InvalidResponse, match="not a token"):
        encode_fields([(name, b"x")])


@pytest.mark.parametrize("header", [("a", b"b"), (b"a", "b"), (b"a",), (b"a", b"b", b"c"), ["a", b"b"]])
def test_encode_refuses_what_is_no_pair_of_byte_strings(header: Any) -> None:
    with pytest.raises(InvalidResponse, match="pair of byte strings"):
        encode_fields([header])


def test_encode_keeps_its_cache_bounded() -> None:
    for number in range(http1_encoding._CACHED_LINES + 10):
        encode_fields([(b"etag", b"%d" % number)])
    assert len(http1_encoding._lines) <= http1_encoding._CACHED_LINES
    size = len(http1_encoding._lines)
    encode_fields([(b"set-cookie", b"x" * http1_encoding._CACHED_LINE_SIZE)])
    assert len(http1_encoding._lines) == size


def test_encode_keeps_a_set_of_headers_once_its_lines_are_known() -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    encode_fields(headers)
    assert not http1_encoding._blocks
    second = encode_fields(headers)
    assert encode_fields(headers) is second


def test_encode_heeds_a_change_to_a_list_that_it_has_seen() -> None:
    headers = [(b"a", b"b")]
    for _ in range(3):
        encode_fields(headers)
    headers.append((b"c", b"d"))
    assert encode_fields(headers)[0] == b"a: b\r\nc: d\r\n"


def test_encode_keeps_no_set_of_headers_with_a_value_that_is_new_each_time() -> None:
    for number in range(10):
        encode_fields([(b"content-type", b"text/plain"), (b"x-request-id", b"%d" % number)])
    assert not http1_encoding._blocks


def test_encode_keeps_no_set_of_headers_that_would_keep_a_buffer_alive() -> None:
    headers: list[Any] = [(b"a", memoryview(b"b"))]
    for _ in range(3):
        assert encode_fields(headers)[0] == b"a: b\r\n"
    assert not http1_encoding._blocks


def test_encode_keeps_a_bounded_number_of_sets_of_headers() -> None:
    for number in range(http1_encoding._CACHED_BLOCKS + 10):
        headers = [(b"etag", b"%d" % number)]
        encode_fields(headers)
        encode_fields(headers)
    assert 0 < len(http1_encoding._blocks) <= http1_encoding._CACHED_BLOCKS


def test_encode_keeps_no_large_set_of_headers() -> None:
    headers = [(b"x-%d" % number, b"x" * 200) for number in range(6)]
    for _ in range(3):
        encode_fields(headers)
    assert not http1_encoding._blocks


# -- the server's fields

EPOCH_DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
SERVER_LINE = b"server: outrider\r\n"


def test_server_adds_what_the_application_did_not_give() -> None:
    endings = DefaultHeaders(server=True, date=True, extra=()).endings
    assert endings[0] == SERVER_LINE + EPOCH_DATE + b"\r\n"
    assert endings[Kind.SERVER] == EPOCH_DATE + b"\r\n"
    assert endings[Kind.DATE] == SERVER_LINE + b"\r\n"
    assert endings[Kind.SERVER | Kind.DATE] == b"\r\n"


def test_server_leaves_out_what_is_switched_off() -> None:
    assert DefaultHeaders(server=False, date=True, extra=()).endings[0] == EPOCH_DATE + b"\r\n"
    assert DefaultHeaders(server=True, date=False, extra=()).endings[0] == SERVER_LINE + b"\r\n"


def test_server_adds_configured_headers_first() -> None:
    endings = DefaultHeaders(server=True, date=True, extra=[(b"x", b"y"), (b"Server", b"mine")]).endings
    assert endings[0] == b"x: y\r\nServer: mine\r\n" + EPOCH_DATE + b"\r\n"
    assert endings[Kind.DATE] == b"x: y\r\nServer: mine\r\n\r\n"


def test_server_refreshes_the_date() -> None:
    headers = DefaultHeaders(server=False, date=True, extra=())
    headers.refresh(1_700_000_000)
    assert headers.endings[0] == b"date: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\n"
