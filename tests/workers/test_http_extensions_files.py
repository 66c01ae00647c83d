"""Files that the application has the server send, over a wire that is a fake and declines them."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from outrider.file_region import MOST_READ, FileRegion
from outrider.http_stream import ON_THE_WIRE, ClientDisconnected, Response
from outrider_testing.fakes import Exchange, ManualLoop
from outrider_testing.server_fakes import eventually

BODY = {"type": "http.response.body"}
START = {"type": "http.response.start", "status": 200, "headers": []}
TRAILING_START = START | {"trailers": True}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]}


def with_length(size: int) -> dict[str, Any]:
    return START | {"headers": [(b"content-length", b"%d" % size)]}


def head_of(size: int) -> bytes:
    return b"content-length: %d\r\n" % size


@pytest.fixture
def exchange(loop: ManualLoop) -> Exchange:
    exchange = Exchange(loop)
    exchange.stream.scope["headers"] = [(b"te", b"trailers")]
    return exchange


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


def send(exchange: Exchange, message: dict[str, Any]) -> None:
    """Send what may take a thread."""
    sending = exchange.call.sending(message)
    eventually(exchange.loop, sending.done)
    sending.result()


# -- files that can be sent


@pytest.mark.parametrize("size", [0, 10, MOST_READ])
def test_small_file_is_sent_with_the_head(exchange: Exchange, path: Path, size: int) -> None:
    content = os.urandom(size)
    path.write_bytes(content)
    exchange.call.send(with_length(size))
    send(exchange, {"type": "http.response.pathsend", "path": str(path)})
    assert exchange.wire.events == [(200, head_of(size), content, False), "complete"]
    assert exchange.stream.sent == size


@pytest.mark.parametrize("rest", [1, MOST_READ // 2, MOST_READ])
def test_large_file_is_sent_in_pieces(exchange: Exchange, path: Path, rest: int) -> None:
    content = os.urandom(2 * MOST_READ + rest)
    path.write_bytes(content)
    exchange.call.send(with_length(len(content)))
    send(exchange, {"type": "http.response.pathsend", "path": str(path)})
    pieces = exchange.wire.events[1:-1]
    assert b"".join(body for body, _ in pieces) == content
    assert [more for _, more in pieces] == [True, True, False]
    assert exchange.wire.events[0] == (200, head_of(len(content)), b"", True)
    assert exchange.wire.events[-1] == "complete"
    assert exchange.stream.sent == len(content)


def test_parts_of_files_mix_with_bodies(exchange: Exchange, path: Path) -> None:
    exchange.call.send(START)
    exchange.call.send(BODY | {"body": b"<", "more_body": True})
    with path.open("rb") as file:
        part = {"type": "http.response.zerocopysend", "file": file, "more_body": True}
        send(exchange, part | {"offset": 4, "count": 2})
        send(exchange, part | {"count": 3})
        send(exchange, part | {"count": 0})
        send(exchange, part)
    exchange.call.send(BODY | {"body": b">"})
    bodies = [body for body, _ in exchange.wire.events[1:-1]]
    assert bodies == [b"<", b"45", b"012", b"", b"3456789", b">"]
    assert exchange.wire.events[-1] == "complete"


@pytest.mark.parametrize("size", [10, 2 * MOST_READ])
def test_part_of_a_file_ends_the_response_unless_more_is_announced(exchange: Exchange, path: Path, size: int) -> None:
    path.write_bytes(bytes(size))
    exchange.call.send(with_length(size))
    with path.open("rb") as file:
        send(exchange, {"type": "http.response.zerocopysend", "file": file})
    assert exchange.wire.events[-1] == "complete"
    assert exchange.stream.response is Response.COMPLETE


@pytest.mark.parametrize("size", [10, 2 * MOST_READ])
def test_trailers_follow_a_file(exchange: Exchange, path: Path, size: int) -> None:
    path.write_bytes(bytes(size))
    exchange.call.send(TRAILING_START)
    send(exchange, {"type": "http.response.pathsend", "path": str(path)})
    assert exchange.stream.response is Response.TRAILING
    exchange.call.send(TRAILERS)
    assert all(more for _, more in exchange.wire.events[1:-2])
    assert exchange.wire.events[-2:] == [("trailers", [(b"x-sum", b"1")]), "complete"]


def test_large_part_of_a_file_may_be_followed(exchange: Exchange, path: Path) -> None:
    path.write_bytes(bytes(2 * MOST_READ))
    exchange.call.send(START)
    with path.open("rb") as file:
        send(exchange, {"type": "http.response.zerocopysend", "file": file, "more_body": True})
    assert all(more for _, more in exchange.wire.events[1:])
    exchange.call.send(BODY | {"body": b"end"})
    assert exchange.wire.events[-2:] == [(b"end", False), "complete"]


@pytest.mark.parametrize("size", [10, 2 * MOST_READ])
def test_file_may_be_the_first_part_of_the_length(exchange: Exchange, path: Path, size: int) -> None:
    path.write_bytes(bytes(size))
    exchange.call.send(with_length(size + 1))
    with path.open("rb") as file:
        send(exchange, {"type": "http.response.zerocopysend", "file": file, "more_body": True})
    exchange.call.send(BODY | {"body": b">"})
    assert exchange.wire.events[-1] == "complete"


@pytest.mark.parametrize("size", [10, 2 * MOST_READ])
def test_file_may_be_what_is_left_of_the_length(exchange: Exchange, path: Path, size: int) -> None:
    path.write_bytes(bytes(size))
    exchange.call.send(with_length(size + 2))
    exchange.call.send(BODY | {"body": b"<>", "more_body": True})
    with path.open("rb") as file:
        send(exchange, {"type": "http.response.zerocopysend", "file": file})
    assert exchange.wire.events[-1] == "complete"
    assert exchange.stream.sent == size + 2


def test_head_request_reads_no_file(exchange: Exchange, path: Path) -> None:
    path.write_bytes(bytes(2 * MOST_READ))
    exchange.stream.scope["method"] = "HEAD"
    exchange.call.send(with_length(2 * MOST_READ))
    send(exchange, {"type": "http.response.pathsend", "path": str(path)})
    assert exchange.wire.events == [(200, head_of(2 * MOST_READ), b"", False), "complete"]


def test_file_waits_for_the_wire(exchange: Exchange, path: Path) -> None:
    path.write_bytes(bytes(2 * MOST_READ))
    exchange.wire.writable = exchange.loop.create_future()
    exchange.call.send(with_length(2 * MOST_READ))
    sending = exchange.call.sending({"type": "http.response.pathsend", "path": str(path)})
    eventually(exchange.loop, lambda: len(exchange.wire.events) == 2)
    assert not sending.done()
    exchange.wire.writable.set_result(None)
    eventually(exchange.loop, sending.done)
    assert exchange.wire.events[-1] == "complete"


# -- files that can't be sent


@pytest.mark.parametrize("name, why", [("missing", "No such file"), (".", "not a regular file")])
def test_path_that_cannot_be_sent_is_an_error_and_a_500(
    exchange: Exchange, tmp_path: Path, name: str, why: str
) -> None:
    exchange.call.send(with_length(10))
    with pytest.raises(RuntimeError, match=f"can't be sent: .*{why}") as caught:
        send(exchange, {"type": "http.response.pathsend", "path": str(tmp_path / name)})
    assert not isinstance(caught.value, OSError)
    exchange.call.fail(caught.value)
    assert exchange.wire.events[0][0] == 500


def test_relative_path_is_an_error(exchange: Exchange) -> None:
    exchange.call.send(START)
    with pytest.raises(RuntimeError, match="absolute"):
        exchange.call.send({"type": "http.response.pathsend", "path": "file"})


def test_file_without_a_descriptor_is_an_error(exchange: Exchange, path: Path) -> None:
    exchange.call.send(START)
    with path.open("rb") as file:
        pass
    with pytest.raises(RuntimeError, match="closed file"):
        exchange.call.send({"type": "http.response.zerocopysend", "file": file})


@pytest.mark.parametrize("offset, why", [(None, "Illegal seek"), (0, "not a regular file")])
def test_pipe_is_an_error(exchange: Exchange, offset: int | None, why: str) -> None:
    exchange.call.send(START)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as file, os.fdopen(writer, "wb"), pytest.raises(RuntimeError, match=why):
        exchange.call.send({"type": "http.response.zerocopysend", "file": file, "offset": offset})


@pytest.mark.parametrize("size, event", [(10, 500), (2 * MOST_READ, "cut")])
def test_file_that_cannot_be_read_is_an_error(exchange: Exchange, path: Path, size: int, event: Any) -> None:
    path.write_bytes(bytes(size))
    exchange.call.send(with_length(size))
    with path.open("ab") as file, pytest.raises(RuntimeError, match="can't be read") as caught:
        send(exchange, {"type": "http.response.zerocopysend", "file": file, "offset": 0})
    exchange.call.fail(caught.value)
    assert event in {exchange.wire.events[-1], exchange.wire.events[0][0]}


@pytest.mark.parametrize("length, size", [(9, 10), (11, 10), (1, 2 * MOST_READ), (3 * MOST_READ, 2 * MOST_READ)])
def test_file_that_does_not_fit_the_length_is_an_error_and_a_500(
    exchange: Exchange, path: Path, length: int, size: int
) -> None:
    path.write_bytes(bytes(size))
    exchange.call.send(with_length(length))
    with pytest.raises(RuntimeError, match=f"{size} bytes, and the response a Content-Length of {length}"):
        send(exchange, {"type": "http.response.pathsend", "path": str(path)})
    exchange.call.finish()
    assert [event[0] for event in exchange.wire.events[:-1]] == [500]


def test_file_that_becomes_shorter_cuts(exchange: Exchange, path: Path) -> None:
    path.write_bytes(bytes(4 * MOST_READ))
    exchange.wire.writable = exchange.loop.create_future()
    exchange.call.send(with_length(4 * MOST_READ))
    sending = exchange.call.sending({"type": "http.response.pathsend", "path": str(path)})
    eventually(exchange.loop, lambda: len(exchange.wire.events) == 2)
    os.truncate(path, MOST_READ)
    exchange.wire.writable.set_result(None)
    eventually(exchange.loop, sending.done)
    with pytest.raises(EOFError, match="shorter"):
        sending.result()
    with pytest.raises(RuntimeError, match="while the response was sending a file"):
        exchange.call.send(BODY)
    exchange.call.finish()
    assert exchange.wire.events[-1] == "cut"
    assert exchange.stream.sent == MOST_READ


@pytest.mark.parametrize("before", [[], [START, BODY | {"body": b"x", "more_body": True}]])
def test_path_is_sent_once_and_alone(exchange: Exchange, path: Path, before: list[Any]) -> None:
    for message in before:
        exchange.call.send(message)
    with pytest.raises(RuntimeError, match="pathsend"):
        exchange.call.send({"type": "http.response.pathsend", "path": str(path)})


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
@pytest.mark.parametrize("before, state", [([], "pending"), ([TRAILING_START, BODY], "waiting for trailers")])
def test_file_is_sent_as_body_only(exchange: Exchange, path: Path, kind: str, before: list[Any], state: str) -> None:
    for message in before:
        exchange.call.send(message)
    events = list(exchange.wire.events)
    with path.open("rb") as file, pytest.raises(RuntimeError, match=f"{kind}.*while the response was {state}"):
        send(exchange, {"type": f"http.response.{kind}", "path": str(path), "file": file})
    assert exchange.wire.events == events


# -- what happens meanwhile


class SlowOpening:
    """Holds back what opens files, in its thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.opened: list[FileRegion] = []
        self._open = FileRegion.open
        monkeypatch.setattr(FileRegion, "open", self.open)

    def open(self, path: str) -> FileRegion:
        self.gate.wait(10)
        self.opened.append(self._open(path))
        return self.opened[-1]

    def is_closed(self) -> bool:
        """Whether the region was made, and its descriptor is closed."""
        try:
            return bool(self.opened) and not os.fstat(self.opened[0]._fd)
        except OSError:
            return True


def start_to_send(exchange: Exchange, path: Path, size: int = 10) -> asyncio.Task[None]:
    exchange.call.send(with_length(size))
    return exchange.call.sending({"type": "http.response.pathsend", "path": str(path)})


@pytest.mark.parametrize("size", [10, 2 * MOST_READ])
def test_client_that_leaves_while_a_file_is_opened_ends_the_send(
    exchange: Exchange, path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path.write_bytes(bytes(size))
    opening = SlowOpening(monkeypatch)
    sending = start_to_send(exchange, path, size)
    exchange.stream.disconnect(connection_lost=True)
    opening.gate.set()
    eventually(exchange.loop, sending.done)
    with pytest.raises(ClientDisconnected):
        sending.result()
    assert opening.is_closed()
    assert exchange.wire.events == []


def test_cancelled_send_closes_the_file_that_is_opened(
    exchange: Exchange, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = SlowOpening(monkeypatch)
    sending = start_to_send(exchange, path)
    sending.cancel()
    exchange.loop.run_ready()
    assert sending.cancelled()
    opening.gate.set()
    eventually(exchange.loop, opening.is_closed)


def test_cancelled_send_of_a_missing_file_is_no_error(
    exchange: Exchange, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = SlowOpening(monkeypatch)
    path.unlink()
    sending = start_to_send(exchange, path)
    sending.cancel()
    exchange.loop.run_ready()
    opening.gate.set()
    closing = exchange.loop.create_task(exchange.loop.shutdown_default_executor())
    eventually(exchange.loop, closing.done)
    assert exchange.loop.unhandled == []


def test_message_while_a_file_is_opened_is_sent_and_the_file_is_not(
    exchange: Exchange, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = SlowOpening(monkeypatch)
    sending = start_to_send(exchange, path)
    exchange.call.send(BODY | {"body": bytes(10)})
    opening.gate.set()
    eventually(exchange.loop, sending.done)
    with pytest.raises(RuntimeError, match="another message"):
        sending.result()
    assert opening.is_closed()


def test_client_that_leaves_during_a_file_ends_the_send(exchange: Exchange, path: Path) -> None:
    path.write_bytes(bytes(4 * MOST_READ))
    exchange.wire.writable = exchange.loop.create_future()
    exchange.call.send(with_length(4 * MOST_READ))
    sending = exchange.call.sending({"type": "http.response.pathsend", "path": str(path)})
    eventually(exchange.loop, lambda: len(exchange.wire.events) == 2)
    assert exchange.stream.response in ON_THE_WIRE
    exchange.stream.disconnect(connection_lost=True)
    exchange.wire.writable.set_result(None)
    eventually(exchange.loop, sending.done)
    with pytest.raises(ClientDisconnected):
        sending.result()
    assert len(exchange.wire.events) == 2


def test_second_message_during_a_file_is_an_error(exchange: Exchange, path: Path) -> None:
    path.write_bytes(bytes(4 * MOST_READ))
    exchange.wire.writable = exchange.loop.create_future()
    exchange.call.send(START)
    sending = exchange.call.sending({"type": "http.response.pathsend", "path": str(path)})
    eventually(exchange.loop, lambda: len(exchange.wire.events) == 2)
    with pytest.raises(RuntimeError, match="while the response was sending a file"):
        exchange.call.send(BODY)
    exchange.wire.writable.set_result(None)
    eventually(exchange.loop, sending.done)
    assert exchange.wire.events[-1] == "complete"


def test_cancelled_send_of_a_file_leaves_other_tasks_what_they_wait_for(exchange: Exchange, path: Path) -> None:
    path.write_bytes(bytes(2 * MOST_READ))
    writable = exchange.wire.writable = exchange.loop.create_future()
    sending = start_to_send(exchange, path, 2 * MOST_READ)
    eventually(exchange.loop, lambda: len(exchange.wire.events) == 2)
    sending.cancel()
    exchange.loop.run_ready()
    assert sending.cancelled()
    assert not writable.done()
