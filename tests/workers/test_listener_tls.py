"""Listeners that speak TLS, and connections that can't be opened."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.tls_certificates import TLS
from outrider.tls_handshake import Handshakes
from outrider_testing.server_fakes import GET, MakeScene, eventually


class FaultError(Exception):
    """A transport has a fault."""


def test_tls_connection_is_served_as_https(make_scene: MakeScene, tls: TLS) -> None:
    scene = make_scene(tls=tls)
    scene.listener.resume()
    peer = scene.connect_tls()
    peer.handshake()
    peer.send(GET)
    assert scene.first_scope()["scheme"] == "https"
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


def test_abandoned_listener_gives_up_handshakes(make_scene: MakeScene, tls: TLS) -> None:
    scene = make_scene(tls=tls)
    scene.listener.resume()
    peer = scene.connect_tls()
    eventually(scene.loop, lambda: scene.held == 1)
    scene.listener.abandon()
    peer.wait_closed()
