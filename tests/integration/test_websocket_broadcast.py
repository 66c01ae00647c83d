"""One subscriber of a thousand does not read: the others notice nothing, and the worker keeps nothing for it."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

import pytest

from outrider_testing.footprint import MEBIBYTE, Footprint
from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.serving import Serve

SUBSCRIBERS = 1000
MESSAGES = 100
SIZE = 200
# For the one that does not read: in all five times what two kernels' buffers hold.
LARGE = MEBIBYTE
MOST_EXTRA = 24 * MEBIBYTE
PATIENCE = 60.0

HANDSHAKE = (
    "GET /feed?size={size} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def frame(number: int, size: int) -> bytes:
    """A message of `apps.broadcast` as servers send it (RFC 6455, section 5.2)."""
    length = bytes([126]) + size.to_bytes(2) if size < 65536 else bytes([127]) + size.to_bytes(8)
    return b"\x82" + length + b"%08d" % number + b"." * (size - 8)


def subscribe(server: GunicornProcess, size: int, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(PATIENCE)
    client.connect(server.tcp_address)
    client.sendall(HANDSHAKE.format(size=size).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(4096)  # nothing follows it before something is published
    assert head.startswith(b"HTTP/1.1 101 ")
    return client


@contextlib.contextmanager
def subscribed(server: GunicornProcess, count: int) -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    try:
        clients.extend(subscribe(server, SIZE) for _ in range(count))
        yield clients
    finally:
        for client in clients:
            client.close()


def receive(clients: list[socket.socket], size: int) -> list[bytes]:
    """What each has received, once each has that many bytes."""
    received = {client.fileno(): bytearray() for client in clients}
    by_descriptor = {client.fileno(): client for client in clients}
    ends = time.monotonic() + PATIENCE
    with select.epoll() as poll:
        for descriptor in by_descriptor:
            poll.register(descriptor, select.EPOLLIN)
        waiting = set(by_descriptor)
        while waiting:
            assert time.monotonic() < ends, f"{len(waiting)} subscribers have not received everything"
            for descriptor, _ in poll.poll(1.0):
                piece = by_descriptor[descriptor].recv(size)
                assert piece, "the server has closed a subscriber"
                received[descriptor] += piece
                if len(received[descriptor]) >= size:
                    poll.unregister(descriptor)
                    waiting.remove(descriptor)
    return [bytes(each) for each in received.values()]


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.alone
def test_subscriber_that_does_not_read_costs_nobody_anything(serve: Serve) -> None:
    # Nobody here answers a ping, and the one that does not read may stay for as long as the others take.
    env = {"OUTRIDER_WEBSOCKET_PING_INTERVAL": "0", "OUTRIDER_WRITE_TIMEOUT": "0"}
    more_than_subscribers = ("--worker-connections", str(2 * SUBSCRIBERS))
    server = serve("outrider_testing.apps.broadcast:app", *more_than_subscribers, env=env)
    (worker,) = server.workers()
    wanted = b"".join(frame(number, SIZE) for number in range(1, MESSAGES + 1))
    with subscribe(server, LARGE, receive_buffer=4096) as slow, subscribed(server, SUBSCRIBERS - 1) as others:
        with Footprint(worker) as footprint:
            assert server.get(f"/publish?count={MESSAGES}", timeout=PATIENCE).text == str(MESSAGES)
            assert set(receive(others, len(wanted))) == {wanted}
        assert int(server.get("/slowest").text) < MESSAGES
        assert footprint.growth < MOST_EXTRA
        with slow.makefile("rb") as late:
            for number in range(1, MESSAGES + 1):
                expected = frame(number, LARGE)
                assert late.read(len(expected)) == expected, f"message {number} is wrong"
        assert int(server.get("/slowest").text) == MESSAGES
