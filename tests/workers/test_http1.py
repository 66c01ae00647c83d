"""One connection: requests one after another, bodies, Expect, Upgrade, and how it ends."""

from __future__ import annotations

import socket
import struct

import pytest

from outrider.http1 import MOST_DISCARDED
from outrider.http_stream import HIGH_WATER, ClientDisconnected
from outrider_testing.fakes import Client, ManualLoop, constant, echo, make_context, make_runtime

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


# -- keep-alive


def test_connection_serves_requests_one_after_another(loop: ManualLoop) -> None:
    client = Client.of(loop)
    for text in (b"one", b"two"):
        client.feed(GET)
        client.calls[-1].respond(text)
    assert [answer.body for answer in client.answers()] == [b"one", b"two"]
    assert not client.is_closed()


@pytest.mark.parametrize(
    "head, persists",
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", False),
    ],
)
def test_client_decides_about_persistence(loop: ManualLoop, head: bytes, persists: bool) -> None:
    client = Client.of(loop, constant())
    client.feed(head)
    assert client.is_closed() is not persists
    assert client.answer().closes is not persists
    assert ("keep-alive" in client.answer().all("connection")) is (persists and b"HTTP/1.0" in head)


def test_connection_without_keepalive_closes_after_each_response(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), keepalive=0)
    client.feed(GET + GET)
    assert client.answer().closes
    assert client.is_closed()


def test_connection_ignores_what_follows_the_last_request(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
    client.feed(b"more")
    client.call.respond()
    assert client.statuses == [200]
    assert client.is_closed()
    assert client.log.entries == []


def test_app_ends_the_connection_with_its_own_connection_close(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(headers=[(b"connection", b"close")]))
    client.feed(GET + GET)
    assert client.answer().closes
    assert client.is_closed()


# -- request bodies


def test_app_receives_a_body_piece_by_piece(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(POST + b"he")
    assert client.call.receive() == {"type": "http.request", "body": b"he", "more_body": True}
    receiving = client.call.receiving()
    assert not receiving.done()
    client.feed(b"llo")
    assert receiving.result()["body"] == b"llo"
    if receiving.result()["more_body"]:
        assert client.call.receive() == {"type": "http.request", "body": b"", "more_body": False}


def test_app_receives_a_chunked_body_without_extensions_and_trailers(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    client.feed(CHUNKED + b'5;a=b;c="d"\r\nhello\r\n00006\r\n world\r\n0\r\nHost: evil\r\nX: y\r\n\r\n')
    seen = client.answer().json()
    assert seen["body"] == "hello world"
    assert seen["headers"] == ["host: a", "transfer-encoding: chunked"]


def test_trailers_stay_out_of_the_next_request(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    client.feed(CHUNKED + b"0\r\nX-Evil: y\r\n")
    client.feed(b"\r\n" + GET)
    assert client.answers()[1].json()["headers"] == ["host: a"]


def test_upload_in_large_reads_is_served(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n")
    size = 0
    for _ in range(3):
        client.feed(bytes(200_000))
        size += len(client.call.receive()["body"])
    assert size == 600_000


def test_connection_pauses_reading_until_the_app_receives(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    client.feed(bytes(HIGH_WATER))
    assert client.transport.is_reading()
    client.feed(b"x")
    assert not client.transport.is_reading()
    client.feed(b"yz")
    assert client.transport.waiting == 2
    assert len(client.call.receive()["body"]) == HIGH_WATER + 1
    assert client.transport.is_reading()
    assert client.transport.waiting == 0


def test_connection_reads_and_drops_the_body_that_the_app_did_not_want(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(POST)
    assert client.statuses == [200]
    client.feed(b"hello" + GET)
    assert client.statuses == [200, 200]
    assert not client.is_closed()


def test_connection_resumes_reading_when_an_early_response_leaves_the_body_unread(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    client.feed(bytes(90_000))
    assert not client.transport.is_reading()
    client.call.respond()
    assert client.transport.is_reading()
    client.feed(bytes(10_000) + GET)
    client.calls[1].respond()
    assert client.statuses == [200, 200]


def test_connection_lingers_when_an_unwanted_body_is_too_long(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
    client.feed(bytes(MOST_DISCARDED))
    assert not client.is_closed()
    client.feed(b"x" + GET)
    assert client.statuses == [200]
    assert client.transport.eof_written
    assert not client.transport.is_closing()
    client.feed_eof()
    assert client.transport.is_closing()


def test_connection_lingers_when_the_chunks_of_an_unwanted_body_are_too_many(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    client.feed(CHUNKED)
    chunk = b"1000\r\n" + bytes(4096) + b"\r\n"
    client.feed(chunk * (MOST_DISCARDED // 4096 + 10))
    assert client.statuses == [200]
    assert client.transport.eof_written


# -- Expect


def test_connection_sends_100_only_when_the_app_first_receives(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(EXPECT)
    assert client.sent == b""
    receiving = client.call.receiving()
    assert client.sent == CONTINUE
    client.feed(b"hello")
    assert receiving.result()["body"] == b"hello"
    client.call.respond()
    assert client.statuses == [100, 200]
    assert not client.is_closed()


def test_connection_sends_100_once(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(EXPECT)
    client.call.receiving()
    client.feed(b"he")
    client.call.receiving()
    assert client.sent == CONTINUE


def test_connection_sends_no_100_when_the_body_is_already_coming(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    client.feed(EXPECT + b"hello")
    assert client.statuses == [200]


def test_connection_sends_no_100_to_an_http10_client(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(EXPECT.replace(b"1.1", b"1.0"))
    client.call.receiving()
    assert client.sent == b""


def test_early_response_instead_of_100_closes_the_connection(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(status=403))
    client.feed(EXPECT)
    assert client.answer().status == 403
    assert client.answer().closes
    assert client.transport.eof_written
    client.feed(b"hello" + GET)
    assert client.statuses == [403]


def test_other_expectation_gets_417(loop: ManualLoop) -> None:
    client = Client.of(loop, echo)
    client.feed(EXPECT.replace(b"100-continue", b"a-pony"))
    assert client.statuses == [417]
    assert client.is_closed()


def test_early_response_after_100_keeps_the_connection(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(EXPECT)
    client.call.receiving()
    client.call.respond()
    client.feed(b"hello")
    assert client.statuses == [100, 200]
    assert not client.is_closed()


# -- the end of a connection


def test_app_is_told_at_once_that_the_client_has_gone(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET)
    client.call.receive()
    receiving = client.call.receiving()
    assert not receiving.done()
    client.lose()
    assert receiving.result() == {"type": "http.disconnect"}
    with pytest.raises(ClientDisconnected):
        client.call.start()


def test_lost_connection_drops_the_requests_that_wait(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET + GET)
    client.lose(ConnectionResetError())
    client.call.finish()
    assert len(client.calls) == 1
    assert client.connection not in client.runtime.connections


def test_lost_connection_is_reported_as_a_change(loop: ManualLoop) -> None:
    client = Client.of(loop)
    changes: list[int] = []
    client.runtime.on_change = lambda: changes.append(len(client.runtime.connections))
    client.lose()
    assert changes == [0]


@pytest.mark.parametrize("unix", [False, True])
def test_half_closed_client_gets_its_answers(loop: ManualLoop, unix: bool) -> None:
    client = Client(loop, make_context(make_runtime(loop, Client.of(loop).runtime.app)), unix=unix)
    client.feed(GET + GET)
    client.feed_eof()
    assert not client.is_closed()
    for call in range(2):
        client.calls[call].respond()
    assert client.statuses == [200, 200]
    assert client.is_closed()
    keepalive = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert (keepalive in client.transport.socket.options) is not unix


def test_half_closed_client_gets_its_answer_although_its_next_request_is_incomplete(loop: ManualLoop) -> None:
    for rest in (b"GET / HT", POST, POST + b"h"):
        client = Client.of(loop)
        client.feed(GET + rest)
        client.feed_eof()
        client.sweep(100)
        client.calls[0].respond()
        assert client.statuses == [200]
        assert client.is_closed()
        assert len(client.calls) == 1


def test_half_close_is_a_disconnect_to_the_app_that_waits(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET)
    client.call.receive()
    receiving = client.call.receiving()
    client.feed_eof()
    assert receiving.result() == {"type": "http.disconnect"}


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHo", POST + b"he"])
def test_end_of_an_incomplete_request_closes_the_connection(loop: ManualLoop, data: bytes) -> None:
    client = Client.of(loop)
    client.feed(data)
    client.feed_eof()
    assert client.transport.is_closing()
    assert client.sent == b""


def test_end_of_a_tls_connection_closes_it(loop: ManualLoop) -> None:
    client = Client.of(loop)
    runtime = client.runtime
    client = Client(loop, make_context(runtime, scheme="https"), half_close=False)
    client.feed(GET)
    client.feed_eof()
    assert client.transport.is_closing()


def test_broken_off_response_is_not_ended(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET)
    client.call.start()
    client.call.body(b"part", more=True)
    client.call.fail(ValueError())
    assert not client.answer().complete
    assert client.transport.is_closing()
    client.feed(GET)
    assert len(client.calls) == 1


def test_broken_off_response_that_ends_with_the_connection_is_reset(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(b"GET / HTTP/1.0\r\n\r\n")
    client.call.start()
    client.call.body(b"part", more=True)
    client.call.finish()
    linger = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert linger in client.transport.socket.options
    assert client.transport.was_aborted()


def test_half_close_during_a_response_ends_the_connection_after_it(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET)
    client.call.start()
    client.feed_eof()
    client.call.body(b"rest")
    assert client.answer().complete
    assert client.is_closed()


def test_error_in_the_server_itself_is_not_taken_for_a_bad_request(
    loop: ManualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client.of(loop)
    monkeypatch.setattr(client.runtime, "state", None)
    with pytest.raises(AttributeError):
        client.feed(GET)
