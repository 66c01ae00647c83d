"""What an attacker found once, and must not find again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from outrider.errors import Aborted
from outrider.forwarded import TrustedPeers
from outrider.http1_response import WRITE_HIGH_WATER
from outrider.http_stream import CLIENT_CLOSED_REQUEST, HIGH_WATER
from outrider_testing.fakes import Client, DrivenApp, FakeObserver, ManualLoop, constant, make_context, make_runtime

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class OwnBaseException(BaseException):
    """Not an Exception, as what some extensions raise."""


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), OwnBaseException()])
def test_anything_that_an_app_raises_is_a_500(loop: ManualLoop, error: BaseException) -> None:
    client = Client.of(loop)
    client.feed(GET)
    client.call.fail(error)
    assert client.statuses == [500]
    assert client.runtime.streams == set()


def test_abort_of_the_worker_passes_through_the_app(loop: ManualLoop) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise Aborted(1)

    client = Client.of(loop, app)
    with pytest.raises(Aborted):
        client.feed(GET)
    assert client.sent == b""


@pytest.mark.parametrize("body", [5, "text", None])
def test_body_that_is_no_bytes_is_an_error(loop: ManualLoop, body: Any) -> None:
    client = Client.of(loop)
    client.feed(GET)
    client.call.start(headers=[(b"content-length", b"5")])
    with pytest.raises(TypeError):
        client.call.send({"type": "http.response.body", "body": body})


def test_bodies_behind_a_slow_request_are_bounded(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(GET)
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (HIGH_WATER // 4)
    for _ in range(6):
        client.feed(post + bytes(HIGH_WATER // 4))
    assert not client.transport.is_reading()
    client.calls[0].respond()
    for number in range(1, 7):
        client.calls[number].respond()
    assert client.statuses == [200] * 7
    assert client.transport.is_reading()


def test_connection_lingers_if_bytes_followed_its_last_request(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    client.feed(b"more that nobody reads")
    client.call.respond()
    assert client.statuses == [200]
    assert client.transport.eof_written
    assert not client.transport.closing
    client.feed_eof()
    assert client.transport.closing


@pytest.fixture
def peers() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_idle_connection_whose_next_request_is_unread_is_not_closed(
    loop: ManualLoop, peers: tuple[socket.socket, socket.socket]
) -> None:
    """The loop was too busy to read it: a close would lose the request although it came in time."""
    ours, theirs = peers
    client = Client.of(loop, constant(), keepalive=2)
    client.transport.socket = ours  # type: ignore[assignment]  # a real one, to be looked at
    client.feed(GET)
    theirs.send(GET)
    client.sweep(5)
    assert not client.transport.is_closing()
    ours.recv(4096)
    client.sweep(1)
    assert client.transport.is_closing()


def test_idle_connection_of_which_nothing_readable_is_ever_read_is_closed(
    loop: ManualLoop, peers: tuple[socket.socket, socket.socket]
) -> None:
    """A TLS transport that waits for the rest of a record never tells of the end of the connection."""
    ours, theirs = peers
    client = Client.of(loop, constant(), keepalive=2)
    client.transport.socket = ours  # type: ignore[assignment]  # a real one, to be looked at
    client.feed(GET)
    theirs.close()
    client.sweep(5)
    assert not client.transport.is_closing()
    client.sweep(0.5)
    assert client.transport.is_closing()


@pytest.mark.parametrize("drains", [False, True])
def test_client_of_an_idle_connection_knows_of_its_end_at_once(
    loop: ManualLoop, peers: tuple[socket.socket, socket.socket], drains: bool
) -> None:
    """The transport closes the socket later: a request that came in between would be lost."""
    ours, theirs = peers
    client = Client.of(loop, constant(), keepalive=60 if drains else 2, drain_linger=2)
    client.transport.socket = ours  # type: ignore[assignment]  # a real one, to be shut down
    client.feed(GET)
    if drains:
        client.drain()
    client.runtime.now += 5
    assert client.connection.deadline < client.runtime.now
    client.connection.expire()
    theirs.setblocking(False)
    assert theirs.recv(1) == b""


def test_connection_that_was_once_late_may_be_so_again(
    loop: ManualLoop, peers: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = peers
    client = Client.of(loop, constant(), keepalive=2)
    client.transport.socket = ours  # type: ignore[assignment]  # a real one, to be looked at
    theirs.send(GET)
    for _ in range(3):
        client.feed(GET)
        client.sweep(5)
    assert client.statuses == [200] * 3
    assert not client.transport.is_closing()


def test_half_closed_client_that_is_gone_is_found(loop: ManualLoop, peers: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = peers
    client = Client.of(loop)
    client.transport.socket = ours  # type: ignore[assignment]  # a real one, to be looked at
    client.feed(GET)
    theirs.shutdown(socket.SHUT_WR)
    client.feed_eof()
    (half_closed,) = client.runtime.half_closed
    half_closed.check_client()
    assert not client.is_closed()
    theirs.close()
    half_closed.check_client()
    assert client.is_closed()
    loop.run_ready()
    assert client.runtime.half_closed == set()


def congested_pipeline(loop: ManualLoop) -> Client:
    """A client that asked twice and does not read: its second request waits for the first answer to be taken."""
    client = Client.of(loop)
    client.feed(GET + GET)
    client.transport.congested = True
    client.call.respond(bytes(2 * WRITE_HIGH_WATER))
    assert len(client.calls) == 1
    return client


def test_half_closed_client_that_reads_late_gets_all_answers(loop: ManualLoop) -> None:
    client = congested_pipeline(loop)
    client.feed_eof()
    assert not client.transport.closing
    client.transport.congested = False
    client.take(2 * WRITE_HIGH_WATER + 1024)
    client.calls[1].respond(b"second")
    assert [len(answer.body) for answer in client.answers()] == [2 * WRITE_HIGH_WATER, 6]


def test_request_that_waits_on_a_lost_connection_never_starts(loop: ManualLoop) -> None:
    client = congested_pipeline(loop)
    client.lose()
    assert len(client.calls) == 1


def test_half_close_in_a_later_body_leaves_the_running_answer_its_time(loop: ManualLoop) -> None:
    client = Client.of(loop, body_timeout=5)
    client.feed(GET + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
    client.feed_eof()
    client.sweep(60)
    client.call.respond(b"late")
    assert [answer.body for answer in client.answers()] == [b"late"]


@pytest.mark.parametrize("connection_is_lost", [True, False])
def test_request_whose_client_leaves_counts_and_is_logged_once(loop: ManualLoop, connection_is_lost: bool) -> None:
    client = Client.of(loop, disconnect_grace=0)
    observer = client.runtime.observer = FakeObserver()
    client.feed(GET)
    ending: tuple[Any, ...]
    if connection_is_lost:
        client.lose()
        ending = ("token", "/", CLIENT_CLOSED_REQUEST, (), 0)
    else:
        client.call.respond(b"ok")
        ending = ("token", "/", 200, [(b"content-length", b"2")], 2)
    loop.run_ready()
    assert observer.events == [("started", "/"), ending]
    assert client.runtime.counters.requests == 1


def test_trusted_proxy_is_believed_on_each_request_of_a_connection(loop: ManualLoop) -> None:
    runtime = make_runtime(loop, DrivenApp(loop), trusted_proxies=TrustedPeers.parse(["198.51.100.1"]))
    client = Client(loop, make_context(runtime, client=("198.51.100.1", 4711), trusted_proxy=True))
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.%d\r\n\r\n"
    for number in (1, 1, 2):
        client.feed(request % number)
        client.calls[-1].respond()
    assert [call.scope["client"] for call in client.calls] == [("192.0.2.1", 0), ("192.0.2.1", 0), ("192.0.2.2", 0)]
