"""TLS connections on the event loop's own transport, and on aiofastnet's where it is installed: nobody can tell."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider import tls_closing
from outrider.scoreboard import Field
from outrider.tls_certificates import TLS
from outrider.tls_closing import LINGER, is_flushed, measure_backlog
from outrider.tls_handshake import Handshakes, find_fast_transport
from outrider_testing.certificates import Authority
from outrider_testing.fakes import Call, ManualLoop
from outrider_testing.server_fakes import GET, Peer, Scene, TLSPeer, eventually, make_tls

# The test group installs aiofastnet.
TRANSPORTS = ["loop", "aiofastnet"] if importlib.util.find_spec("aiofastnet") else ["loop"]
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
LARGE = bytes(8 << 20)
PIECE = bytes(256 << 10)
MOST_PIECES = 64  # far more than a kernel keeps for a client
PATIENCE = 10.0
MakeScene = Callable[..., Scene]


@pytest.fixture(scope="module", params=TRANSPORTS)
def tls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return make_tls(tmp_path_factory.mktemp("tls"), fast_tls=request.param == "aiofastnet")


@pytest.fixture
def make_scene(loop: ManualLoop, tls: TLS) -> Iterator[MakeScene]:
    scenes: list[Scene] = []

    def make(**options: Any) -> Scene:
        scenes.append(Scene(loop, tls=tls, **options))
        scenes[-1].listener.resume()
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()
    assert loop.unhandled == []


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    return make_scene()


def talk(scene: Scene, request: bytes = GET) -> TLSPeer:
    """Connect, shake hands and send a request."""
    peer = scene.connect_tls()
    peer.handshake()
    peer.send(request)
    eventually(scene.loop, lambda: scene.app.calls)
    return peer


def sweep(scene: Scene, seconds: float) -> None:
    """Let time pass, and do what the server does then."""
    scene.loop.advance(seconds)
    scene.runtime.now = scene.loop.time()
    for connection in [each for each in scene.runtime.connections if each.deadline < scene.runtime.now]:
        connection.expire()
    for writer in list(scene.runtime.blocked_writers):
        writer.check_write_progress(scene.runtime.now)
    scene.loop.run_ready()


def transport_of(scene: Scene) -> Any:
    (connection,) = scene.runtime.connections
    return connection._transport  # type: ignore[attr-defined]  # the wire does not show it


def test_requests_are_answered_one_after_the_other(scene: Scene) -> None:
    peer = talk(scene)
    scene.app.call.respond(b"first")
    assert peer.answer().body == b"first"
    peer.send(GET)
    eventually(scene.loop, lambda: len(scene.app.calls) == 2)
    scene.app.calls[1].respond(b"second")
    assert [answer.body for answer in peer.answers(2)] == [b"first", b"second"]
    assert scene.held == 1


def test_application_is_told_the_same(scene: Scene) -> None:
    talk(scene)
    extension = scene.app.call.scope["extensions"]["tls"]
    assert extension["tls_version"] == 0x0304
    assert 0x1301 <= extension["cipher_suite"] <= 0x1303
    assert extension["server_cert"].startswith("-----BEGIN CERTIFICATE-----")
    assert extension["client_cert_chain"] == ()


def test_socket_of_a_connection_is_at_hand(scene: Scene) -> None:
    peer = talk(scene)
    sock = transport_of(scene).get_extra_info("socket")
    assert sock.getpeername() == peer.sock.getsockname()
    assert sock.family == socket.AF_INET


def send_until_it_waits(call: Call) -> tuple[int, asyncio.Task[None]]:
    """Send pieces of a body until one has to wait: how many, and the `send()` of the last one."""
    for count in range(1, MOST_PIECES):
        sending = call.sending({"type": "http.response.body", "body": PIECE, "more_body": True})
        if not sending.done():
            return count, sending
    raise AssertionError("nothing waits")


def test_client_that_does_not_read_is_waited_for(scene: Scene) -> None:
    peer = talk(scene)
    call = scene.app.call
    call.start()
    count, waiting = send_until_it_waits(call)
    assert scene.runtime.blocked_writers
    while not waiting.done():
        peer.read()
        scene.loop.run_ready()
    call.body()
    assert peer.answer().body == count * PIECE
    assert not scene.runtime.blocked_writers


def test_body_that_nobody_takes_stays_with_the_client(scene: Scene) -> None:
    peer = talk(scene, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(LARGE))
    body = memoryview(LARGE)
    stuck = 0
    while stuck < MOST_PIECES:  # turns of the loop in which the client could not send
        try:
            body = body[peer.sock.send(body[:16384]) :]
            stuck = 0
        except ssl.SSLWantWriteError:
            stuck += 1
        scene.loop.run_ready()
    assert body, "the server took everything"
    received = 0
    while received < len(LARGE):
        message = scene.app.call.receiving()
        while not message.done():
            with contextlib.suppress(ssl.SSLWantWriteError):
                body = body[peer.sock.send(body[:16384]) :] if body else body
            scene.loop.run_ready()
        received += len(message.result()["body"])
    scene.app.call.respond()
    assert peer.answer().status == 200


def test_client_that_never_reads_is_aborted(make_scene: MakeScene) -> None:
    scene = make_scene(write_timeout=4.0, min_body_rate=1000)
    talk(scene)
    scene.app.call.start()
    send_until_it_waits(scene.app.call)
    sweep(scene, 4.0)
    assert scene.held == 0
    assert "does not read its response" in scene.log.messages("info")[0]


def test_client_that_reads_slowly_gets_everything_although_the_connection_closes(make_scene: MakeScene) -> None:
    scene = make_scene(write_timeout=4.0, min_body_rate=1000)
    peer = talk(scene, CLOSE)
    scene.app.call.respond(LARGE)
    for enough in range(1 << 20, len(LARGE) + 1, 1 << 20):
        while len(peer.received) < enough:
            read_some(peer)
            scene.loop.run_ready()
        sweep(scene, 5.0)
    assert peer.answer().body == LARGE


def read_some(peer: Peer) -> None:
    """Take a little of what has come."""
    pieces: list[bytes] = []
    with contextlib.suppress(ssl.SSLWantReadError):
        while len(pieces) < 32:
            pieces.append(peer.sock.recv(16384))  # what came before an error counts
    peer.received += b"".join(pieces)


def test_client_that_stops_reading_while_the_connection_closes_is_aborted(make_scene: MakeScene) -> None:
    scene = make_scene(write_timeout=4.0, min_body_rate=1000)
    talk(scene, CLOSE)
    scene.app.call.respond(LARGE)
    sweep(scene, LINGER + 0.1)
    assert scene.held == 1
    for _ in range(4):  # in the first of them, the kernel at the other end may still have taken something
        sweep(scene, LINGER + 0.1)
    assert scene.held == 0


def test_connection_ends_with_a_closure_alert(scene: Scene) -> None:
    peer = talk(scene, CLOSE)
    peer.sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # typeshed does not know it
    scene.app.call.respond(b"last")
    peer.wait_closed()
    assert peer.answer().body == b"last"
    peer.close()
    assert scene.held == 0


def test_client_that_does_not_answer_the_closure_alert_is_not_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_closing, "_QUIET", 0)
    peer = talk(scene, CLOSE)
    scene.app.call.respond(b"last")
    assert peer.answer().body == b"last"
    assert scene.held == 1
    eventually(scene.loop, lambda: is_flushed(transport_of(scene)))
    sweep(scene, LINGER + 0.1)
    assert scene.held == 0
    assert scene.log.messages("info") == []


def test_client_may_send_its_closure_alert_first(scene: Scene) -> None:
    peer = talk(scene)
    scene.app.call.respond(b"last")
    assert peer.answer().body == b"last"
    assert isinstance(peer.sock, ssl.SSLSocket)
    with pytest.raises(ssl.SSLWantReadError):
        peer.sock.unwrap()
    eventually(scene.loop, lambda: scene.held == 0)


def test_client_that_ends_tcp_without_an_alert_is_let_go(scene: Scene) -> None:
    peer = talk(scene)
    receiving = scene.app.call.receiving()
    assert receiving.result()["type"] == "http.request"
    waiting = scene.app.call.receiving()
    peer.sock.close()
    eventually(scene.loop, waiting.done)
    assert waiting.result() == {"type": "http.disconnect"}
    assert scene.held == 0


def test_aborted_connection_is_reset(scene: Scene) -> None:
    peer = talk(scene)
    (connection,) = scene.runtime.connections
    connection.abort()
    with socket.fromfd(peer.sock.fileno(), socket.AF_INET, socket.SOCK_STREAM) as raw:
        eventually(scene.loop, lambda: scene.held == 0)
        raw.recv(65536)  # what TLS sent after the handshake
        with pytest.raises(ConnectionResetError):
            raw.recv(65536)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00"])
def test_client_that_leaves_during_the_handshake_is_no_news(scene: Scene, sent: bytes) -> None:
    peer = scene.connect()
    peer.send(sent)
    eventually(scene.loop, lambda: scene.held == 1)
    peer.close()
    eventually(scene.loop, lambda: scene.held == 0)
    assert scene.log.messages("info") == []
    assert len(scene.log.messages("debug")) == 1
    assert scene.neighbours.row[Field.CONNECTIONS] == 1, "the server writes it on the change"


def test_client_without_tls_is_told_of(scene: Scene) -> None:
    peer = scene.connect()
    peer.send(GET)
    peer.wait_closed()
    assert "the client speaks HTTP without TLS" in scene.log.messages("info")[0]


def test_silent_handshake_has_a_deadline(make_scene: MakeScene) -> None:
    scene = make_scene(header_timeout=4.0)
    scene.connect()
    eventually(scene.loop, lambda: scene.held == 1)
    scene.loop.advance(4.1)
    assert scene.held == 0
    assert "taking longer than 4.0 seconds" in scene.log.messages("info")[0]


# -- which transport


def module_of_transport(scene: Scene) -> str:
    return type(transport_of(scene)).__module__.partition(".")[0]


def test_transport_is_the_one_that_is_asked_for(scene: Scene, tls: TLS) -> None:
    talk(scene)
    assert module_of_transport(scene) == ("aiofastnet" if tls.fast else "asyncio")


@pytest.mark.parametrize("reason", ["client certificates", "names", "key log"])
def test_contexts_that_need_python_are_the_loops(
    loop: ManualLoop, tmp_path: Path, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    choices: dict[str, dict[str, Any]] = {
        "client certificates": {
            "cert_reqs": ssl.CERT_OPTIONAL,
            "ca_certs": authority.write_authority(tmp_path / "ca.pem"),
        },
        "names": {"sni_certificates": (authority.write_pair(tmp_path, "further", "further.example"),)},
        "key log": {},
    }
    if reason == "key log":
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    scene = Scene(loop, tls=make_tls(tmp_path, **choices[reason]))
    scene.listener.resume()
    talk(scene)
    assert module_of_transport(scene) == "asyncio"
    scene.close()


def test_missing_transport_is_done_without(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiofastnet", None)
    assert find_fast_transport(scene.runtime) is None
    assert scene.log.entries == []


def test_transport_that_cannot_be_used_is_told_of(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = type(sys)("aiofastnet")
    monkeypatch.setitem(sys.modules, "aiofastnet", broken)
    assert find_fast_transport(scene.runtime) is None
    (message,) = scene.log.messages("warning")
    assert message.startswith("aiofastnet can't be used, so TLS is the event loop's own: cannot import name")


def test_errors_of_the_transport_still_reach_the_loop(scene: Scene, loop: ManualLoop, tls: TLS) -> None:
    calm_loop = Handshakes(scene.runtime, tls)._calm_loop
    calm_loop.call_exception_handler({"message": "m", "exception": ConnectionResetError})
    assert loop.unhandled == []
    context = {"message": "m", "exception": ValueError()}
    calm_loop.call_exception_handler(context)
    assert loop.unhandled.pop() is context


def test_client_of_an_idle_connection_is_told_of_its_end_at_once(make_scene: MakeScene) -> None:
    scene = make_scene(keepalive=2)
    peer = talk(scene)
    scene.app.call.respond()
    peer.answer()
    (connection,) = scene.runtime.connections
    scene.runtime.now = connection.deadline + 1
    connection.expire()
    peer.sock.settimeout(PATIENCE)  # the kernel's moment; the loop does not run
    peer.sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # an end without an alert is an error
    assert peer.sock.recv(1) == b""


# -- what the kernel knows


def test_backlog_shrinks_by_what_the_client_has_taken(scene: Scene) -> None:
    talk(scene)
    before = measure_backlog(transport_of(scene))
    scene.app.call.respond(bytes(10_000))
    eventually(scene.loop, lambda: measure_backlog(transport_of(scene)) <= before - 10_000)


def test_connection_that_has_just_sent_is_not_flushed(scene: Scene) -> None:
    talk(scene)
    scene.app.call.respond(b"x")
    assert not is_flushed(transport_of(scene))
