"""How a connection of HTTP/2 ends when its worker drains, or another worker is freer (RFC 9113 §6.8)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from outrider import http2
from outrider.http2_writer import LINGER
from outrider_testing.fakes import FakeTransport, ManualLoop, constant, make_context, make_runtime
from outrider_testing.http2_client import GET, POST, HTTP2Client

NOTICE = 2**31 - 1


def last_streams(client: HTTP2Client) -> list[int]:
    return [goaway.last_stream_id for goaway in client.goaways]


def test_idle_connection_is_told_to_go_and_closed(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), keepalive=60)
    client.request()
    client.drain()
    assert last_streams(client) == [NOTICE]
    assert not client.is_closed()
    client.exchange()  # the client's answer to the PING
    assert last_streams(client) == [NOTICE, 1]
    assert client.is_closed()


def test_request_that_was_on_its_way_is_served(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, keepalive=60)
    client.runtime.draining = True
    client.connection.begin_drain()
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, GET, end_stream=True)
    client.exchange()
    assert last_streams(client) == [NOTICE, stream]
    assert not client.is_closed()
    client.call.respond(b"ok")
    client.exchange()
    assert client.response(stream).body == b"ok"
    assert client.is_closed()


def test_streams_that_are_open_are_finished(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    first, second = client.request(), client.request()
    client.drain()
    client.exchange()
    assert last_streams(client) == [NOTICE, second]
    for call in client.calls:
        assert not client.is_closed()
        call.respond(b"ok")
        client.exchange()
    assert client.response(first).body == client.response(second).body == b"ok"
    assert client.is_closed()


def test_stream_after_the_last_one_is_ignored(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.drain()
    client.exchange()
    client.request()
    assert len(client.calls) == 1
    assert not client.is_closed()


def test_client_that_does_not_answer_the_ping_is_not_waited_for(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), keepalive=60, drain_linger=2)
    client.request()
    client.drain()
    client.sweep(1.9)
    assert not client.is_closed()
    client.sweep(0.2)
    assert last_streams(client) == [NOTICE, 1]
    assert client.is_closed()


def test_client_with_an_open_stream_that_does_not_answer_the_ping_gets_its_last_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, drain_linger=2)
    client.request()
    client.drain()
    client.sweep(2.1)
    assert last_streams(client) == [NOTICE, 1]
    assert not client.is_closed()


def test_connection_without_a_request_waits_for_its_first(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, header_timeout=10, drain_linger=2)
    client.drain()
    client.sweep(3)
    assert not client.is_closed()
    client.sweep(7.5)
    assert client.is_closed()


def test_connection_that_opens_during_the_drain_is_told_at_once(loop: ManualLoop) -> None:
    runtime = make_runtime(loop, constant())
    runtime.draining = True
    client = HTTP2Client(loop, make_context(runtime))
    client.exchange()
    assert last_streams(client)[0] == NOTICE


def test_client_that_says_goodbye_gets_its_responses(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.h2.close_connection()
    client.feed(client.h2.data_to_send())
    assert not client.is_closed()
    client.call.respond(b"ok")
    loop.run_ready()
    assert client.sent.endswith(b"ok")
    assert client.is_closed()


def test_idle_client_that_says_goodbye_is_closed(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.h2.close_connection()
    client.feed(client.h2.data_to_send())
    assert client.is_closed()


def test_idle_connection_leaves_for_a_freer_worker(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), keepalive=60)
    client.runtime.shed = 1
    client.request()
    client.exchange()
    assert client.runtime.shed == 0
    assert client.is_closed()


def test_connection_that_ends_lingers_for_its_client_to_read(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    client.request()
    client.drain()
    client.exchange()
    assert client.transport.eof_written
    assert not client.transport.closing
    client.sweep(2.5)
    assert client.transport.closing


def test_connection_over_tls_is_just_closed(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    client.transport._half_close = False
    client.request()
    client.drain()
    client.exchange()
    assert client.transport.closing


@pytest.mark.parametrize("has_sent_everything", [True, False])
def test_client_over_tls_need_not_answer_the_end(
    loop: ManualLoop, monkeypatch: pytest.MonkeyPatch, has_sent_everything: bool
) -> None:
    monkeypatch.setattr(http2, "is_flushed", lambda _: has_sent_everything)
    context = replace(make_context(make_runtime(loop, constant())), tls={"tls_version": 0x0304})
    client = HTTP2Client(loop, context)
    client.transport._half_close = False
    client.transport.congested = True
    client.request()
    client.drain()
    client.exchange()
    client.sweep(2.5)
    assert client.transport.was_aborted() is has_sent_everything
    client.sweep(30)
    client.sweep(30)
    assert client.transport.was_aborted()


def test_connection_can_be_aborted_before_and_after_it_is_open(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    type(client.connection)(make_context(client.runtime)).abort()
    client.connection.abort()
    assert client.transport.was_aborted()
    loop.run_ready()
    assert client.runtime.connections == set()
    assert isinstance(client.transport, FakeTransport)


def test_request_on_its_way_does_not_put_the_last_stream_off(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, keepalive=60, drain_linger=2)
    client.request()
    client.call.respond(b"ok")
    client.exchange()
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, GET, end_stream=True)
    on_its_way = client.h2.data_to_send()
    client.drain()
    client.feed(on_its_way)
    client.sweep(2.1)
    assert last_streams(client) == [NOTICE, stream]


def test_client_is_asked_to_leave_once(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.drain()
    client.connection.begin_drain()
    client.sweep(0)
    assert last_streams(client) == [NOTICE]
    assert client.sent.count(b"\0\0\x08\6\0") == 1


def test_drain_does_not_prolong_an_idle_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), keepalive=1, drain_linger=10)
    client.request()
    client.drain()
    client.sweep(1.5)
    assert client.is_closed()


def test_answer_to_a_ping_that_nobody_sent_ends_nothing(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), keepalive=60)
    client.request()
    client.feed(b"\0\0\x08\6\1\0\0\0\0" + bytes(8))
    assert client.goaways == []
    assert client.response(client.request()).status == 200


def test_connection_lingers_for_so_long(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, keepalive=60)
    client.h2.close_connection()
    client.feed(client.h2.data_to_send())
    assert client.transport.eof_written
    assert client.connection.deadline == client.runtime.now + LINGER


# -- when the last stream is named


def test_late_body_does_not_hasten_the_last_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, drain_linger=10, body_timeout=3)
    stream = client.request(POST, b"x", more=True)
    client.drain()
    client.sweep(3.5)
    assert client.response(stream).status == 408
    assert last_streams(client) == [NOTICE]
    client.sweep(6)
    assert last_streams(client) == [NOTICE]
    client.sweep(1)
    assert last_streams(client) == [NOTICE, stream]
    assert client.is_closed()


def test_late_body_beside_another_request_does_not_hasten_the_last_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, drain_linger=10, body_timeout=3)
    client.request()
    late = client.request(POST, b"x", more=True)
    client.drain()
    client.sweep(3.5)
    assert client.response(late).status == 408
    assert last_streams(client) == [NOTICE]
    client.sweep(7)
    assert last_streams(client) == [NOTICE, late]
    assert not client.is_closed()


def test_body_that_comes_in_time_does_not_hasten_the_last_stream(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, drain_linger=10, body_timeout=3)
    stream = client.request(POST, b"x", more=True)
    client.drain()
    client.h2.clear_outbound_data_buffer()  # the answer to the PING
    for _ in range(2):
        client.sweep(2)
        client.send(stream, bytes(1000), more=True)
    assert last_streams(client) == [NOTICE]


def test_client_that_does_not_answer_the_ping_has_its_deadlines_afterwards(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, drain_linger=2, body_timeout=5)
    stream = client.request(POST, b"x", more=True)
    client.drain()
    client.sweep(2.5)
    assert last_streams(client) == [NOTICE, stream]
    assert client.connection.deadline == client.runtime.now + 2.5
    client.sweep(3)
    assert client.response(stream).status == 408


def test_first_request_during_the_drain_may_be_the_only_one(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), header_timeout=0, drain_linger=2)
    client.drain()
    client.h2.clear_outbound_data_buffer()  # the answer to the PING
    stream = client.request()
    assert client.response(stream).status == 200
    client.sweep(1.9)
    assert last_streams(client) == [NOTICE]
    client.sweep(0.2)
    assert last_streams(client) == [NOTICE, stream]
    assert client.is_closed()
