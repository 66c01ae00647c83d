"""Files that ASGI's extensions send on an HTTP/1.1 connection, through sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.file_region import FileRegion
from outrider.http1_encoding import InvalidResponse
from outrider.http1_response import WRITE_HIGH_WATER
from outrider.http_stream import ClientDisconnected
from outrider_testing.fakes import Call, ManualLoop, parse_answers
from outrider_testing.server_fakes import Peer, Scene, eventually, listen, listen_unix, make_tls

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"
SIZE = 3 << 20


class Downloads:
    """Servers on real sockets whose application the test drives, and how the kernel helps them."""

    def __init__(self, loop: ManualLoop, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = loop
        self.path = directory / "file"
        self.content = os.urandom(SIZE)
        self.path.write_bytes(self.content)
        self.sent_by_kernel = 0
        self._directory = directory
        self._scenes: list[Scene] = []
        send = FileRegion.send

        async def count(region: FileRegion, loop: asyncio.AbstractEventLoop, fd: int) -> int:
            size = await send(region, loop, fd)
            self.sent_by_kernel += size
            return size

        monkeypatch.setattr(FileRegion, "send", count)

    def serve(self, kind: str = "tcp", **config: Any) -> tuple[Scene, Peer]:
        """A server and a client that has connected."""
        sock = listen_unix(str(self._directory / "socket")) if kind == "unix" else listen()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)  # an accepted socket has the same
        tls = make_tls(self._directory) if kind == "tls" else None
        scene = Scene(self.loop, sock, tls=tls, **config)
        self._scenes.append(scene)
        scene.listener.resume()
        if tls is None:
            return scene, scene.connect()
        peer = scene.connect_tls()
        peer.handshake()
        return scene, peer

    def ask(self, scene: Scene, peer: Peer, head: bytes = GET) -> Call:
        """Send a request; its call."""
        before = len(scene.app.calls)
        peer.send(head)
        eventually(self.loop, lambda: len(scene.app.calls) > before)
        return scene.app.calls[-1]

    def send(self, call: Call, headers: Any = (), **message: Any) -> asyncio.Task[None]:
        """Begin to send the file, or whatever the message says."""
        call.start(200, headers)
        return call.sending(message or {"type": "http.response.pathsend", "path": str(self.path)})

    def receive(self, peer: Peer, size: int = SIZE) -> None:
        """Read until there is so much."""

        def has_come() -> bool:
            peer.read()
            return len(peer.received) > size

        eventually(self.loop, has_come)

    def finish(self, sending: asyncio.Task[None]) -> None:
        """Wait for the end of the call to `send`."""
        eventually(self.loop, sending.done)
        sending.result()

    def close(self) -> None:
        """Leave nothing open."""
        for scene in self._scenes:
            scene.close()


@pytest.fixture
def downloads(loop: ManualLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Downloads]:
    downloads = Downloads(loop, tmp_path, monkeypatch)
    yield downloads
    downloads.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def length(size: int = SIZE) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", b"%d" % size)]


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
@pytest.mark.parametrize("headers", [length(), []])
def test_file_arrives_whole_and_the_connection_goes_on(downloads: Downloads, kind: str, headers: Any) -> None:
    scene, peer = downloads.serve(kind)
    for count in (1, 2):
        call = downloads.ask(scene, peer)
        sending = downloads.send(call, headers)
        downloads.receive(peer, count * SIZE)
        downloads.finish(sending)
        assert peer.answers(count)[-1].body == downloads.content
        call.finish()
    assert peer.is_open
    assert scene.log.entries == []
    assert (downloads.sent_by_kernel > SIZE) is (kind != "tls")
    if kind != "tls":
        assert scene.runtime.counters.bytes_out == len(peer.received)


def test_file_that_is_not_in_memory_arrives_whole(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileRegion, "_is_in_memory", lambda *_: False)
    scene, peer = downloads.serve()
    sending = downloads.send(downloads.ask(scene, peer), length())
    downloads.receive(peer)
    downloads.finish(sending)
    assert peer.answer().body == downloads.content
    assert downloads.sent_by_kernel > SIZE // 2


def test_file_that_the_kernel_cannot_send_arrives_whole(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    def sendfile(*_: int) -> int:
        raise OSError(errno.EINVAL, "no sendfile for this one")

    monkeypatch.setattr(os, "sendfile", sendfile)
    scene, peer = downloads.serve()
    sending = downloads.send(downloads.ask(scene, peer), length())
    downloads.receive(peer)
    downloads.finish(sending)
    assert peer.answer().body == downloads.content
    assert downloads.sent_by_kernel == 0


def test_parts_of_a_file_mix_with_bodies_on_the_wire(downloads: Downloads) -> None:
    scene, peer = downloads.serve()
    call = downloads.ask(scene, peer)
    half = SIZE // 2
    with downloads.path.open("rb") as file:
        part = {"type": "http.response.zerocopysend", "file": file, "more_body": True}
        call.start(200, length(SIZE + 2))
        call.body(b"<", more=True)
        for _ in range(2):
            sending = call.sending(part | {"count": half})
            downloads.receive(peer, len(peer.received) + half - 1)
            downloads.finish(sending)
    call.body(b">")
    assert peer.answer().body == b"<" + downloads.content + b">"


def test_head_gets_no_file(downloads: Downloads) -> None:
    scene, peer = downloads.serve()
    call = downloads.ask(scene, peer, HEAD)
    call.scope["method"] = "GET"  # as a framework may do that answers HEAD as if it were GET
    with downloads.path.open("rb") as file:
        downloads.finish(downloads.send(call, length(), type="http.response.zerocopysend", file=file))
    downloads.receive(peer, 0)
    (answer,) = parse_answers(peer.received, methods=("HEAD",))
    assert answer["content-length"] == str(SIZE)
    assert downloads.sent_by_kernel == 0


def test_client_of_http10_gets_a_file_up_to_the_end_of_the_connection(downloads: Downloads) -> None:
    scene, peer = downloads.serve()
    sending = downloads.send(downloads.ask(scene, peer, b"GET / HTTP/1.0\r\n\r\n"))
    downloads.receive(peer)
    downloads.finish(sending)
    peer.wait_closed()
    assert peer.answer().body == downloads.content


def test_second_part_that_does_not_fit_the_length_cuts(downloads: Downloads) -> None:
    scene, peer = downloads.serve()
    call = downloads.ask(scene, peer)
    call.start(200, length(SIZE))
    call.body(b"<", more=True)
    with downloads.path.open("rb") as file, pytest.raises(InvalidResponse, match="1 bytes longer"):
        call.send({"type": "http.response.zerocopysend", "file": file})
    call.finish()
    peer.wait_closed()
    (answer,) = parse_answers(peer.received, closed=True)
    assert (answer.body, answer.complete) == (b"<", False)


def test_send_of_a_file_waits_for_the_client(downloads: Downloads) -> None:
    scene, peer = downloads.serve()
    sending = downloads.send(downloads.ask(scene, peer), length())
    eventually(downloads.loop, lambda: scene.runtime.blocked_writers)
    assert not sending.done()
    assert downloads.sent_by_kernel < SIZE
    downloads.receive(peer)
    downloads.finish(sending)
    assert not scene.runtime.blocked_writers


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_client_that_does_not_read_its_file_is_aborted(downloads: Downloads, kind: str) -> None:
    before = descriptors()
    scene, peer = downloads.serve(kind, write_timeout=30)
    sending = downloads.send(downloads.ask(scene, peer), length())
    (writer,) = eventually(downloads.loop, lambda: tuple(scene.runtime.blocked_writers))
    writer.check_write_progress(scene.runtime.now + 29)
    assert not sending.done()
    writer.check_write_progress(scene.runtime.now + 30)
    eventually(downloads.loop, sending.done)
    with pytest.raises(ClientDisconnected):
        sending.result()
    downloads.close()
    assert descriptors() == before


def test_client_that_leaves_during_a_file_is_noticed(downloads: Downloads) -> None:
    scene, peer = downloads.serve()
    sending = downloads.send(downloads.ask(scene, peer), length())
    eventually(downloads.loop, lambda: scene.runtime.blocked_writers)
    peer.close()
    eventually(downloads.loop, sending.done)
    with pytest.raises(ClientDisconnected):
        sending.result()
    scene.app.call.fail(sending.exception() or AssertionError())
    assert scene.log.messages("error") == []


def test_file_that_becomes_shorter_on_the_wire_cuts(downloads: Downloads) -> None:
    scene, peer = downloads.serve()
    call = downloads.ask(scene, peer)
    sending = downloads.send(call, length())
    eventually(downloads.loop, lambda: scene.runtime.blocked_writers)
    os.truncate(downloads.path, 10)

    def is_over() -> bool:
        peer.read()
        return sending.done()

    eventually(downloads.loop, is_over)
    with pytest.raises(EOFError, match="shorter"):
        sending.result()
    call.finish()
    peer.wait_closed()
    (answer,) = parse_answers(peer.received, closed=True)
    assert not answer.complete


def test_request_that_is_refused_during_a_file_cuts(downloads: Downloads) -> None:
    scene, peer = downloads.serve()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    sending = downloads.send(downloads.ask(scene, peer, head), length())
    eventually(downloads.loop, lambda: scene.runtime.blocked_writers)
    peer.send(b"no chunk\r\n")
    eventually(downloads.loop, lambda: scene.log.messages("warning"))
    peer.wait_closed()
    with pytest.raises(ClientDisconnected):
        downloads.finish(sending)
    assert len(peer.received) < SIZE


def test_transport_has_its_old_limit_behind_a_file(downloads: Downloads) -> None:
    scene, peer = downloads.serve()
    call = downloads.ask(scene, peer)
    with downloads.path.open("rb") as file:
        sending = downloads.send(call, type="http.response.zerocopysend", file=file, more_body=True)
        downloads.receive(peer)
        downloads.finish(sending)
    call.body(bytes(WRITE_HIGH_WATER), more=True)
