"""The connection of a WebSocket over HTTP/1.1, from the response 101 on."""

from __future__ import annotations

import pytest

from outrider import websocket_http1
from outrider.http1_pipeline import LINGER
from outrider.tls_closing import LINGER as TLS_LINGER
from outrider.websocket_http1 import WRITE_HIGH_WATER
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import Client, ManualLoop, make_context, make_runtime
from outrider_testing.fakes.application import DrivenApp
from outrider_testing.fakes.websocket import ACCEPT, opened

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_bytes_are_counted_both_ways(loop: ManualLoop) -> None:
    client = opened(loop)
    counters = client.runtime.counters
    before = counters.bytes_in, counters.bytes_out
    client.feed(ws.frame(ws.TEXT, b"abc"))
    client.call.send({"type": "websocket.send", "text": "abcd"})
    assert (counters.bytes_in - before[0], counters.bytes_out - before[1]) == (9, 6)


def test_websocket_takes_the_place_of_its_connection(loop: ManualLoop) -> None:
    client = opened(loop)
    (connection,) = client.runtime.connections
    assert connection is not client.connection
    client.lose()
    assert client.call.receive()["code"] == 1006
    assert not client.runtime.connections


def test_half_close_ends_it(loop: ManualLoop) -> None:
    client = opened(loop)
    client.feed_eof()
    assert client.call.receive()["code"] == 1006
    assert not client.runtime.connections


def test_client_that_sends_no_more_and_does_not_read_is_aborted(loop: ManualLoop) -> None:
    client = opened(loop, websocket_ping_interval=0, websocket_close_timeout=5)
    client.transport.congested = True
    client.call.send({"type": "websocket.send", "bytes": bytes(1000)})
    client.feed_eof()
    assert client.call.receive()["code"] == 1006
    assert client.runtime.websockets == 0
    client.sweep(4)
    assert not client.transport.was_aborted()
    client.sweep(2)
    assert client.transport.was_aborted()
    assert not client.runtime.connections


def test_close_without_limit_ends_with_the_write_timeout(loop: ManualLoop) -> None:
    client = opened(loop, websocket_close_timeout=0, write_timeout=10, websocket_ping_interval=0)
    client.transport.congested = True
    client.call.send({"type": "websocket.send", "bytes": bytes(60_000)})
    client.feed_eof()
    client.sweep(9)
    client.take(20_000)
    client.sweep(9)
    assert not client.transport.was_aborted()
    client.sweep(11)
    assert client.transport.was_aborted()
    assert not client.runtime.connections


@pytest.mark.parametrize("has_sent_everything", [True, False])
def test_client_that_does_not_answer_the_end_of_tls_is_closed_when_it_has_everything(
    loop: ManualLoop, monkeypatch: pytest.MonkeyPatch, *, has_sent_everything: bool
) -> None:
    monkeypatch.setattr(websocket_http1, "is_flushed", lambda _: has_sent_everything)
    client = opened(loop)
    transport = client.transport
    monkeypatch.setattr(transport, "get_extra_info", {"socket": transport.socket, "ssl_object": object()}.get)
    transport.congested = True
    client.feed(ws.close(1000))
    client.sweep(TLS_LINGER + 0.1)
    assert transport.was_aborted() is has_sent_everything
    assert transport.socket.options == []  # no reset, which would take away what the client has not read


def test_closing_handshake_closes_the_connection(loop: ManualLoop) -> None:
    client = opened(loop)
    client.feed(ws.close(1000))
    assert client.sent == b"\x88\x02\x03\xe8"
    assert client.transport.is_closing()


def test_client_that_broke_the_protocol_can_read_why(loop: ManualLoop) -> None:
    client = opened(loop)
    client.feed(ws.frame(0x3))
    assert client.transport.eof_written
    assert not client.transport.is_closing()
    client.feed(bytes(100_000))
    client.sweep(LINGER + 1)
    assert client.transport.is_closing()
    loop.run_ready()
    assert not client.runtime.connections


def test_connection_without_half_close_closes_at_once(loop: ManualLoop) -> None:
    client = Client(loop, make_context(make_runtime(loop, DrivenApp(loop))), half_close=False)
    client.feed(ws.handshake())
    client.call.receive()
    client.call.send(ACCEPT)
    client.feed(ws.frame(0x3))
    assert client.transport.is_closing()


def test_slow_reader_makes_the_application_wait(loop: ManualLoop) -> None:
    client = opened(loop)
    client.transport.congested = True
    assert client.call.sending({"type": "websocket.send", "bytes": bytes(1000)}).done()
    sending = client.call.sending({"type": "websocket.send", "bytes": bytes(WRITE_HIGH_WATER)})
    assert not sending.done()
    client.take(WRITE_HIGH_WATER)
    assert sending.done()


def test_responses_that_are_not_read_yet_count(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.transport.congested = True
    client.feed(GET + ws.handshake())
    client.calls[0].respond(bytes(WRITE_HIGH_WATER + 1))
    websocket = client.calls[1]
    websocket.receive()
    websocket.send(ACCEPT)
    sending = websocket.sending({"type": "websocket.send", "text": "a"})
    assert not sending.done()
    client.take(WRITE_HIGH_WATER + 1000)
    assert sending.done()


def test_client_that_does_not_read_its_handshake_counts_as_one_that_does_not_read(loop: ManualLoop) -> None:
    client = Client.of(loop, write_timeout=10, websocket_ping_interval=0)
    client.feed(ws.handshake())
    client.call.receive()
    client.transport.congested = True
    client.call.send({**ACCEPT, "headers": [(b"x", bytes(200_000).replace(b"\0", b"y"))]})
    assert client.connection not in client.runtime.blocked_writers
    assert len(client.runtime.blocked_writers) == 1
    sending = client.call.sending({"type": "websocket.send", "text": "a"})
    assert not sending.done()
    client.take(1 << 20)
    assert sending.done()
    assert not client.runtime.blocked_writers
    client.sweep(11)
    assert not client.transport.was_aborted()


def test_client_that_never_reads_is_aborted(loop: ManualLoop) -> None:
    client = opened(loop, write_timeout=10, websocket_ping_interval=0)
    client.transport.congested = True
    sending = client.call.sending({"type": "websocket.send", "bytes": bytes(2 * WRITE_HIGH_WATER)})
    client.sweep(6)
    client.take(5000)
    client.sweep(6)
    assert not client.transport.was_aborted()
    client.sweep(12)
    assert client.transport.was_aborted()
    assert sending.done()
    assert client.call.receive()["code"] == 1006
    assert "does not read" in client.log.messages("info")[0]


def test_write_timeout_of_0_is_none(loop: ManualLoop) -> None:
    client = opened(loop, write_timeout=0, websocket_ping_interval=0)
    client.transport.congested = True
    client.call.sending({"type": "websocket.send", "bytes": bytes(2 * WRITE_HIGH_WATER)})
    client.sweep(10_000)
    assert not client.transport.was_aborted()


def test_client_that_does_not_read_the_close_is_aborted(loop: ManualLoop) -> None:
    client = opened(loop, websocket_close_timeout=5, websocket_ping_interval=0)
    client.transport.congested = True
    client.call.send({"type": "websocket.send", "bytes": bytes(100)})
    client.feed(ws.close(1000))
    assert client.transport.is_closing()
    client.sweep(4)
    assert not client.transport.was_aborted()
    client.sweep(2)
    assert client.transport.was_aborted()


def test_reading_stops_while_the_application_does_not_receive(loop: ManualLoop) -> None:
    client = opened(loop, websocket_max_queue=2)
    client.feed(ws.frame(ws.TEXT, b"a") * 2)
    client.feed(ws.frame(ws.TEXT, b"b"))
    assert client.transport.waiting > 0
    assert [client.call.receive()["text"] for _ in range(3)] == ["a", "a", "b"]


def test_drain_closes_with_1012_at_the_streams_time(loop: ManualLoop) -> None:
    client = opened(loop)
    client.runtime.draining = True
    for connection in list(client.runtime.connections):
        connection.begin_drain()
    for stream in client.runtime.streams:
        stream.notify_drain(last_call=False)
    client.sweep(1)
    assert client.sent == b"\x88\x02\x03\xf4"
    client.feed(ws.close(1012))
    client.call.finish()
    assert not client.runtime.connections
    assert not client.runtime.streams


def test_ping_goes_out_with_the_sweep(loop: ManualLoop) -> None:
    client = opened(loop, websocket_ping_interval=20)
    client.sweep(21)
    assert client.sent == b"\x89\x00"


def test_lost_websocket_may_be_what_the_drain_waited_for(loop: ManualLoop) -> None:
    client = opened(loop)
    changes: list[int] = []
    client.runtime.on_change = lambda: changes.append(len(client.runtime.connections))
    client.lose()
    assert changes[:1] == [0]


@pytest.mark.parametrize("how", ["take", "lose"])
def test_client_that_blocked_a_writer_does_so_no_longer(loop: ManualLoop, how: str) -> None:
    client = opened(loop)
    client.transport.congested = True
    client.call.sending({"type": "websocket.send", "bytes": bytes(2 * WRITE_HIGH_WATER)})
    assert len(client.runtime.blocked_writers) == 1
    client.take(3 * WRITE_HIGH_WATER) if how == "take" else client.lose()
    assert client.runtime.blocked_writers == set()


@pytest.mark.parametrize("taken, is_aborted", [(1000, False), (999, True)])
def test_client_that_reads_is_held_to_min_body_rate(loop: ManualLoop, taken: int, is_aborted: bool) -> None:
    client = opened(loop, write_timeout=10, min_body_rate=100, websocket_ping_interval=0)
    client.transport.congested = True
    client.call.sending({"type": "websocket.send", "bytes": bytes(2 * WRITE_HIGH_WATER)})
    client.take(taken)
    client.sweep(10)
    assert client.transport.was_aborted() is is_aborted


def test_client_that_reads_nothing_is_aborted_without_min_body_rate(loop: ManualLoop) -> None:
    client = opened(loop, write_timeout=10, min_body_rate=0, websocket_ping_interval=0)
    client.transport.congested = True
    client.call.sending({"type": "websocket.send", "bytes": bytes(2 * WRITE_HIGH_WATER)})
    client.sweep(10)
    assert client.transport.was_aborted()


def test_what_a_lingering_client_sends_is_read_although_the_application_made_it_wait(loop: ManualLoop) -> None:
    client = opened(loop, websocket_close_timeout=5)
    client.feed(ws.frame(ws.TEXT, b"a") + ws.frame(0x3))
    assert not client.transport.is_reading()
    client.sweep(6)
    assert client.transport.eof_written
    assert client.transport.is_reading()


def test_client_that_does_not_read_is_named_in_the_log(loop: ManualLoop) -> None:
    client = opened(loop, write_timeout=10, websocket_ping_interval=0)
    client.transport.congested = True
    client.call.sending({"type": "websocket.send", "bytes": bytes(2 * WRITE_HIGH_WATER)})
    client.sweep(10)
    assert client.log.messages("info")[0].startswith("Client 192.0.2.7:54321 does not read ")
