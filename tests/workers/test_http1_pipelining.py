"""Requests that come before the last one is answered: order, bounds, and errors among them."""

from __future__ import annotations

import tracemalloc

import pytest

from outrider.http1 import FEED_SLICE
from outrider.http1_pipeline import MOST_QUEUED
from outrider.http1_response import WRITE_HIGH_WATER
from outrider.http_stream import HIGH_WATER
from outrider_testing.fakes import Client, ManualLoop, constant, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"


def get(path: str, *headers: bytes) -> bytes:
    return b"".join(
        (b"GET ", path.encode(), b" HTTP/1.1\r\nHost: a\r\n", *(line + b"\r\n" for line in headers), b"\r\n")
    )


def test_connection_calls_the_app_for_one_request_at_a_time(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(get("/1") + get("/2") + get("/3"))
    for number in (1, 2, 3):
        assert [call.scope["path"] for call in client.calls] == [f"/{i}" for i in range(1, number + 1)]
        client.calls[-1].respond(b"%d" % number)
    assert [answer.body for answer in client.answers()] == [b"1", b"2", b"3"]


def test_connection_answers_pipelined_bodies_in_order(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    client.feed(POST + b"hello" + GET + POST + b"world")
    assert [answer.json()["body"] for answer in client.answers()] == ["hello", "", "world"]


def test_waiting_request_gets_its_body_before_its_turn(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET + POST + b"he")
    client.feed(b"llo")
    client.calls[0].respond()
    assert client.calls[1].receive() == {"type": "http.request", "body": b"hello", "more_body": False}


def test_waiting_request_that_expects_100_gets_it_in_its_turn(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30)
    client.feed(GET + POST.removesuffix(b"\r\n") + b"Expect: 100-continue\r\n\r\n")
    client.sweep(31)
    assert client.sent == b""
    client.calls[0].respond()
    client.calls[1].receiving()
    assert client.statuses == [200, 100]


def test_connection_pauses_reading_while_its_queue_is_full(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET * MOST_QUEUED)
    assert client.transport.is_reading()
    client.feed(GET)
    assert not client.transport.is_reading()
    client.feed(GET)
    assert client.transport.waiting == len(GET)
    client.calls[0].respond()
    assert client.transport.waiting == 0
    for _ in range(MOST_QUEUED + 1):
        client.calls[-1].respond()
    assert client.statuses == [200] * (MOST_QUEUED + 2)
    assert client.transport.is_reading()


def test_waiting_body_pauses_reading_too(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(HIGH_WATER + 1))
    assert not client.transport.is_reading()
    client.calls[0].respond()
    client.calls[1].receive()
    assert client.transport.is_reading()


@pytest.mark.parametrize("first", [b"", POST + b"hello", POST.replace(b" 5", b" %d" % FEED_SLICE) + bytes(FEED_SLICE)])
def test_large_read_of_tiny_requests_takes_little_memory(loop: ManualLoop, first: bytes) -> None:
    client = Client.of(loop)
    data = first + GET * ((262144 - len(first)) // len(GET))
    tracemalloc.start()
    try:
        client.feed(data)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 2_500_000
    assert not client.transport.is_reading()


def test_large_read_of_tiny_requests_is_answered_in_full(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    count = 9000
    client.feed(b"".join(get(f"/{number}") for number in range(count)))
    assert [answer.json()["path"] for answer in client.answers()] == [f"/{number}" for number in range(count)]
    assert not client.is_closed()


def test_held_bytes_that_end_within_a_head_wait_for_the_rest(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    data = get("/", b"X: " + b"y" * 100) * 2000
    client.feed(data[:-50])
    assert client.statuses == [200] * 1999
    client.feed(data[-50:])
    assert client.statuses == [200] * 2000


def test_many_reads_that_each_end_within_a_head_are_served(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    data = get("/", b"X: " + b"y" * 1000)
    client.feed(data[:500])
    for _ in range(900):
        client.feed(data[500:] + data[:500])
    assert client.statuses == [200] * 900


def test_many_reads_that_each_end_within_a_body_are_served(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    data = POST.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * 5000 + b"\r\n\r\n") + b"hello"
    client.feed(data[:-2])
    for _ in range(10):
        client.feed(data[-2:] + data[:-2])
    assert client.statuses == [200] * 10


@pytest.mark.parametrize(
    "bad", [BAD, b"\x16\x03\x01", b"GARBAGE\r\n\r\n", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_malformed_request_does_not_lose_the_answers_before_it(loop: ManualLoop, bad: bytes) -> None:
    client = Client.of(loop)
    client.feed(GET + GET + bad)
    assert client.sent == b""
    client.calls[0].respond()
    client.calls[1].respond()
    assert client.statuses == [200, 200, 505 if b"2.0" in bad else 400]
    assert client.answers()[-1].closes
    assert client.is_closed()


def test_malformed_chunk_of_a_waiting_request_does_not_lose_the_answer_before_it(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET + b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
    client.calls[0].respond()
    assert client.statuses == [200, 400]
    assert len(client.calls) == 1


def test_half_closed_client_gets_its_answer_before_the_refusal(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET + b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
    client.feed_eof()
    client.calls[0].respond()
    assert client.statuses == [200, 400]


def test_unknown_method_after_a_good_request_is_refused(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(GET + b"BREW / HTTP/1.1\r\n")
    assert client.statuses[0] == 200
    assert client.statuses[1] in (400, 501)


def test_error_in_held_bytes_does_not_lose_the_answers_before_it(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(GET * 5000 + BAD)
    assert client.statuses == [200] * 5000 + [400]


def test_response_that_closes_ends_the_pipeline(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET * (FEED_SLICE // len(GET) * 3 + 20))
    client.calls[0].respond(headers=[(b"connection", b"close")])
    assert client.answer().closes
    assert len(client.calls) == 1
    # More may be on its way, and a reset would destroy the answer.
    assert client.transport.eof_written
    assert not client.transport.is_closing()
    assert client.transport.is_reading()


def test_client_that_does_not_read_gets_no_more_answers(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.transport.congested = True
    client.feed(GET * 3)
    client.calls[0].respond(bytes(WRITE_HIGH_WATER + 1))
    client.feed(GET)
    assert len(client.calls) == 1
    client.take(WRITE_HIGH_WATER)
    client.calls[1].respond()
    client.calls[2].respond()
    client.calls[3].respond()
    assert client.statuses == [200] * 4


def test_refusal_waits_for_the_answers_that_a_client_does_not_read(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.transport.congested = True
    client.feed(GET)
    client.calls[0].respond(bytes(WRITE_HIGH_WATER + 1))
    client.feed(GET + BAD)
    assert client.statuses == [200]
    client.take(WRITE_HIGH_WATER)
    client.calls[1].respond()
    assert client.statuses == [200, 200, 400]


def test_lost_client_gets_no_more_answers(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.transport.congested = True
    client.feed(GET * 2)
    client.calls[0].respond(bytes(WRITE_HIGH_WATER + 1))
    client.lose()
    assert len(client.calls) == 1


def test_client_that_does_not_read_can_not_queue_without_bound(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.transport.congested = True
    client.feed(GET)
    client.call.respond(bytes(WRITE_HIGH_WATER + 1))
    client.feed(GET * MOST_QUEUED)
    assert not client.transport.is_reading()
    client.take(WRITE_HIGH_WATER)
    assert client.transport.is_reading()


def test_connection_reads_no_further_after_it_lingers(loop: ManualLoop) -> None:
    client = Client.of(loop)
    head = get("/", b"X: " + b"y" * 300)
    client.feed(head * 1000)
    client.calls[0].respond(headers=[(b"connection", b"close")])
    client.feed(GET)
    assert len(client.calls) == 1
    assert client.statuses == [200]


def test_head_after_a_body_is_looked_at_as_closely_as_the_first(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    client.feed(POST + b"he")
    client.feed(b"llo" + get("/", b"X_Y: 1", b"X: y\t"))
    assert client.answers()[1].json()["headers"] == ["host: a", "x: y"]


def test_head_after_a_large_upload_is_looked_at_as_closely_as_the_first(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    odd = get("/", b"X_Y: 1", b"X: y\t")
    body = bytes(20_000)
    client.feed(POST.replace(b" 5", b" 20000") + body + odd)
    client.feed(odd)
    for answer in client.answers()[1:]:
        assert answer.json()["headers"] == ["host: a", "x: y"]


@pytest.mark.parametrize("start", [b"\r\n\r\n", b"\r\n", b"\n\r\n\r\n"])
def test_head_behind_empty_lines_is_looked_at_as_closely_as_any(loop: ManualLoop, start: bytes) -> None:
    client = Client.of(loop, echo)
    odd = POST.replace(b" 5\r\n", b" 20000\r\nX_Y: 1\r\n")
    client.feed(start + odd + bytes(20_000))
    assert client.answer().json()["headers"] == ["host: a", "content-length: 20000"]
