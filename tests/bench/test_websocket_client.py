from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

import websocket_client
import wrk
from loads import LOADS

PLAIN, DEFLATE = LOADS["websocket-64b-32"], LOADS["websocket-64b-32-deflate"]
ECHO = b"\x81\x40" + PLAIN.body
ENOUGH = 4
"""Messages that each peer shall hear, unless it closes the connection."""


class Peer:
    """The server's end of a connection: it answers each message with what ``answer`` makes of its number."""

    def __init__(self, answer: Callable[[int], list[bytes]]) -> None:
        self.client, self._server = socket.socketpair()
        self._answer = answer
        self.messages = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._server, contextlib.suppress(ConnectionError):
            while self._server.recv(65536):
                self.messages += 1
                pieces = self._answer(self.messages)
                if not pieces:
                    return
                for piece in pieces:
                    self._server.sendall(piece)

    @property
    def has_enough(self) -> bool:
        return self.messages >= ENOUGH or not self._thread.is_alive()

    def stop(self) -> None:
        self.client.close()
        self._thread.join(10)


MakePeer = Callable[[Callable[[int], list[bytes]]], Peer]


@pytest.fixture
def peers() -> Iterator[MakePeer]:
    made: list[Peer] = []

    def make(answer: Callable[[int], list[bytes]]) -> Peer:
        made.append(Peer(answer))
        return made[-1]

    yield make
    for peer in made:
        peer.stop()


class Clock:
    """Stands still until every peer has enough. From then on, each look at it takes a while."""

    def __init__(self, *peers: Peer) -> None:
        self._peers = peers
        self._now = 0.0

    def perf_counter(self) -> float:
        if all(peer.has_enough for peer in self._peers):
            self._now += 0.01
        return self._now


def generate(*peers: Peer, bits: int = 0) -> str:
    load = DEFLATE if bits else PLAIN
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(websocket_client, "time", Clock(*peers))
        return websocket_client.generate([peer.client for peer in peers], load, bits, 0.1)


def result(*peers: Peer, bits: int = 0) -> wrk.Result:
    return wrk.parse(generate(*peers, bits=bits))


def test_client_sends_next_message_after_each_reply(peers: MakePeer) -> None:
    both = [peers(lambda _: [ECHO]), peers(lambda _: [ECHO])]
    seen = result(*both)
    assert seen.requests > 2
    assert 0 <= sum(peer.messages for peer in both) - seen.requests <= 2
    assert seen.errors == {}


def test_client_waits_for_the_rest_of_a_reply(peers: MakePeer) -> None:
    seen = result(peers(lambda _: [ECHO[:20], ECHO[20:]]))
    assert seen.requests > 0
    assert seen.errors == {}


def test_client_counts_reply_of_another_size(peers: MakePeer) -> None:
    seen = result(peers(lambda number: [ECHO if number < 3 else b"\x81\x02ab"]))
    assert (seen.requests, seen.errors) == (2, {"read": 1})


def test_client_takes_compressed_replies_of_any_size(peers: MakePeer) -> None:
    seen = result(peers(lambda number: [b"\xc1\x05hello" if number % 2 else b"\xc1\x02hi"]), bits=15)
    assert seen.requests > 1
    assert seen.errors == {}


def test_client_counts_connection_that_is_closed_and_goes_on_with_the_others(peers: MakePeer) -> None:
    seen = result(peers(lambda _: []), peers(lambda _: [ECHO]))
    assert seen.requests > 0
    assert seen.errors == {"read": 1}


def test_client_counts_bytes_too_many(peers: MakePeer) -> None:
    assert result(peers(lambda _: [ECHO + b"!"])).errors == {"read": 1}


def test_client_gives_up_on_replies_that_do_not_come(monkeypatch: pytest.MonkeyPatch, peers: MakePeer) -> None:
    monkeypatch.setattr(websocket_client, "_STALLED", 0.01)
    silent = peers(lambda _: [b"\x81"])
    assert result(silent).errors["timeout"] == 1


def test_run_hands_the_connections_over(monkeypatch: pytest.MonkeyPatch, peers: MakePeer) -> None:
    peer = peers(lambda _: [ECHO])

    class Opened:
        socket = peer.client
        bits = 0

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert options["pass_fds"] == [peer.client.fileno()]
        assert command[:3] == ["taskset", "-c", "1"]
        assert command[-4:] == [PLAIN.key, "4", "0", str(peer.client.fileno())]
        return subprocess.CompletedProcess(command, 0, generate(peer), "")

    monkeypatch.setattr(subprocess, "run", run)
    assert websocket_client.run([Opened()], PLAIN, seconds=4, core=1).requests > 0  # type: ignore[list-item]  # a fake
