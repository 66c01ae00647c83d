"""A client that reads slowly: `send()` waits for it, and it is cut off only when it takes too little."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from outrider import tls_closing
from outrider.http1_response import WRITE_HIGH_WATER
from outrider_testing.fakes import Client, ManualLoop, constant, make_context

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


# -- waiting


def test_writer_lets_send_wait_only_above_its_mark(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.transport.congested = True
    client.feed(GET)
    client.call.start()
    client.call.body(bytes(WRITE_HIGH_WATER // 2), more=True)
    sending = client.call.sending({"type": "http.response.body", "body": bytes(WRITE_HIGH_WATER), "more_body": True})
    assert not sending.done()
    assert client.runtime.blocked_writers == {client.connection}
    client.take(2 * WRITE_HIGH_WATER)
    assert sending.done()
    assert client.runtime.blocked_writers == set()


def test_lost_connection_ends_the_wait(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.transport.congested = True
    client.feed(GET)
    client.call.start()
    sending = client.call.sending({"type": "http.response.body", "body": bytes(WRITE_HIGH_WATER), "more_body": True})
    client.lose()
    assert sending.done()
    assert client.runtime.blocked_writers == set()


# -- deadlines


def stream_to_a_client_that_does_not_read(loop: ManualLoop, **config: Any) -> Client:
    client = Client.of(loop, **config)
    client.transport.congested = True
    client.feed(GET)
    client.call.start()
    return client


def test_send_waits_while_the_client_does_not_read(loop: ManualLoop) -> None:
    client = stream_to_a_client_that_does_not_read(loop)
    sending = client.call.sending({"type": "http.response.body", "body": bytes(WRITE_HIGH_WATER), "more_body": True})
    assert not sending.done()
    client.take(WRITE_HIGH_WATER)
    assert sending.done()
    client.call.body(b"x", more=True)


def test_cancelled_send_leaves_another_one_waiting(loop: ManualLoop) -> None:
    client = stream_to_a_client_that_does_not_read(loop)
    message = {"type": "http.response.body", "body": bytes(WRITE_HIGH_WATER), "more_body": True}
    first, second = client.call.sending(message), client.call.sending(message)
    first.cancel()
    loop.run_ready()
    assert first.cancelled()
    assert not second.done()
    client.take(3 * WRITE_HIGH_WATER)
    second.result()


def test_client_that_takes_nothing_is_aborted(loop: ManualLoop) -> None:
    client = stream_to_a_client_that_does_not_read(loop, write_timeout=30)
    client.call.sending({"type": "http.response.body", "body": bytes(WRITE_HIGH_WATER), "more_body": True})
    client.sweep(29)
    assert not client.transport.was_aborted()
    client.sweep(1)
    assert client.transport.was_aborted()
    assert client.log.messages("info") == ["Client 192.0.2.7:54321 does not read its response: aborted"]


def test_client_that_takes_enough_is_not_aborted(loop: ManualLoop) -> None:
    client = stream_to_a_client_that_does_not_read(loop, write_timeout=30, min_body_rate=100)
    client.call.sending({"type": "http.response.body", "body": bytes(10 * WRITE_HIGH_WATER), "more_body": True})
    for _ in range(5):
        client.take(3000)
        client.sweep(30)
    assert not client.transport.was_aborted()
    client.take(2999)
    client.sweep(30)
    assert client.transport.was_aborted()


def test_client_whose_kernel_takes_enough_is_not_aborted_although_the_transport_notices_nothing(
    loop: ManualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged = 0

    def tcp_info(_: object) -> bytes:
        return bytes(120) + acknowledged.to_bytes(8, sys.byteorder)

    monkeypatch.setattr(tls_closing, "_tcp_info", tcp_info)
    client = stream_to_a_client_that_does_not_read(loop, write_timeout=30, min_body_rate=100)
    client.call.sending({"type": "http.response.body", "body": bytes(10 * WRITE_HIGH_WATER), "more_body": True})
    for _ in range(5):
        acknowledged += 3000
        client.sweep(30)
    assert not client.transport.was_aborted()
    acknowledged += 2999
    client.sweep(30)
    assert client.transport.was_aborted()


def test_zero_switches_the_write_deadline_off(loop: ManualLoop) -> None:
    client = stream_to_a_client_that_does_not_read(loop, write_timeout=0)
    client.call.sending({"type": "http.response.body", "body": bytes(WRITE_HIGH_WATER), "more_body": True})
    client.sweep(10_000)
    assert not client.transport.was_aborted()


@pytest.mark.parametrize("size", [WRITE_HIGH_WATER // 2, 10 * WRITE_HIGH_WATER])
def test_client_that_takes_enough_of_its_last_response_is_not_aborted(loop: ManualLoop, size: int) -> None:
    client = Client.of(loop, write_timeout=30, min_body_rate=100)
    client.transport.congested = True
    client.feed(b"GET / HTTP/1.0\r\n\r\n")
    client.call.respond(bytes(size))
    assert client.transport.is_closing()
    for _ in range(5):
        client.take(4000)
        client.sweep(31)
    assert not client.transport.was_aborted()
    client.sweep(62)
    assert client.transport.was_aborted()


def test_short_last_response_that_nobody_takes_is_aborted(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), write_timeout=30)
    client.transport.congested = True
    client.feed(b"GET / HTTP/1.0\r\n\r\n")
    assert client.transport.is_closing()
    client.sweep(31)
    assert client.transport.was_aborted()


def test_client_that_still_reads_its_response_is_not_idle(loop: ManualLoop) -> None:
    client = Client.of(loop, keepalive=2, write_timeout=30)
    client.transport.congested = True
    client.feed(GET)
    client.call.respond(bytes(2 * WRITE_HIGH_WATER))
    client.sweep(3)
    assert not client.is_closed()
    client.take(2 * WRITE_HIGH_WATER)
    client.sweep(3)
    assert client.is_closed()


def test_half_closed_client_that_takes_nothing_is_aborted(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), write_timeout=30)
    client.transport.congested = True
    client.feed(GET)
    client.feed_eof()
    client.sweep(3)
    assert not client.transport.was_aborted()
    client.sweep(31)
    assert client.transport.was_aborted()


# -- the end


def test_abort_resets_the_connection(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.connection.abort()
    assert client.transport.was_aborted()


def test_abort_before_the_transport_exists_does_nothing(loop: ManualLoop) -> None:
    client = Client.of(loop)
    connection = type(client.connection)(make_context(client.runtime))
    connection.abort()
    connection.connection_lost(None)
