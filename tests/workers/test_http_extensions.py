"""Trailers, files, early hints and debug information between the application and a wire that is a fake."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from outrider.file_region import MOST_READ, FileRegion
from outrider.http_extensions import accepts_trailers
from outrider.http_stream import ON_THE_WIRE, ClientDisconnected, Response
from outrider_testing.fakes import Exchange, ManualLoop
from outrider_testing.server_fakes import eventually

BODY = {"type": "http.response.body"}
START = {"type": "http.response.start", "status": 200, "headers": []}
TRAILING_START = START | {"trailers": True}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]}
HINT = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]}
LINKS = [(b"link", b"</a.css>; rel=preload"), (b"link", b"</b.js>; rel=preload")]


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


# -- trailers


def test_trailers_end_a_response_that_promised_them(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY | {"body": b"text"})
    assert exchange.stream.response.name == "TRAILING"
    exchange.call.send(TRAILERS)
    assert exchange.wire.events[1:] == [(b"text", True), ("trailers", [(b"x-sum", b"1")]), "complete"]
    assert exchange.stream.response is Response.COMPLETE


def test_first_and_last_body_of_a_response_with_trailers_is_not_its_end(exchange: Exchange) -> None:
    exchange.call.send(with_length(4) | {"trailers": True})
    exchange.call.send(BODY | {"body": b"text"})
    assert exchange.wire.events == [(200, head_of(4), b"text", True)]


def test_trailers_may_come_in_parts(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    exchange.call.send(TRAILERS | {"more_trailers": True})
    assert exchange.stream.response is Response.TRAILING
    exchange.call.send({"type": "http.response.trailers", "headers": [[b"x-time", b"2"]]})
    assert exchange.wire.events[-2] == ("trailers", [(b"x-sum", b"1"), [b"x-time", b"2"]])


def test_promised_trailers_may_be_none(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    exchange.call.send({"type": "http.response.trailers"})
    assert exchange.wire.events[-2:] == [("trailers", []), "complete"]


@pytest.mark.parametrize(
    "headers, accepts",
    [
        ([], False),
        ([(b"te", b"trailers")], True),
        ([(b"te", b"gzip, Trailers")], True),
        ([(b"te", b"gzip"), (b"te", b"trailers")], True),
        ([(b"te", b"gzip;q=0.5")], False),
        ([(b"trailer", b"trailers")], False),
    ],
)
def test_client_gets_only_trailers_that_it_accepts(exchange: Exchange, headers: Any, accepts: bool) -> None:
    assert accepts_trailers(headers) is accepts
    exchange.stream.scope["headers"] = headers
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    exchange.call.send(TRAILERS)
    assert exchange.wire.events[-2:] == [("trailers", [(b"x-sum", b"1")] if accepts else []), "complete"]


@pytest.mark.parametrize("name", [b"content-length", b"Transfer-Encoding", b"trailer", b"set-cookie", b"content-type"])
def test_field_that_may_not_be_a_trailer_is_an_error_and_cuts(exchange: Exchange, name: bytes) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    with pytest.raises(RuntimeError, match="may not be sent in trailers"):
        exchange.call.send({"type": "http.response.trailers", "headers": [(name, b"1")]})
    exchange.call.finish()
    assert exchange.wire.events[-1] == "cut"


@pytest.mark.parametrize("before", [[], [TRAILING_START], [START]])
def test_trailers_before_the_end_of_the_body_are_an_error(exchange: Exchange, before: list[Any]) -> None:
    for message in before:
        exchange.call.send(message)
    with pytest.raises(RuntimeError, match="was sent while the response was"):
        exchange.call.send(TRAILERS)


def test_body_after_its_end_is_an_error_where_trailers_are_owed(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    with pytest.raises(RuntimeError, match="while the response was waiting for trailers"):
        exchange.call.send(BODY)


def test_response_without_its_promised_trailers_is_cut(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    exchange.call.finish()
    assert exchange.wire.events[-1] == "cut"


# -- the end


def test_messages_after_the_end_are_ignored(exchange: Exchange) -> None:
    exchange.call.send(START)
    exchange.call.send(BODY)
    before = list(exchange.wire.events)
    for message in (START, BODY, TRAILERS, HINT, {"type": "http.response.pathsend"}):
        exchange.call.send(message)
    assert exchange.wire.events == before


def test_message_after_a_cut_tells_of_the_disconnect(exchange: Exchange) -> None:
    exchange.call.send(START)
    exchange.call.finish()
    assert exchange.wire.events[-1] == "cut"
    with pytest.raises(ClientDisconnected):
        exchange.call.send(BODY)


# -- early hints


@pytest.mark.parametrize("before", [[], [with_length(0)]])
def test_hint_is_sent_before_the_head(exchange: Exchange, before: list[Any]) -> None:
    for message in before:
        exchange.call.send(message)
    exchange.call.send(HINT)
    exchange.call.send(HINT | {"links": [b"</c>"]})
    assert exchange.wire.events == [(103, LINKS), (103, [(b"link", b"</c>")])]


def test_hint_behind_the_head_is_dropped(exchange: Exchange) -> None:
    exchange.call.send(START)
    exchange.call.send(HINT)
    assert exchange.wire.events == [(200, b"", b"", True)]


def test_hint_behind_the_body_is_an_error(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    with pytest.raises(RuntimeError, match="early_hint"):
        exchange.call.send(HINT)


# -- debug information


DEBUG = {"type": "http.response.debug", "info": {"template": "index.html"}}


def test_debug_information_goes_to_the_log(loop: ManualLoop) -> None:
    exchange = Exchange(loop, debug_extension=True)
    exchange.call.send(DEBUG)
    assert exchange.log.messages("debug") == ["Debug information of GET /x: {'template': 'index.html'}"]
    exchange.call.send(START)
    with pytest.raises(RuntimeError, match="debug"):
        exchange.call.send(DEBUG)


def test_debug_information_is_an_error_where_nobody_asked_for_it(exchange: Exchange) -> None:
    with pytest.raises(RuntimeError, match="debug"):
        exchange.call.send(DEBUG)


# -- files


def test_small_file_is_sent_with_the_head(exchange: Exchange, path: Path) -> None:
    exchange.call.send(with_length(10))
    send(exchange, {"type": "http.response.pathsend", "path": str(path)})
    assert exchange.wire.events == [(200, head_of(10), b"0123456789", False), "complete"]
    assert exchange.stream.sent == 10


def test_large_file_is_sent_in_pieces(exchange: Exchange, path: Path) -> None:
    content = os.urandom(5 * MOST_READ // 2)
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
    exchange.call.send(BODY | {"body": b"end"})
    assert exchange.wire.events[-2:] == [(b"end", False), "complete"]


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


def start_to_send(exchange: Exchange, path: Path) -> asyncio.Task[None]:
    exchange.call.send(with_length(10))
    return exchange.call.sending({"type": "http.response.pathsend", "path": str(path)})


def test_client_that_leaves_while_a_file_is_opened_ends_the_send(
    exchange: Exchange, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = SlowOpening(monkeypatch)
    sending = start_to_send(exchange, path)
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
