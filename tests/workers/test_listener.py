"""Listeners: who accepts how much, until when, and what a connection is before its first request."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from outrider.balance import LEAD
from outrider.forwarded import TrustedPeers
from outrider.listener import OUT_OF_DESCRIPTORS_PAUSE, OUT_OF_DESCRIPTORS_WARNING_PERIOD, STEP_ASIDE
from outrider.negotiation import PREFACE
from outrider.scoreboard import Field
from outrider_testing.server_fakes import GET, MakeScene, Peer, eventually, listen, listen_unix

SETTINGS = 4  # the type of a frame, RFC 9113 §6.5
NOBODY = TrustedPeers.parse([])


# -- accepting


def test_listener_accepts_from_resume_on(make_scene: MakeScene) -> None:
    scene = make_scene()
    peer = scene.connect()
    peer.send(GET)
    assert scene.held == 0
    scene.listener.resume()
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 1)
    assert scene.neighbours.row[Field.CONNECTIONS] == 1
    eventually(scene.loop, lambda: scene.app.calls)
    scene.app.call.respond(b"hello")
    assert peer.answer().body == b"hello"


def test_paused_listener_leaves_connections_in_the_queue(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.listener.resume()
    scene.listener.pause()
    scene.listener.pause()
    scene.connect()
    assert scene.held == 0
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 1)


def test_connection_knows_its_addresses(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.listener.resume()
    peer = scene.connect()
    peer.send(GET)
    scope = scene.first_scope()
    assert scope["scheme"] == "http"
    assert scope["client"] == peer.sock.getsockname()
    assert scope["server"] == scene.sock.getsockname()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_wildcard_listener_reports_the_address_of_the_connection(make_scene: MakeScene, host: str) -> None:
    scene = make_scene(listen(host))
    scene.listener.resume()
    local = "127.0.0.1" if host == "0.0.0.0" else "::1"
    peer = Peer(scene.loop, scene.sock, local)
    scene.peers.append(peer)
    peer.send(GET)
    scope = scene.first_scope()
    assert scope["server"] == (local, scene.sock.getsockname()[1])
    assert scope["client"] == (local, peer.sock.getsockname()[1])


def test_unix_listener_reports_its_path_and_no_client(make_scene: MakeScene, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    scene = make_scene(listen_unix(path))
    scene.listener.resume()
    scene.connect().send(GET)
    scope = scene.first_scope()
    assert scope["client"] is None
    assert scope["server"] == (path, None)


def test_abstract_unix_listener_reports_its_name(make_scene: MakeScene) -> None:
    name = f"\0outrider-test-{os.getpid()}"
    scene = make_scene(listen_unix(name))
    scene.listener.resume()
    scene.connect().send(GET)
    assert scene.first_scope()["server"] == (name, None)


@pytest.mark.parametrize("trusted, client", [(["127.0.0.1"], ("192.0.2.9", 0)), ([], None)])
def test_forwarded_headers_count_from_trusted_peers_only(
    make_scene: MakeScene, trusted: list[str], client: tuple[str, int] | None
) -> None:
    scene = make_scene(trusted_proxies=TrustedPeers.parse(trusted))
    scene.listener.resume()
    peer = scene.connect()
    peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n\r\n")
    scope = scene.first_scope()
    assert scope["client"] == (client or peer.sock.getsockname())
    assert scope["scheme"] == ("https" if client else "http")


def test_client_that_left_the_queue_is_passed_over(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.sock.errors.append(ConnectionAbortedError(errno.ECONNABORTED, "aborted"))
    scene.listener.resume()
    scene.connect()
    eventually(scene.loop, lambda: scene.held == 1)
    assert scene.log.entries == []


def test_close_accepts_behind_a_client_that_left_the_queue(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.connect()
    scene.sock.errors.append(ConnectionAbortedError(errno.ECONNABORTED, "aborted"))
    scene.listener.close()
    assert scene.held == 1


def test_trusted_peer_may_speak_either_version_without_tls(make_scene: MakeScene) -> None:
    scene = make_scene(http2_cleartext=True)
    scene.listener.resume()
    peer = scene.connect()
    peer.send(PREFACE)

    def received() -> bytes:
        peer.read()
        return peer.received

    assert eventually(scene.loop, received)[3] == SETTINGS
    scene.connect().send(GET)
    assert scene.first_scope()["http_version"] == "1.1"


@pytest.mark.parametrize("http2_cleartext, trusted", [(True, NOBODY), (False, TrustedPeers.parse(["127.0.0.1"]))])
def test_other_peer_may_not_speak_http2_without_tls(
    make_scene: MakeScene, http2_cleartext: bool, trusted: TrustedPeers
) -> None:
    scene = make_scene(http2_cleartext=http2_cleartext, trusted_proxies=trusted)
    scene.listener.resume()
    peer = scene.connect()
    peer.send(PREFACE)
    assert peer.answer().status == 400
    (line,) = scene.log.messages("warning")
    assert "http2_cleartext and forwarded_allow_ips" in line


# -- limits


def test_listener_reports_the_limit_of_connections(make_scene: MakeScene) -> None:
    scene = make_scene(worker_connections=2)
    scene.runtime.on_change = scene.listener.pause
    scene.connect(3)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 2)
    assert scene.held == 2


def test_limit_holds_for_a_doubled_batch(make_scene: MakeScene) -> None:
    scene = make_scene(worker_connections=LEAD + 1)
    scene.runtime.on_change = scene.listener.pause
    scene.neighbours.add(connections=0)
    scene.connect(2 * LEAD)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    scene.loop.advance(STEP_ASIDE)
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_worker_without_descriptors_says_what_to_do_and_tries_again(make_scene: MakeScene, number: int) -> None:
    scene = make_scene()
    scene.sock.errors.append(OSError(number, os.strerror(number)))
    scene.connect()
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.log.entries)
    assert scene.held == 0
    (message,) = scene.log.messages("warning")
    assert os.strerror(number) in message
    assert "ulimit -n" in message
    scene.loop.advance(OUT_OF_DESCRIPTORS_PAUSE / 2)
    assert scene.sock.accepts == 1
    scene.loop.advance(OUT_OF_DESCRIPTORS_PAUSE / 2)
    eventually(scene.loop, lambda: scene.held == 1)


def test_worker_that_stays_without_descriptors_says_so_seldom(make_scene: MakeScene) -> None:
    scene = make_scene()
    tries = int(OUT_OF_DESCRIPTORS_WARNING_PERIOD / OUT_OF_DESCRIPTORS_PAUSE)
    scene.sock.errors.extend(OSError(errno.EMFILE, "too many") for _ in range(2 * tries + 1))
    scene.connect()
    scene.listener.resume()
    warnings = []
    for number in range(1, 2 * tries + 2):
        eventually(scene.loop, lambda number=number: scene.sock.accepts == number)  # type: ignore[misc]  # a lambda
        warnings.append(len(scene.log.messages("warning")))
        scene.loop.clock += OUT_OF_DESCRIPTORS_PAUSE
    assert warnings == [1] * tries + [2] * tries + [3]
    first, second, third = scene.log.messages("warning")
    assert "Not reported" not in first
    assert second == f"{first} (not reported since the last one: {tries - 1} more of these)"
    assert third == second, "the count begins anew"


def test_worker_without_descriptors_does_not_wait_twice(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.connect(LEAD + 2)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    scene.sock.errors.append(OSError(errno.EMFILE, "too many"))
    scene.loop.advance(STEP_ASIDE)
    scene.loop.advance(OUT_OF_DESCRIPTORS_PAUSE - STEP_ASIDE)
    assert scene.held == LEAD
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 2


# -- the end


def test_close_accepts_what_is_queued(make_scene: MakeScene) -> None:
    scene = make_scene()
    peer = scene.connect(3)
    scene.listener.resume()
    scene.listener.close()
    assert scene.sock.fileno() == -1
    peer.send(GET)
    assert scene.held == 3
    eventually(scene.loop, lambda: scene.app.calls)


def test_close_accepts_no_more_than_there_is_room_for(make_scene: MakeScene) -> None:
    scene = make_scene(worker_connections=2)
    scene.connect(3)
    scene.listener.close()
    assert scene.held == 2


def test_close_while_aside_ends_the_wait(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.connect(LEAD + 1)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    scene.listener.close()
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 1


def test_close_gives_up_without_descriptors(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.sock.errors.append(OSError(errno.EMFILE, "too many"))
    scene.connect()
    scene.listener.close()
    assert scene.held == 0
    assert scene.sock.fileno() == -1
    scene.loop.advance(OUT_OF_DESCRIPTORS_PAUSE)


def test_closed_listener_stays_closed(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.listener.close()
    scene.listener.close()
    scene.listener.resume()
    assert scene.sock.accepts == 1


def test_abandoned_listener_leaves_the_queue_to_others(make_scene: MakeScene) -> None:
    scene = make_scene()
    with scene.sock.dup() as other:
        scene.listener.resume()
        peer = scene.connect()
        scene.listener.abandon()
        assert scene.held == 0
        accepted, _ = other.accept()
        with accepted:
            assert accepted.getpeername() == peer.sock.getsockname()
