"""Requests that the server answers itself: too large, too many, malformed, or more than it can do."""

from __future__ import annotations

import tracemalloc

import pytest

from outrider.http1 import MOST_FRAMING
from outrider.meters import CELLS, Meter, histograms_of
from outrider.runtime import REFUSAL_BURST
from outrider_testing.fakes import Client, DrivenApp, ManualLoop, constant, echo, make_context, make_runtime

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
START = b"GET / HTTP/1.1\r\nHost: a\r\n"


def assert_refused(client: Client, status: int) -> None:
    assert client.statuses == [status]
    assert client.answer().closes
    assert client.is_closed()
    assert client.log.messages("warning")[0].startswith("Refused a request from 192.0.2.7:54321: ")


def test_request_that_is_refused_is_metered(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), limit_request_line=100)
    client.runtime.meter = Meter(cells := memoryview(bytearray(8 * CELLS)).cast("Q"))
    client.feed(b"GET /" + b"x" * 100 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert_refused(client, 414)
    assert [*histograms_of(cells)] == [("_OTHER", 4)]


def test_scanner_cannot_fill_the_log(loop: ManualLoop) -> None:
    context = make_context(make_runtime(loop, constant()))
    scanners = [Client(loop, context) for _ in range(2 * REFUSAL_BURST)]
    for scanner in scanners:
        scanner.feed(b"nonsense\r\n\r\n")
        assert scanner.statuses == [400]
    assert len(scanners[0].log.messages("warning")) == REFUSAL_BURST


# -- sizes


@pytest.mark.parametrize("size, status", [(100, 200), (101, 414)])
def test_request_line_is_held_to_its_limit(loop: ManualLoop, size: int, status: int) -> None:
    client = Client.of(loop, constant(), limit_request_line=100)
    url = b"/" + b"x" * (size - len(b"GET / HTTP/1.1"))
    client.feed(b"GET " + url + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.statuses == [status]


def test_incomplete_request_line_is_held_to_its_limit(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), limit_request_line=100)
    client.feed(b"GET /" + b"x" * 50)
    assert client.sent == b""
    client.feed(b"x" * 50)
    assert_refused(client, 414)


@pytest.mark.parametrize("fields, status", [(10, 200), (11, 431)])
def test_number_of_fields_is_held_to_its_limit(loop: ManualLoop, fields: int, status: int) -> None:
    client = Client.of(loop, constant(), limit_request_fields=10)
    client.feed(START + b"X: y\r\n" * (fields - 1) + b"\r\n")
    assert client.statuses == [status]


def test_incomplete_fields_are_held_to_their_number(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), limit_request_fields=10)
    client.feed(START)
    for _ in range(10):
        client.feed(b"X: y\r\n")
    assert client.sent == b""
    client.feed(b"X: y\r\n")
    assert_refused(client, 431)


@pytest.mark.parametrize("size, status", [(100, 200), (101, 431)])
def test_size_of_a_field_is_held_to_its_limit(loop: ManualLoop, size: int, status: int) -> None:
    client = Client.of(loop, constant(), limit_request_field_size=100)
    field = b"X: " + b"y" * (size - len(b"X: \r\n")) + b"\r\n"
    client.feed(START + field + b"\r\n")
    assert client.statuses == [status]


def test_endless_field_is_refused(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(START + b"X: ")
    sent = 0
    while not client.is_closed():
        client.feed(b"y" * 1000)
        sent += 1000
        assert sent < 50_000
    assert_refused(client, 431)


def test_endless_first_field_is_refused(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), limit_request_fields=10, limit_request_field_size=1000)
    client.feed(b"GET / HTTP/1.1\r\nX: ")
    sent = 0
    while not client.is_closed():
        client.feed(b"y" * 1000)
        sent += 1000
        assert sent < 50_000
    assert_refused(client, 431)


def test_head_without_limits_is_refused_somewhere(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), limit_request_line=0, limit_request_fields=32768, limit_request_field_size=0)
    client.feed(START + b"X: ")
    sent = 0
    while not client.is_closed():
        client.feed(b"y" * 250_000)
        sent += 250_000
        assert sent < 20_000_000
    assert_refused(client, 431)


def test_large_head_within_its_limits_is_served(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    data = START + b"".join(b"X-%d: %b\r\n" % (number, b"y" * 8000) for number in range(99)) + b"\r\n"
    for position in range(0, len(data), 50_000):
        client.feed(data[position : position + 50_000])
    client.feed(data)
    assert client.statuses == [200, 200]


def test_endless_chunk_extension_is_refused(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(CHUNKED + b"5;x=")
    fed = 0
    while not client.is_closed():
        client.feed(b"y" * 1000)
        fed += 1000
        assert fed <= MOST_FRAMING + 1000
    assert_refused(client, 400)


def test_endless_trailers_are_refused(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(CHUNKED + b"0\r\n")
    fed = 0
    while not client.is_closed():
        client.feed(b"X: y\r\n" * 100)
        fed += 600
        assert fed <= MOST_FRAMING + 600
    assert_refused(client, 400)


def test_small_chunks_with_short_extensions_are_served(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(CHUNKED)
    for _ in range(500):
        client.feed(b"2;a=b\r\nxy\r\n" * 100)
        client.call.receive()
    client.feed(b"0\r\n\r\n")
    client.call.respond()
    assert client.statuses == [200]


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", CHUNKED + b"0\r\n"])
def test_thousands_of_fields_in_one_read_are_not_kept(loop: ManualLoop, start: bytes) -> None:
    client = Client.of(loop)
    data = start + b"a:\r\n" * 60_000
    tracemalloc.start()
    try:
        client.feed(data)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 200_000


def test_trailers_do_not_count_for_the_next_head(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(CHUNKED)
    client.feed(b"0\r\n" + b"X: y\r\n" * 9000 + b"\r\n")
    client.feed(START + b"X: y\r\n")
    client.feed(b"\r\n")
    assert client.statuses == [200, 200]


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"2\r\nxy\r\n", b"10\r\n0123456789abcdef\r\n"])
def test_body_that_the_app_does_not_receive_takes_little_memory(loop: ManualLoop, chunk: bytes) -> None:
    client = Client.of(loop)
    data = CHUNKED + chunk * (2_000_000 // len(chunk))
    tracemalloc.start()
    try:
        client.transport.feed(data)
        used = tracemalloc.get_traced_memory()[0] - client.transport.waiting
    finally:
        tracemalloc.stop()
    assert not client.transport.is_reading()
    assert used < 3_000_000


# -- what the server does not do


@pytest.mark.parametrize(
    "head, status",
    [
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"\r\n\r\nget / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ],
)
def test_unusable_request_is_refused(loop: ManualLoop, head: bytes, status: int) -> None:
    client = Client.of(loop)
    client.feed(head)
    assert_refused(client, status)
    assert client.calls == []


def test_refusal_has_the_headers_of_every_response(loop: ManualLoop) -> None:
    client = Client.of(loop)
    default_headers = type(client.runtime.default_headers)
    client.runtime.default_headers = default_headers(server=True, date=True, extra=[(b"x-extra", b"1")])
    client.feed(b"nonsense\r\n\r\n")
    answer = client.answer()
    assert answer.body == b"Bad Request"
    assert answer["content-type"] == "text/plain"
    assert answer["server"] == "outrider"
    assert "date" in answer
    assert answer["x-extra"] == "1"


def test_refusal_of_a_head_request_has_no_body(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(b"HEAD / HTTP/1.1\r\n\r\n")
    assert client.answer("HEAD").status == 400
    assert client.answer("HEAD")["content-length"] == "11"


def test_malformed_body_breaks_off_a_started_response(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(CHUNKED)
    client.call.start()
    client.call.body(b"part", more=True)
    client.feed(b"nonsense")
    assert client.statuses == [200]
    assert not client.answer().complete
    assert client.is_closed()


def test_malformed_body_takes_the_place_of_a_response_that_has_not_started(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(CHUNKED)
    receiving = client.call.receiving()
    client.feed(b"nonsense")
    assert receiving.result() == {"type": "http.disconnect"}
    assert_refused(client, 400)
    client.call.finish()
    assert client.statuses == [400]


def test_malformed_rest_of_an_unwanted_body_ends_the_connection(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(CHUNKED)
    client.feed(b"nonsense")
    assert client.statuses == [200]
    assert client.is_closed()


# -- more than the server may do


def test_requests_beyond_the_concurrency_limit_get_503(loop: ManualLoop) -> None:
    runtime = make_runtime(loop, DrivenApp(loop), limit_concurrency=2)
    clients = [Client(loop, make_context(runtime)) for _ in range(4)]
    for client in clients[:3]:
        client.feed(GET)
    assert_refused(clients[2], 503)
    clients[0].calls[0].respond()
    clients[3].feed(GET)
    clients[3].calls[-1].respond()
    assert clients[3].statuses == [200]


def test_concurrency_has_no_limit_by_default(loop: ManualLoop) -> None:
    runtime = make_runtime(loop, DrivenApp(loop))
    clients = [Client(loop, make_context(runtime)) for _ in range(50)]
    for client in clients:
        client.feed(GET)
    assert len(clients[0].calls) == 50


# -- counting


def test_bytes_are_counted_both_ways(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET + b"nonsense")
    client.call.start()
    client.call.body(b"small", more=True)
    client.call.body(bytes(100_000))
    client.call.finish()
    counters = client.runtime.counters
    assert counters.bytes_in == len(GET) + 8
    assert counters.bytes_out == len(client.sent)
    assert counters.requests == 1
