"""The PROXY protocol in front of a connection: who the client is, and what is refused."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from outrider import listener as module
from outrider.forwarded import TrustedPeers
from outrider.scoreboard import Field
from outrider.tls_certificates import TLS
from outrider_testing.fakes import ManualLoop
from outrider_testing.server_fakes import GET, MakeScene, Peer, Scene, eventually, listen_unix

NOBODY = TrustedPeers.parse([])
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
    scope = scene.first_scope()
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
    assert scene.first_scope()["client"] == ("192.0.2.9", 50000)


def test_proxy_header_may_be_larger_than_one_look(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="v2")
    scene.listener.resume()
    peer = scene.connect()
    peer.send(v2(tlv_size=2 * module._PEEK_SIZE) + GET)
    scene.loop.advance(module._PEEK_AGAIN)
    assert scene.first_scope()["client"] == ("192.0.2.9", 50000)


def test_proxy_header_without_address_leaves_the_peer(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="v1")
    scene.listener.resume()
    peer = scene.connect()
    peer.send(b"PROXY UNKNOWN\r\n" + GET)
    assert scene.first_scope()["client"] == peer.sock.getsockname()


def test_trusted_peer_may_omit_the_proxy_header(make_scene: MakeScene) -> None:
    scene = make_scene(proxy_protocol="auto")
    scene.listener.resume()
    peer = scene.connect()
    peer.send(GET)
    assert scene.first_scope()["client"] == peer.sock.getsockname()


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
    assert scene.first_scope()["client"] == ("192.0.2.9", 50000)


def test_trust_goes_by_the_peer_behind_a_proxy_header(make_scene: MakeScene) -> None:
    trusted = TrustedPeers.parse(["127.0.0.1", "192.0.2.9"])
    scene = make_scene(proxy_protocol="v1", trusted_proxies=trusted)
    scene.listener.resume()
    scene.connect().send(V1 + b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.5\r\n\r\n")
    assert scene.first_scope()["client"] == ("203.0.113.5", 0)


def test_tls_begins_behind_the_proxy_header(make_scene: MakeScene, tls: TLS) -> None:
    scene = make_scene(tls=tls, proxy_protocol="v2")
    scene.listener.resume()
    peer = scene.connect_tls()
    peer.send(v2())
    peer.handshake()
    peer.send(GET)
    scope = scene.first_scope()
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
