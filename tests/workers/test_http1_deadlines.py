"""Slow clients: no connection outlives its deadline, and no client that keeps to them is cut off."""

from __future__ import annotations

import pytest

from outrider.http1_pipeline import LINGER
from outrider.http_stream import HIGH_WATER
from outrider_testing.fakes import Client, ManualLoop, constant, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"


# -- before and between requests


def test_silent_connection_is_closed(loop: ManualLoop) -> None:
    client = Client.of(loop, header_timeout=10)
    client.sweep(9)
    assert not client.is_closed()
    client.sweep(2)
    assert client.is_closed()
    assert client.sent == b""


def test_empty_lines_before_a_request_win_no_time(loop: ManualLoop) -> None:
    client = Client.of(loop, header_timeout=10)
    for _ in range(11):
        client.feed(b"\r\n")
        client.sweep(1)
    assert client.is_closed()


def test_slow_head_is_answered_with_408(loop: ManualLoop) -> None:
    client = Client.of(loop, header_timeout=10)
    client.feed(b"GET /")
    for byte in b" HTTP/1.1\r\n":
        client.feed(bytes((byte,)))
        client.sweep(1)
    assert client.statuses == [408]
    assert client.answer().closes
    assert client.is_closed()


def test_slow_head_after_a_response_has_the_same_deadline(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), header_timeout=10, keepalive=100)
    client.feed(GET)
    client.sweep(50)
    client.feed(b"GET / HT")
    client.sweep(9)
    assert client.statuses == [200]
    client.sweep(2)
    assert client.statuses == [200, 408]


def test_head_that_began_during_a_response_is_timed_from_its_end(loop: ManualLoop) -> None:
    client = Client.of(loop, header_timeout=10)
    client.feed(GET + b"GET / HT")
    client.sweep(100)
    client.calls[0].respond()
    client.sweep(9)
    assert client.statuses == [200]
    client.sweep(2)
    assert client.statuses == [200, 408]


def test_idle_connection_is_closed_after_keepalive(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), keepalive=5)
    client.feed(GET)
    client.sweep(4)
    assert not client.is_closed()
    client.feed(GET)
    client.sweep(4)
    assert not client.is_closed()
    client.sweep(2)
    assert client.transport.is_closing()
    assert client.statuses == [200, 200]


def test_slow_app_has_no_deadline(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET)
    client.sweep(10_000)
    client.call.respond()
    assert client.statuses == [200]


def test_zero_switches_the_header_deadline_off(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), header_timeout=0)
    client.sweep(10_000)
    client.feed(b"GET / HT")
    client.sweep(10_000)
    client.feed(b"TP/1.1\r\nHost: a\r\n\r\n")
    assert client.statuses == [200]


# -- request bodies


def test_body_that_stops_is_answered_with_408(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30)
    client.feed(POST + b"x")
    receiving = client.call.receiving()
    receiving = client.call.receiving()
    client.sweep(31)
    assert client.statuses == [408]
    assert client.is_closed()
    assert receiving.result() == {"type": "http.disconnect"}


def test_body_slower_than_the_least_rate_is_answered_with_408(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30, min_body_rate=100)
    client.feed(POST)
    seconds = 0
    while not client.is_closed():
        client.feed(bytes(50))
        client.call.receive()
        client.sweep(1)
        seconds += 1
        assert seconds < 100
    assert client.statuses == [408]
    assert 55 < seconds < 65


def test_body_at_the_least_rate_is_served(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30, min_body_rate=100)
    client.feed(POST)
    for _ in range(1000):
        client.feed(bytes(100))
        client.call.receive()
        client.sweep(1)
    assert not client.is_closed()


def test_body_without_least_rate_may_trickle(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30, min_body_rate=0)
    client.feed(POST)
    for _ in range(10):
        client.feed(b"x")
        client.sweep(29)
    assert not client.is_closed()
    client.sweep(2)
    assert client.statuses == [408]


def test_zero_switches_the_body_deadline_off(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=0)
    client.feed(POST)
    client.sweep(10_000)
    client.feed(b"x")
    client.sweep(10_000)
    assert not client.is_closed()


@pytest.mark.parametrize("reads", [1, 2])
def test_client_is_not_blamed_for_an_app_that_does_not_receive(loop: ManualLoop, reads: int) -> None:
    client = Client.of(loop, body_timeout=30)
    body = bytes(HIGH_WATER + 1)
    for read in [POST + body] if reads == 1 else [POST, body]:
        client.feed(read)
    client.sweep(10_000)
    assert not client.is_closed()
    client.call.receive()
    client.sweep(29)
    assert not client.is_closed()
    client.sweep(2)
    assert client.statuses == [408]


def test_client_that_waits_for_100_is_not_blamed(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30)
    client.feed(EXPECT)
    client.sweep(10_000)
    assert not client.is_closed()
    client.call.receiving()
    client.sweep(31)
    assert client.statuses == [100, 408]


def test_client_that_waits_for_100_behind_many_requests_is_not_blamed(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30)
    client.feed(GET * 40 + EXPECT)
    for _ in range(40):
        client.calls[-1].respond()
    client.sweep(10_000)
    assert client.statuses == [200] * 40


def test_late_body_of_a_started_response_breaks_it_off(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30)
    client.feed(POST)
    client.call.start()
    client.call.body(b"part", more=True)
    receiving = client.call.receiving()
    client.sweep(31)
    assert not client.answer().complete
    assert client.is_closed()
    assert receiving.result() == {"type": "http.disconnect"}


def test_late_body_of_a_waiting_request_does_not_lose_the_answer_before_it(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=30)
    client.feed(GET + POST)
    for _ in range(5):
        client.sweep(31)
    assert not client.is_closed()
    client.call.respond()
    assert client.statuses == [200, 408]


def test_late_body_behind_many_requests_is_answered_with_408(loop: ManualLoop) -> None:
    client = Client.of(loop, echo, body_timeout=30)
    count = 3000
    client.feed(GET * count + POST)
    client.sweep(29)
    assert client.statuses == [200] * count
    client.sweep(2)
    assert client.statuses == [200] * count + [408]


def test_late_rest_of_an_unwanted_body_ends_the_connection(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), body_timeout=30)
    client.feed(POST)
    assert client.statuses == [200]
    client.sweep(31)
    assert client.is_closed()
    assert client.statuses == [200]


# -- lingering


def test_refused_client_may_send_for_a_moment(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(b"nonsense\r\n\r\n")
    assert client.statuses == [400]
    client.feed(b"more nonsense")
    client.sweep(LINGER)
    assert not client.transport.is_closing()
    client.sweep(1)
    assert client.transport.is_closing()
    assert client.statuses == [400]


def test_connection_that_can_not_half_close_does_not_linger(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client = Client(loop, client.connection._context, half_close=False)
    client.feed(b"nonsense\r\n\r\n")
    assert client.statuses == [400]
    assert client.transport.is_closing()
