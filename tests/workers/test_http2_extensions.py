"""Files over HTTP/2 (http.response.pathsend, http.response.zerocopysend): the right bytes, and never many at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from outrider.file_region import MOST_READ, FileRegion
from outrider.http2_engine import ErrorCode
from outrider.http2_writer import WRITE_HIGH_WATER
from outrider.http_stream import HIGH_WATER, ClientDisconnected
from outrider_testing.fakes import ManualLoop
from outrider_testing.http2_client import GET, HTTP2Client
from outrider_testing.server_fakes import eventually

if TYPE_CHECKING:
    import asyncio

    from outrider.runtime import Message

INITIAL_WINDOW = 4
CONTENT = bytes(range(256)) * 8192
SIZE = len(CONTENT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def regions(monkeypatch: pytest.MonkeyPatch) -> list[FileRegion]:
    """Every region of a file that is made."""
    made: list[FileRegion] = []
    make = FileRegion.__init__

    def init(region: FileRegion, *args: Any) -> None:
        made.append(region)
        make(region, *args)

    monkeypatch.setattr(FileRegion, "__init__", init)
    return made


def is_closed(region: FileRegion) -> bool:
    try:
        os.fstat(region._fd)
    except OSError:
        return True
    return False


def path_of(path: Path) -> Message:
    return {"type": "http.response.pathsend", "path": str(path)}


def send(client: HTTP2Client, message: Message) -> None:
    """Send what may take a thread, to a client that takes it."""
    sending = client.call.sending(message)

    def is_sent() -> bool:
        client.exchange()
        return sending.done()

    eventually(client.loop, is_sent)
    sending.result()
    client.exchange()


def send_until_held_up(client: HTTP2Client, message: Message) -> asyncio.Task[None]:
    """Begin to send a file to a client that takes no more of it."""
    sending = client.call.sending(message)
    go_on(client, sending)
    assert not sending.done()
    return sending


def go_on(client: HTTP2Client, sending: asyncio.Task[None]) -> None:
    """Wait until the client must take more for the file to be sent, or it is sent."""

    def is_still() -> bool:
        client.exchange()
        return sending.done() or bool(client.connection.waiting)

    eventually(client.loop, is_still)


# -- which bytes


def test_path_arrives_whole(loop: ManualLoop, path: Path) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.call.start(200, [(b"content-length", b"%d" % SIZE)])
    send(client, path_of(path))
    assert client.response().body == CONTENT
    assert client.response().complete


@pytest.mark.parametrize(
    "offset, count",
    [(None, None), (0, 10), (1, MOST_READ), (255, MOST_READ + 1), (SIZE - 10, 10), (SIZE - 10, 11), (7, None), (0, 0)],
)
def test_part_of_a_file_arrives(loop: ManualLoop, path: Path, offset: int | None, count: int | None) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.call.start()
    with path.open("rb") as file:
        send(client, {"type": "http.response.zerocopysend", "file": file, "offset": offset, "count": count})
    start = offset or 0
    assert client.response().body == (CONTENT[start:] if count is None else CONTENT[start : start + count])
    assert client.response().complete


@pytest.mark.parametrize("count", [10, 2 * MOST_READ])
def test_parts_of_a_file_mix_with_bodies(loop: ManualLoop, path: Path, count: int) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.call.start(200, [(b"content-length", b"%d" % (2 + 2 * count))])
    client.call.body(b"<", more=True)
    with path.open("rb") as file:
        part = {"type": "http.response.zerocopysend", "file": file, "more_body": True}
        send(client, part | {"offset": 3, "count": count})
        send(client, part | {"count": count})
    client.call.body(b">")
    client.exchange()
    assert client.response().body == b"<" + CONTENT[3 : 3 + count] + CONTENT[:count] + b">"
    assert client.response().complete


@pytest.mark.parametrize("size", [10, 2 * MOST_READ])
def test_trailers_follow_a_file(loop: ManualLoop, path: Path, size: int) -> None:
    os.truncate(path, size)
    client = HTTP2Client.of(loop)
    client.request((*GET, (b"te", b"trailers")))
    client.call.send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
    send(client, path_of(path))
    assert not client.response().complete
    client.call.send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})
    client.exchange()
    assert client.response().body == CONTENT[:size]
    assert client.response().trailers == [(b"x-sum", b"1")]


@pytest.mark.parametrize("size", [10, 2 * MOST_READ])
def test_response_to_head_has_the_length_of_the_file_and_nothing_of_it(loop: ManualLoop, path: Path, size: int) -> None:
    os.truncate(path, size)
    client = HTTP2Client.of(loop)
    client.request(((b":method", b"HEAD"), *GET[1:]))
    client.call.start(200, [(b"content-length", b"%d" % size)])
    send(client, path_of(path))
    assert client.response().body == b""
    assert client.response().all("content-length") == [b"%d" % size]
    assert client.response().complete


# -- a file that is not what was promised


@pytest.mark.parametrize("size", [10, 2 * MOST_READ])
@pytest.mark.parametrize("excess", [-1, 1])
def test_file_of_another_size_than_the_length_is_answered_with_500(
    loop: ManualLoop, path: Path, regions: list[FileRegion], size: int, excess: int
) -> None:
    client = HTTP2Client.of(loop)
    client.request()
    client.call.start(200, [(b"content-length", b"%d" % size)])
    os.truncate(path, size + excess)
    with pytest.raises(RuntimeError, match=f"the file has {size + excess} bytes"):
        send(client, path_of(path))
    client.call.finish()
    client.exchange()
    assert client.response().status == 500
    assert client.response().complete
    assert all(map(is_closed, regions))


def test_file_that_becomes_shorter_resets_its_stream_and_no_other(
    loop: ManualLoop, path: Path, regions: list[FileRegion]
) -> None:
    client = HTTP2Client.of(loop)
    client.acknowledges = False
    stream = client.request()
    client.call.start(200, [(b"content-length", b"%d" % SIZE)])
    sending = send_until_held_up(client, path_of(path))
    os.truncate(path, MOST_READ)
    client.give(1 << 20)
    client.give(1 << 20, stream)
    eventually(loop, sending.done)
    error = sending.exception()
    assert isinstance(error, EOFError)
    client.call.fail(error)
    client.exchange()
    assert client.response(stream).body == CONTENT[:MOST_READ]
    assert client.response(stream).reset == ErrorCode.INTERNAL_ERROR
    assert [is_closed(region) for region in regions] == [True]
    assert not client.is_closed()


# -- a client that does not take it


def test_slow_client_makes_no_more_than_a_piece_of_the_file_wait_in_memory(
    loop: ManualLoop, path: Path, regions: list[FileRegion]
) -> None:
    client = HTTP2Client.of(loop)
    client.acknowledges = False
    stream = client.request()
    client.call.start()
    sending = send_until_held_up(client, path_of(path))
    taken = len(client.response(stream).body)
    (region,) = regions
    while not sending.done():
        assert region.offset - taken <= HIGH_WATER + MOST_READ
        client.h2.increment_flow_control_window(50_000)
        client.give(50_000, stream)
        go_on(client, sending)
        received = len(client.response(stream).body)
        assert received - taken <= 50_000
        taken = received
    while not client.response(stream).complete:
        client.h2.increment_flow_control_window(50_000)
        client.give(50_000, stream)
    assert client.response(stream).body == CONTENT


def test_congested_connection_makes_no_more_than_a_piece_of_the_file_wait_in_memory(
    loop: ManualLoop, path: Path, regions: list[FileRegion]
) -> None:
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: 1 << 30})
    client.give(1 << 30)
    client.transport.congested = True
    client.request()
    client.call.start()
    sending = send_until_held_up(client, path_of(path))
    assert regions[0].offset <= WRITE_HIGH_WATER + HIGH_WATER + 2 * MOST_READ
    while not sending.done():
        client.transport.take(100_000)
        go_on(client, sending)
        assert client.transport.get_write_buffer_size() <= WRITE_HIGH_WATER + HIGH_WATER + 2 * MOST_READ
    client.transport.congested = False
    client.transport.take(1 << 30)
    client.exchange()
    assert client.response().body == CONTENT


@pytest.mark.parametrize("how", ["reset", "lose"])
def test_client_that_leaves_during_a_file_has_it_closed(
    loop: ManualLoop, path: Path, regions: list[FileRegion], how: str
) -> None:
    client = HTTP2Client.of(loop)
    client.acknowledges = False
    stream = client.request()
    client.call.start()
    with path.open("rb") as file:
        sending = send_until_held_up(client, {"type": "http.response.zerocopysend", "file": file})
    assert not is_closed(regions[0])
    if how == "reset":
        client.reset(stream)
    else:
        client.lose()
    with pytest.raises(ClientDisconnected):
        sending.result()
    assert is_closed(regions[0])
    assert client.connection.waiting == set()
