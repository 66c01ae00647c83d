"""A connection of a worker that drains: nothing that a client has sent is lost."""

from __future__ import annotations

from outrider.http1_pipeline import LINGER
from outrider_testing.fakes import Client, ManualLoop, constant

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def test_response_in_progress_is_the_last(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET)
    client.drain()
    client.call.respond()
    assert client.answer().closes
    assert client.is_closed()


def test_idle_connection_serves_one_more_request(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), drain_linger=2)
    client.feed(GET)
    client.drain()
    client.sweep(1)
    client.feed(GET)
    assert [answer.closes for answer in client.answers()] == [False, True]
    assert client.is_closed()


def test_idle_connection_closes_after_a_quiet_linger(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), keepalive=60, drain_linger=2)
    client.feed(GET)
    client.drain()
    client.sweep(1)
    assert not client.is_closed()
    client.sweep(2)
    assert client.transport.is_closing()
    assert client.statuses == [200]


def test_idle_connection_does_not_live_longer_because_of_the_drain(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), keepalive=1, drain_linger=60)
    client.feed(GET)
    client.drain()
    client.sweep(2)
    assert client.is_closed()


def test_connection_that_was_silent_so_far_waits_for_its_first_request(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), drain_linger=2, header_timeout=10)
    client.drain()
    client.sweep(9)
    client.feed(GET)
    assert client.answer().closes
    assert client.is_closed()


def test_half_received_head_is_waited_for(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), drain_linger=2, header_timeout=10)
    client.feed(GET + GET[:10])
    client.drain()
    client.sweep(9)
    client.feed(GET[10:])
    assert [answer.closes for answer in client.answers()] == [False, True]


def test_half_received_head_behind_a_response_is_waited_for(loop: ManualLoop) -> None:
    client = Client.of(loop, header_timeout=10)
    client.feed(GET + GET[:10])
    client.drain()
    client.calls[0].respond()
    assert not client.answer().closes
    client.feed(GET[10:])
    client.calls[1].respond()
    assert [answer.closes for answer in client.answers()] == [False, True]
    assert client.is_closed()


def test_half_received_body_is_waited_for(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(POST + b"he")
    client.drain()
    client.sweep(20)
    client.feed(b"llo")
    body = b"".join(client.call.receive()["body"] for _ in range(1))
    assert body == b"hello"
    client.call.respond()
    assert client.answer().closes


def test_queued_requests_are_answered(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET * 3)
    client.drain()
    for call in range(3):
        client.calls[call].respond()
    assert [answer.closes for answer in client.answers()] == [False, False, True]
    assert client.is_closed()


def test_response_that_had_begun_leaves_the_connection_for_one_more_request(loop: ManualLoop) -> None:
    client = Client.of(loop, keepalive=60, drain_linger=2)
    client.feed(GET)
    client.call.start()
    client.call.body(b"part", more=True)
    client.drain()
    client.call.body(b"rest")
    assert not client.is_closed()
    client.feed(GET)
    client.calls[1].respond()
    assert [answer.closes for answer in client.answers()] == [False, True]


def test_response_that_had_begun_leaves_the_connection_for_a_quiet_linger(loop: ManualLoop) -> None:
    client = Client.of(loop, keepalive=60, drain_linger=2)
    client.feed(GET)
    client.call.start()
    client.drain()
    client.call.body()
    client.sweep(1)
    assert not client.is_closed()
    client.sweep(2)
    assert client.is_closed()


def test_early_response_is_the_last_although_its_body_is_still_coming(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(POST + b"he")
    client.drain()
    client.call.respond()
    assert client.answer().closes
    assert client.transport.eof_written
    client.feed(b"llo")
    client.sweep(LINGER + 1)
    assert client.transport.is_closing()


def test_last_response_lingers_for_requests_that_cross_it(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET)
    client.drain()
    client.call.respond()
    assert client.transport.eof_written
    assert not client.transport.is_closing()
    client.feed(GET)
    client.feed_eof()
    assert client.transport.is_closing()
    assert client.statuses == [200]


def test_request_on_a_draining_connection_is_a_change_when_it_ends(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET)
    client.drain()
    changes: list[int] = []
    client.runtime.on_change = lambda: changes.append(len(client.runtime.streams))
    client.call.respond()
    assert changes[0] == 0


# -- connections that freer workers should have


def test_response_is_the_last_where_connections_are_to_be_shed(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.runtime.shed = 1
    client.feed(GET)
    assert client.answer().closes
    assert client.is_closed()
    assert client.runtime.shed == 0


def test_no_more_connections_are_shed_than_shall(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(GET)
    client.runtime.shed = 0
    client.feed(GET)
    assert [answer.closes for answer in client.answers()] == [False, False]


def test_connection_with_requests_in_its_queue_is_not_shed(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET + GET)
    client.runtime.shed = 1
    client.call.respond()
    assert not client.answer().closes
    client.calls[1].respond()
    assert client.runtime.shed == 0
    assert client.is_closed()


def test_connection_whose_request_still_comes_is_not_shed(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(POST + b"he")
    client.runtime.shed = 1
    client.call.respond()
    client.feed(b"llo")
    assert client.runtime.shed == 1
    assert not client.is_closed()
