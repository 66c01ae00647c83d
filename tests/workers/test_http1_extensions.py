"""ASGI's extensions on an HTTP/1.1 connection: what is on the wire."""

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
from outrider_testing.fakes import Call, Client, ManualLoop, parse_answers
from outrider_testing.server_fakes import Peer, Scene, eventually, listen, listen_unix, make_tls

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET_WITH_TE = b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
GET10 = b"GET / HTTP/1.0\r\nTE: trailers\r\nConnection: keep-alive\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"
BODY = {"type": "http.response.body"}
TRAILING_START = {"type": "http.response.start", "status": 200, "trailers": True}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1"), (b"x-time", b"2")]}
HINT = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
SIZE = 3 << 20


def ask(loop: ManualLoop, head: bytes, **config: Any) -> Client:
    client = Client.of(loop, **config)
    client.feed(head)
    return client


# -- trailers


def test_trailers_follow_the_last_chunk(loop: ManualLoop) -> None:
    client = ask(loop, GET_WITH_TE)
    client.call.send(TRAILING_START | {"headers": [(b"trailer", b"x-sum, x-time")]})
    client.call.body(b"hello")
    assert not client.answer().complete
    client.call.send(TRAILERS)
    assert client.sent.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\nx-time: 2\r\n\r\n")
    assert client.answer().complete
    assert client.answer()["trailer"] == "x-sum, x-time"
    client.call.finish()
    assert not client.is_closed()
    assert client.runtime.counters.bytes_out == len(client.sent)


def test_client_that_did_not_ask_gets_no_trailers(loop: ManualLoop) -> None:
    client = ask(loop, GET)
    client.call.send(TRAILING_START)
    client.call.body(b"hello")
    client.call.send(TRAILERS)
    assert client.sent.endswith(b"5\r\nhello\r\n0\r\n\r\n")
    assert client.answer().complete


@pytest.mark.parametrize("head, body", [(GET_WITH_TE, b"hello"), (GET10, b"hello"), (HEAD, b"")])
def test_response_with_a_length_has_no_trailers(loop: ManualLoop, head: bytes, body: bytes) -> None:
    client = ask(loop, head)
    client.call.send(TRAILING_START | {"headers": [(b"content-length", b"5")]})
    client.call.body(b"hello")
    client.call.send(TRAILERS)
    answer = client.answer(head.split()[0].decode())
    assert (answer.body, answer.complete) == (body, True)
    assert not client.is_closed()


@pytest.mark.parametrize("head, body", [(GET10, b"hello"), (HEAD, b"")])
def test_response_that_is_not_chunked_has_no_trailers(loop: ManualLoop, head: bytes, body: bytes) -> None:
    client = ask(loop, head)
    client.call.send(TRAILING_START)
    client.call.body(b"hello")
    client.call.send(TRAILERS)
    client.call.finish()
    assert client.sent.partition(b"\r\n\r\n")[2] == body


def test_body_before_trailers_may_not_be_shorter_than_its_length(loop: ManualLoop) -> None:
    client = ask(loop, GET_WITH_TE)
    client.call.send(TRAILING_START | {"headers": [(b"content-length", b"6")]})
    client.call.body(b"hello")
    with pytest.raises(InvalidResponse, match="1 bytes shorter"):
        client.call.send(TRAILERS)
    client.call.finish()
    assert not client.answer().complete
    assert client.is_closed()


@pytest.mark.parametrize("field", [(b"x", b"a\r\nb: c"), (b"x y", b""), (b":status", b"200"), ("x", "1")])
def test_injection_in_trailers_is_an_error_and_cuts(loop: ManualLoop, field: Any) -> None:
    client = ask(loop, GET_WITH_TE)
    client.call.send(TRAILING_START)
    client.call.body(b"hello")
    with pytest.raises(InvalidResponse):
        client.call.send({"type": "http.response.trailers", "headers": [field]})
    client.call.finish()
    assert client.sent.endswith(b"5\r\nhello\r\n")
    assert client.is_closed()


def test_connection_goes_on_behind_trailers(loop: ManualLoop) -> None:
    client = ask(loop, GET_WITH_TE + GET)
    client.call.send(TRAILING_START)
    client.call.body()
    client.call.send(TRAILERS)
    client.calls[0].finish()
    client.calls[1].respond(b"next")
    first, second = client.answers()
    assert first.trailers == (("x-sum", "1"), ("x-time", "2"))
    assert second.body == b"next"


# -- early hints


def test_hints_come_before_the_response(loop: ManualLoop) -> None:
    client = ask(loop, GET)
    client.call.send(HINT)
    client.call.send(HINT | {"links": [b"</b>", b"</c>"]})
    client.call.respond(b"hello")
    first, second, last = client.answers()
    assert (first.status, first.reason, first.headers) == (103, "Early Hints", [("link", "</a.css>; rel=preload")])
    assert (second.status, second.all("link")) == (103, ["</b>", "</c>"])
    assert (last.status, last.body) == (200, b"hello")


def test_client_of_http10_gets_no_hints(loop: ManualLoop) -> None:
    client = ask(loop, GET10)
    client.call.send(HINT)
    client.call.respond(b"hello")
    assert client.answer().status == 200


def test_injection_in_a_hint_is_an_error_and_a_500(loop: ManualLoop) -> None:
    client = ask(loop, GET)
    with pytest.raises(InvalidResponse):
        client.call.send(HINT | {"links": [b"</a>\r\nset-cookie: a=b"]})
    client.call.finish()
    assert client.statuses == [500]


# -- files, through sockets


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
