"""HTTP/2 that is allowed frame by frame, and is an attack as a whole (RFC 9113 §10.5).

Whatever the server does about it, it ends or stays cheap: its CPU and its memory are measured, and somebody else is
served before, while and after.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from outrider_testing import http2_frames as h2
from outrider_testing.footprint import MEBIBYTE, Footprint
from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.http2_wire import WireClient
from outrider_testing.http_client import connect

MOST_MEMORY = 8 * MEBIBYTE
MOST_CPU = 1.0  # seconds for any of the attacks; each of them could cost minutes
STALLED = 2.0  # seconds without an octet taken: the server does not read
ENDED = 10.0  # seconds in which the server deals with what it has taken
PIECE = 1 << 16
MARK = b"\xffmarker\xff"
PONG = h2.ping(MARK, h2.ACK)
LARGE = "v" * 4000
FIRST = h2.indexed(62)  # the newest entry of the dynamic table


@dataclass(frozen=True)
class Attack:
    """What is sent after the handshake, if the server takes all of it.

    `ends` says that the server must end the connection; it may do so in any other case. The attacker reads nothing of
    what the server sends with `deaf`.
    """

    name: str
    octets: Callable[[], bytes]
    ends: bool = False
    deaf: bool = False
    settings: bytes = h2.settings()


def streams(count: int) -> range:
    return range(1, 2 * count, 2)


def for_streams(count: int, make: Callable[[int], bytes]) -> bytes:
    return b"".join(make(stream) for stream in streams(count))


def bomb(kept: bytes, times: int) -> bytes:
    """A field that is kept, and a block that repeats it in an octet each time."""
    return h2.headers(1, h2.GET + kept) + h2.headers(3, h2.GET + FIRST * times)


OPENED = h2.post(1, path="/stuck")
UNFINISHED = h2.headers(1, h2.GET, h2.END_STREAM)
KEPT = h2.literal("x", LARGE, h2.INDEXED)
KEPT_COOKIE = h2.literal("cookie", LARGE, h2.INDEXED)

ATTACKS = [
    Attack("rapid reset", lambda: for_streams(20_000, lambda s: h2.get(s) + h2.rst_stream(s)), ends=True),
    Attack("rapid reset of uploads", lambda: for_streams(20_000, lambda s: h2.post(s) + h2.rst_stream(s)), ends=True),
    Attack("streams that the server must reset",
           lambda: for_streams(20_000, lambda s: h2.post(s) + h2.window_update(s, 0)), ends=True),
    Attack("malformed requests", lambda: for_streams(20_000, lambda s: h2.get(s, "/", ("X", "y"))), ends=True),
    Attack("more streams than allowed", lambda: for_streams(20_000, lambda s: h2.post(s, path="/stuck")), ends=True),
    Attack("CONTINUATION without end",
           lambda: UNFINISHED + h2.continuation(1, h2.literal("x", "y" * 1000), 0) * 50_000, ends=True),
    Attack("empty CONTINUATION without end", lambda: UNFINISHED + h2.continuation(1, b"", 0) * 200_000, ends=True),
    Attack("PING", lambda: h2.ping() * 100_000),
    Attack("PING of a deaf client", lambda: h2.ping() * 500_000, deaf=True),
    Attack("SETTINGS", lambda: h2.settings() * 50_000),
    Attack("SETTINGS of a deaf client", lambda: h2.settings() * 500_000, deaf=True),
    Attack("SETTINGS with many values", lambda: h2.settings(*[(0xABCD, 1)] * 2000) * 200),
    Attack("empty DATA", lambda: OPENED + h2.data(1, b"", 0) * 200_000),
    Attack("DATA of padding only", lambda: OPENED + h2.data(1, h2.padded(b"", 0), h2.PADDED) * 60_000),
    Attack("PRIORITY", lambda: for_streams(100_000, lambda s: h2.priority(s, s + 2))),
    Attack("WINDOW_UPDATE", lambda: OPENED + h2.window_update(1, 1) * 100_000),
    Attack("frames of an unknown type", lambda: h2.frame(0xEE, 0, 0, b"?") * 100_000),
    Attack("RST_STREAM of one stream", lambda: OPENED + h2.rst_stream(1) * 100_000),
    Attack("INITIAL_WINDOW_SIZE back and forth, with many streams",
           lambda: for_streams(100, lambda s: h2.get(s, "/bulk?size=1000000"))
           + (h2.settings((4, 1)) + h2.settings((4, 0))) * 3_000, settings=h2.settings((4, 0))),
    Attack("a window that opens an octet at a time",
           lambda: h2.get(1, "/bulk?size=1000000") + h2.window_update(1, 1) * 50_000, settings=h2.settings((4, 0))),
    Attack("large responses that nobody lets pass",
           lambda: for_streams(100, lambda s: h2.get(s, "/bulk?size=10000000")), settings=h2.settings((4, 0))),
    Attack("large responses that nobody reads", lambda: h2.window_update(0, 2**30)
           + for_streams(100, lambda s: h2.get(s, "/bulk?size=10000000")), deaf=True,
           settings=h2.settings((4, 2**30))),
    Attack("a block that repeats a large field", lambda: bomb(KEPT, 16_000)),
    Attack("a block that repeats a large cookie", lambda: bomb(KEPT_COOKIE, 16_000)),
    Attack("blocks that repeat a large field", lambda: h2.headers(1, h2.GET + KEPT)
           + b"".join(h2.headers(s, h2.GET + FIRST * 16_000) for s in range(3, 100, 2))),
    Attack("a block of fields without name and value",
           lambda: UNFINISHED + h2.continuation(1, h2.literal("", "") * 5_000, 0) * 20 + h2.continuation(1)),
    Attack("a block of many small fields",
           lambda: UNFINISHED + h2.continuation(1, h2.literal("x", "y") * 3_000, 0) * 20 + h2.continuation(1)),
    Attack("blocks that fill the dynamic table again and again",
           lambda: for_streams(2_000, lambda s: h2.get(s) + h2.headers(s + 2**20, h2.GET + KEPT))),
]  # fmt: skip


def send_what_is_taken(sock: socket.socket, octets: bytes, *, deaf: bool, look: Callable[[], None]) -> bool:
    """Send until all is sent, the server has closed, or it takes no more; return whether it has closed."""
    left = memoryview(octets)
    last = time.monotonic()
    sock.setblocking(False)
    while left and time.monotonic() - last < STALLED:
        readable, writable, _ = select.select([] if deaf else [sock], [sock], [], STALLED)
        try:
            if readable and not sock.recv(1 << 18):
                return True
            if writable:
                left = left[sock.send(left[:PIECE]) :]
                last = time.monotonic()
        except BlockingIOError:
            continue
        except ConnectionError:
            return True
        look()
    return False


def settle(sock: socket.socket) -> bool:
    """Return when the server has dealt with all that was sent, or has closed: then it is True."""
    sock.settimeout(ENDED)
    tail = b""
    try:
        sock.sendall(h2.ping(MARK))
        while received := sock.recv(1 << 18):
            if PONG in tail + received:
                return False
            tail = (tail + received)[-len(PONG) :]
    except ConnectionError:
        pass
    return True


def ask(server: GunicornProcess) -> None:
    """Be somebody else."""
    with WireClient(server.address) as client:
        client.handshake()
        client.send(h2.get(1))
        assert client.response(1).body == b"hello"


@pytest.fixture(scope="module")
def warm_server(cleartext_server: GunicornProcess) -> GunicornProcess:
    """A server whose memory does not grow any more by being used."""
    for _ in range(20):
        ask(cleartext_server)
    with WireClient(cleartext_server.address) as client:
        client.handshake(h2.settings((4, 2**24)))
        client.send(h2.window_update(0, 2**24) + for_streams(10, lambda stream: h2.get(stream, "/bulk?size=1000000")))
        assert [len(client.response(stream).body) for stream in streams(10)] == [1_000_000] * 10
    return cleartext_server


@pytest.mark.parametrize("attack", [pytest.param(each, id=each.name) for each in ATTACKS])
def test_attack_ends_or_stays_cheap(warm_server: GunicornProcess, attack: Attack) -> None:
    (worker,) = warm_server.workers()
    logged = len(warm_server.log_text())
    octets = attack.octets()
    with connect(warm_server.address) as sock, Footprint(worker) as footprint:
        sock.sendall(h2.PREFACE + attack.settings)
        closed = send_what_is_taken(sock, octets, deaf=attack.deaf, look=footprint.look)
        for _ in range(20):
            ask(warm_server)
            footprint.look()
        if not closed and not attack.deaf:
            closed = settle(sock)
    ask(warm_server)
    with WireClient(warm_server.address) as client:
        client.handshake()
        client.send(h2.get(1, "/release"))
        client.response(1)
    print(f"{attack.name}: {closed=} {footprint.cpu:.2f} s, {footprint.growth / MEBIBYTE:.1f} MiB")
    assert closed or not attack.ends
    assert footprint.growth < MOST_MEMORY
    assert footprint.cpu < MOST_CPU
    assert warm_server.workers() == [worker]
    assert "Traceback" not in warm_server.log_text()[logged:]


def test_server_calls_no_application_for_streams_beyond_the_limit(warm_server: GunicornProcess) -> None:
    """A stream that was reset before its request began must not cost a call; one that runs is ended (or ends)."""
    with WireClient(warm_server.address) as client:
        client.handshake()
        client.send(for_streams(2_000, lambda stream: h2.post(stream, path="/stuck") + h2.rst_stream(stream)))
        client.read_until(lambda: client.goaway is not None, "GOAWAY")
        assert client.goaway == h2.ENHANCE_YOUR_CALM
    ask(warm_server)


def test_busy_client_is_no_attacker(warm_server: GunicornProcess) -> None:
    """Many requests, each with a PING, a small window update and a body in octets; one in ten is cancelled."""
    with WireClient(warm_server.address) as client:
        client.handshake()
        for start in range(1, 8_000, 100):
            batch = range(start, start + 100, 2)
            for stream in batch:
                body = b"".join(h2.data(stream, b"x", 0) for _ in range(10)) + h2.data(stream)
                client.send(h2.post(stream) + body + h2.ping() + h2.window_update(0, 10))
                if stream % 20 == 1:
                    client.send(h2.rst_stream(stream))
            client.synchronise()
            for stream in batch:
                if stream % 20 != 1:
                    assert client.response(stream).body == b"x" * 10, client.describe()
        assert client.goaway is None
