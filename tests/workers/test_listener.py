"""Listeners: who accepts how much and when, and what a connection is before its first request."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider import listener as module
from outrider.balance import LEAD, LEAD_PART
from outrider.forwarded import TrustedPeers
from outrider.listener import (
    MOST_AT_ONCE,
    OUT_OF_DESCRIPTORS_PAUSE,
    OUT_OF_DESCRIPTORS_WARNING_PERIOD,
    STEP_ASIDE,
)
from outrider.negotiation import PREFACE
from outrider.scoreboard import Field, WorkerState
from outrider.tls_certificates import TLS
from outrider.tls_handshake import Handshakes
from outrider_testing.fakes import ManualLoop
from outrider_testing.server_fakes import (
    GET,
    Peer,
    Scene,
    ScriptedSocket,
    eventually,
    listen,
    listen_unix,
    make_tls,
)

MakeScene = Callable[..., Scene]
SETTINGS = 4  # the type of a frame, RFC 9113 §6.5
NOBODY = TrustedPeers.parse([])


class FaultError(Exception):
    """A transport has a fault."""


@pytest.fixture
def make_scene(loop: ManualLoop) -> Iterator[MakeScene]:
    scenes: list[Scene] = []

    def make(sock: ScriptedSocket | None = None, **options: Any) -> Scene:
        scenes.append(Scene(loop, sock, **options))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return make_tls(tmp_path_factory.mktemp("tls"))


def first_scope(scene: Scene) -> Any:
    """Wait for the only call of the application."""
    eventually(scene.loop, lambda: scene.app.calls)
    return scene.app.call.scope


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
    scope = first_scope(scene)
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
    scope = first_scope(scene)
    assert scope["server"] == (local, scene.sock.getsockname()[1])
    assert scope["client"] == (local, peer.sock.getsockname()[1])


def test_unix_listener_reports_its_path_and_no_client(make_scene: MakeScene, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    scene = make_scene(listen_unix(path))
    scene.listener.resume()
    scene.connect().send(GET)
    scope = first_scope(scene)
    assert scope["client"] is None
    assert scope["server"] == (path, None)


def test_abstract_unix_listener_reports_its_name(make_scene: MakeScene) -> None:
    name = f"\0outrider-test-{os.getpid()}"
    scene = make_scene(listen_unix(name))
    scene.listener.resume()
    scene.connect().send(GET)
    assert first_scope(scene)["server"] == (name, None)


@pytest.mark.parametrize("trusted, client", [(["127.0.0.1"], ("192.0.2.9", 0)), ([], None)])
def test_forwarded_headers_count_from_trusted_peers_only(
    make_scene: MakeScene, trusted: list[str], client: tuple[str, int] | None
) -> None:
    scene = make_scene(trusted_proxies=TrustedPeers.parse(trusted))
    scene.listener.resume()
    peer = scene.connect()
    peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n\r\n")
    scope = first_scope(scene)
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
    assert first_scope(scene)["http_version"] == "1.1"


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


# -- the accept gate


def test_worker_without_peers_takes_everything(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.connect(3 * MOST_AT_ONCE)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 3 * MOST_AT_ONCE)


def test_worker_takes_a_bounded_number_before_it_does_other_work(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.connect(MOST_AT_ONCE + 1)
    scene.listener.resume()
    scene.sock.accepts = 0
    scene.loop.call_soon(scene.loop.stop)
    scene.loop.run_forever()
    assert scene.sock.accepts == MOST_AT_ONCE


def test_worker_takes_its_lead_and_steps_aside(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.connect(LEAD + 3)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    assert scene.held == LEAD


def test_lead_grows_with_the_number_of_connections(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=2 * LEAD_PART)
    scene.connect(3 * LEAD_PART)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 2 * LEAD_PART + LEAD + 2)
    assert scene.held == 2 * LEAD_PART + LEAD + 2


def test_freer_worker_takes_what_the_others_leave(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=100)
    scene.neighbours.add(connections=90)
    scene.connect(20)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 20)


def test_batch_doubles_after_each_fruitless_wait(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.connect(100)
    scene.listener.resume()
    expected = LEAD
    eventually(scene.loop, lambda: scene.held == expected)
    for batch in (2, 4, 8, MOST_AT_ONCE, MOST_AT_ONCE):
        expected += batch
        scene.loop.advance(STEP_ASIDE)
        assert scene.held == expected


def test_worker_stays_aside_while_a_freer_one_accepts(make_scene: MakeScene) -> None:
    scene = make_scene()
    peer = scene.neighbours.add(connections=0)
    scene.connect(100)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    scene.loop.advance(STEP_ASIDE)
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 2 + 4
    for count in (1, 2, 3):
        peer[Field.CONNECTIONS] = count
        scene.loop.advance(STEP_ASIDE)
        assert scene.held == LEAD + 2 + 4
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 2 + 4 + 2, "the batch begins anew"


def test_worker_takes_its_share_when_the_others_have_caught_up(make_scene: MakeScene) -> None:
    scene = make_scene()
    peer = scene.neighbours.add(connections=0)
    scene.connect(100)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    peer[Field.CONNECTIONS] = 4
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 4


def test_empty_queue_resets_the_batch(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.connect(LEAD + 3)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    scene.loop.advance(STEP_ASIDE)
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 3
    scene.connect(10)
    scene.loop.run_ready()
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 3 + 2


@pytest.mark.parametrize(
    "state, heartbeat_age",
    [
        (WorkerState.READY, 2.5),
        (WorkerState.SPAWNED, 0.0),
        (WorkerState.BOOTING, 0.0),
        (WorkerState.DRAINING, 0.0),
        (WorkerState.EXITED, 0.0),
    ],
)
def test_worker_that_can_not_accept_is_not_waited_for(
    make_scene: MakeScene, state: WorkerState, heartbeat_age: float
) -> None:
    scene = make_scene()
    scene.neighbours.add(0, state, heartbeat_age)
    scene.connect(2 * LEAD)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 2 * LEAD)


def test_released_worker_is_not_waited_for(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0).release()
    scene.connect(2 * LEAD)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 2 * LEAD)


def test_worker_with_a_private_row_steps_aside_too(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.neighbours.row.release()
    assert scene.neighbours.row.is_private
    scene.connect(2 * LEAD)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    assert scene.held == LEAD


def test_gate_can_be_switched_off(make_scene: MakeScene) -> None:
    scene = make_scene(accept_gate=False)
    scene.neighbours.add(connections=0)
    scene.connect(3 * MOST_AT_ONCE)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 3 * MOST_AT_ONCE)


def test_listener_paused_while_aside_stays_away_until_resumed(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.connect(LEAD + 1)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    scene.listener.pause()
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD
    scene.listener.resume()
    scene.loop.run_ready()
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 1


def test_listener_resumed_while_aside_keeps_waiting(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.neighbours.add(connections=0)
    scene.connect(LEAD + 1)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == LEAD)
    scene.listener.pause()
    scene.listener.resume()
    assert scene.held == LEAD
    scene.loop.advance(STEP_ASIDE)
    assert scene.held == LEAD + 1


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
    assert second == f"{first} Not reported since the last one: {tries - 1} more of these."
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


def test_abandoned_listener_gives_up_handshakes(make_scene: MakeScene, tls: TLS) -> None:
    scene = make_scene(tls=tls)
    scene.listener.resume()
    peer = scene.connect_tls()
    eventually(scene.loop, lambda: scene.held == 1)
    scene.listener.abandon()
    peer.wait_closed()


# -- TLS


def test_tls_connection_is_served_as_https(make_scene: MakeScene, tls: TLS) -> None:
    scene = make_scene(tls=tls)
    scene.listener.resume()
    peer = scene.connect_tls()
    peer.handshake()
    peer.send(GET)
    assert first_scope(scene)["scheme"] == "https"
    scene.app.call.respond(b"secret")
    assert peer.answer().body == b"secret"


def test_failed_handshake_ends_the_connection(make_scene: MakeScene, tls: TLS) -> None:
    scene = make_scene(tls=tls)
    scene.listener.resume()
    peer = scene.connect()
    peer.send(GET)
    peer.wait_closed()
    assert scene.held == 0
    assert scene.changes == 1
    (message,) = scene.log.messages("info")
    name = f"127.0.0.1:{peer.sock.getsockname()[1]}"
    assert message == f"TLS handshake with {name} failed: the client speaks HTTP without TLS."
    assert not scene.app.calls


@pytest.mark.parametrize("is_tls", [True, False])
def test_connection_that_a_fault_keeps_from_opening_is_let_go(
    make_scene: MakeScene, tls: TLS, monkeypatch: pytest.MonkeyPatch, *, is_tls: bool
) -> None:
    async def connect(*_: Any, **__: Any) -> None:
        raise FaultError

    scene = make_scene(tls=tls if is_tls else None)
    monkeypatch.setattr(scene.loop, "connect_accepted_socket", connect)
    monkeypatch.setattr(Handshakes, "open", connect)
    scene.listener.resume()
    peer = scene.connect()
    peer.wait_closed()
    assert scene.held == 0
    assert scene.changes == 1
    assert [type(each) for each in scene.log.exceptions] == [FaultError]
    assert scene.log.messages("error") == [f"Can't open the connection of 127.0.0.1:{peer.sock.getsockname()[1]}"]


def test_silent_handshake_ends_with_header_timeout(make_scene: MakeScene, tls: TLS) -> None:
    scene = make_scene(tls=tls, header_timeout=4.0)
    scene.listener.resume()
    peer = scene.connect()
    eventually(scene.loop, lambda: scene.held == 1)
    scene.loop.advance(3.5)
    assert peer.is_open
    scene.loop.advance(1.0)
    peer.wait_closed()
    assert scene.held == 0
    assert "handshake is taking longer than 4.0 seconds" in scene.log.messages("info")[0]


def test_connection_has_no_deadline_of_its_own_during_the_handshake(make_scene: MakeScene, tls: TLS) -> None:
    scene = make_scene(tls=tls, header_timeout=0)
    scene.listener.resume()
    peer = scene.connect_tls()
    eventually(scene.loop, lambda: scene.held == 1)
    (connection,) = scene.runtime.connections
    assert connection.deadline > scene.loop.time() + 1e9
    connection.abort()
    peer.handshake()
    assert peer.is_open


# -- the PROXY protocol

V1 = b"PROXY TCP4 192.0.2.9 198.51.100.1 50000 443\r\n"


def v2(tlv_size: int = 0) -> bytes:
    addresses = socket.inet_aton("192.0.2.9") + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 50000, 443)
    tlvs = b"\x04" + struct.pack("!H", tlv_size - 3) + bytes(tlv_size - 3) if tlv_size else b""
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack("!H", 12 + tlv_size) + addresses + tlvs


@pytest.mark.parametrize("mode, header", [("v1", V1), ("v2", v2()), ("auto", V1), ("auto", v2())])
def test_proxy_header_names_the_client(make_scene: MakeScene, mode: str, header: bytes) -> None:
    scene = make_scene(proxy_protocol=mode)
    scene.listener.resume()
    peer = scene.connect()
    peer.send(header + GET)
    scope = first_scope(scene)
    assert scope["client"] == ("192.0.2.9", 50000)
    assert scope["server"] == scene.sock.getsockname()
    scene.app.call.respond(b"hello")
    assert peer.answer().body == b"hello"
    assert scene.held == 1


def test_proxy_header_may_come_in_pieces(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="v1")
    scene.listener.resume()
    peer = scene.connect()
    eventually(scene.loop, lambda: scene.held == 1)
    for piece in (V1[:3], V1[3:30], V1[30:] + GET[:5], GET[5:]):
        peer.send(piece)
        scene.loop.advance(module._PEEK_AGAIN)
    scene.loop.advance(module._PEEK_AGAIN)
    assert first_scope(scene)["client"] == ("192.0.2.9", 50000)


def test_proxy_header_may_be_larger_than_one_look(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="v2")
    scene.listener.resume()
    peer = scene.connect()
    peer.send(v2(tlv_size=2 * module._PEEK_SIZE) + GET)
    scene.loop.advance(module._PEEK_AGAIN)
    assert first_scope(scene)["client"] == ("192.0.2.9", 50000)


def test_proxy_header_without_address_leaves_the_peer(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="v1")
    scene.listener.resume()
    peer = scene.connect()
    peer.send(b"PROXY UNKNOWN\r\n" + GET)
    assert first_scope(scene)["client"] == peer.sock.getsockname()


def test_trusted_peer_may_omit_the_proxy_header(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="auto")
    scene.listener.resume()
    peer = scene.connect()
    peer.send(GET)
    assert first_scope(scene)["client"] == peer.sock.getsockname()


def test_untrusted_peer_may_not_name_a_client(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="auto", proxy_allowed=NOBODY)
    scene.listener.resume()
    peer = scene.connect()
    peer.send(V1 + GET)
    assert peer.answer().status == 400
    assert not scene.app.calls


def test_unix_peer_may_name_a_client(make_scene: MakeScene, tmp_path: Path) -> None:
    scene = make_scene(listen_unix(str(tmp_path / "s")), proxy_protocol="auto", proxy_allowed=NOBODY)
    scene.listener.resume()
    scene.connect().send(V1 + GET)
    assert first_scope(scene)["client"] == ("192.0.2.9", 50000)


def test_trust_goes_by_the_peer_behind_a_proxy_header(make_scene: MakeScene) -> None:
    trusted = TrustedPeers.parse(["127.0.0.1", "192.0.2.9"])
    scene = make_scene(proxy_protocol="v1", trusted_proxies=trusted)
    scene.listener.resume()
    scene.connect().send(V1 + b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.5\r\n\r\n")
    assert first_scope(scene)["client"] == ("203.0.113.5", 0)


def test_tls_begins_behind_the_proxy_header(make_scene: MakeScene, tls: TLS) -> None:
    scene = make_scene(tls=tls, proxy_protocol="v2")
    scene.listener.resume()
    peer = scene.connect_tls()
    peer.send(v2())
    peer.handshake()
    peer.send(GET)
    scope = first_scope(scene)
    assert scope["client"] == ("192.0.2.9", 50000)
    assert scope["scheme"] == "https"
    scene.app.call.respond()
    assert peer.answer().status == 200


def refusal_of(scene: Scene, peer: Peer) -> str:
    """The only warning, without the name of the peer."""
    name = "a unix socket" if peer.sock.family == socket.AF_UNIX else "{}:{}".format(*peer.sock.getsockname())
    (message,) = scene.log.messages("warning")
    start = f"Connection from {name} closed: "
    assert message.startswith(start)
    return message.removeprefix(start)


def test_proxy_header_has_a_deadline(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="v1", header_timeout=4.0)
    scene.listener.resume()
    peer = scene.connect()
    peer.send(V1[:10])
    eventually(scene.loop, lambda: scene.held == 1)
    scene.loop.advance(3.9)
    assert peer.is_open
    scene.loop.advance(0.2)
    peer.wait_closed()
    assert refusal_of(scene, peer) == "no PROXY header came in time"
    assert scene.held == 0
    assert scene.changes == 1


def test_malformed_proxy_header_ends_the_connection(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="v1")
    scene.listener.resume()
    peer = scene.connect()
    peer.send(b"PROXY TCP4 nonsense\r\n" + GET)
    peer.wait_closed()
    assert refusal_of(scene, peer).startswith("PROXY v1: ")


def test_incomplete_proxy_header_ends_the_connection(make_scene: MakeScene, tmp_path: Path) -> None:
    scene = make_scene(listen_unix(str(tmp_path / "s")), proxy_protocol="v1")
    scene.listener.resume()
    peer = scene.connect()
    peer.sock.shutdown(socket.SHUT_WR)
    peer.wait_closed()
    assert refusal_of(scene, peer) == "the client closed before its PROXY header was complete"


def test_connection_reset_before_the_proxy_header_is_noted(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="v1")
    scene.listener.resume()
    peer = scene.connect()
    eventually(scene.loop, lambda: scene.held == 1)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    eventually(scene.loop, lambda: scene.held == 0)
    assert "reset" in scene.log.messages("warning")[0]


def test_connections_that_owe_a_proxy_header_count(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="v1", worker_connections=2)
    scene.runtime.on_change = scene.listener.pause
    scene.connect(3)
    scene.listener.resume()
    eventually(scene.loop, lambda: scene.held == 2)
    assert scene.held == 2
    assert scene.neighbours.row[Field.CONNECTIONS] == 2
    assert not scene.runtime.connections


def test_readiness_reported_twice_is_one(loop: ManualLoop) -> None:
    future = loop.create_future()
    module._resolve(future)
    module._resolve(future)
    assert future.done()
