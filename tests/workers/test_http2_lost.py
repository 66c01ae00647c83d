"""What is left of a connection of HTTP/2, or of a stream, that its client has ended: nothing, in whatever phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outrider.file_region import MOST_READ
from outrider.http_stream import HIGH_WATER, ClientDisconnected
from outrider_testing.fakes import ManualLoop
from outrider_testing.http2_client import GET, POST, HTTP2Client
from outrider_testing.server_fakes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INITIAL_WINDOW = 4
CONNECT = (
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"http"),
    (b":authority", b"a"),
    (b":path", b"/"),
    (b"sec-websocket-version", b"13"),
)


# -- the client resets its stream


def test_app_is_told_that_its_client_has_cancelled(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.reset(client.request(POST, more=True))
    assert client.call.receive() == {"type": "http.disconnect"}
    with pytest.raises(ClientDisconnected):
        client.call.start()
    assert client.response(client.request()).reset is None


def test_app_that_ignores_a_cancelled_client_is_cancelled(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, disconnect_grace=3.0)
    client.reset(client.request())
    assert not client.call.cancelled
    client.sweep(3.0)
    assert client.call.cancelled


def test_request_that_is_cancelled_in_the_same_breath_never_starts(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, GET, end_stream=True)
    client.h2.reset_stream(stream)
    client.exchange()
    assert client.calls == []
    assert client.runtime.streams == set()


def test_client_that_resets_its_stream_during_the_last_piece_of_a_file_leaves_nothing_behind(
    loop: ManualLoop, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(MOST_READ + HIGH_WATER + 1))
    client = HTTP2Client.of(loop, settings={INITIAL_WINDOW: MOST_READ}, keepalive=75)
    client.give(1 << 20)
    stream = client.request(POST, more=True)
    client.acknowledges = False
    client.call.start()
    sending = client.call.sending({"type": "http.response.pathsend", "path": str(path)})

    def is_held_up() -> bool:
        client.exchange()
        return client.connection.engine.queued(stream) > HIGH_WATER

    eventually(loop, is_held_up)
    client.reset(stream)
    assert sending.done()
    assert client.connection.finishing == set()
    assert client.connection.deadline == client.runtime.now + 75
    assert client.runtime.blocked_writers == set()


# -- the connection is lost


def test_lost_connection_disconnects_all_its_streams(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request(POST, more=True)
    client.request(POST, more=True)
    client.lose()
    assert [call.receive()["type"] for call in client.calls] == ["http.disconnect"] * 2
    assert client.runtime.connections == set()


def test_client_that_shuts_down_its_sending_side_has_left(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.request(POST, more=True)
    client.transport.feed_eof()
    loop.run_ready()
    assert client.call.receive() == {"type": "http.disconnect"}
    assert client.is_closed()


def test_lost_connection_may_be_what_the_drain_waited_for(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    changes: list[int] = []
    client.runtime.on_change = lambda: changes.append(len(client.runtime.connections))
    client.lose()
    assert changes == [0]


@pytest.mark.parametrize("is_congested", [True, False])
def test_lost_connection_is_no_blocked_writer(loop: ManualLoop, is_congested: bool) -> None:
    client = HTTP2Client.of(loop, settings={4: 1 << 30 if is_congested else 0})
    client.transport.congested = is_congested
    client.give(1 << 30)
    client.request()
    client.call.start()
    client.call.sending({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
    client.exchange()
    assert client.runtime.blocked_writers == {client.connection}
    client.lose()
    assert client.runtime.blocked_writers == set()


def refuse(client: HTTP2Client) -> int:
    """Have the application begin to refuse a WebSocket."""
    stream = connect(client)
    client.call.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    client.call.send({"type": "websocket.http.response.body", "body": b"n", "more_body": True})
    client.exchange()
    return stream


def connect(client: HTTP2Client) -> int:
    client.h2.config.validate_outbound_headers = False
    stream = client.request(CONNECT, more=True)
    client.call.receive()
    return stream


@pytest.mark.parametrize("how", ["lose", "reset", "shut down"])
def test_app_that_refuses_a_websocket_is_told_that_its_client_has_left(loop: ManualLoop, how: str) -> None:
    client = HTTP2Client.of(loop, disconnect_grace=3)
    stream = refuse(client)
    receiving = client.call.receiving()
    assert not receiving.done()
    if how == "lose":
        client.lose()
    elif how == "reset":
        client.reset(stream)
    else:
        client.transport.feed_eof()
        loop.run_ready()
    assert receiving.result()["type"] == "websocket.disconnect"
    client.sweep(3)
    assert client.call.cancelled
    assert client.runtime.streams == set()


def test_app_that_has_refused_a_websocket_may_go_on(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, disconnect_grace=3)
    refuse(client)
    client.call.send({"type": "websocket.http.response.body", "body": b"o"})
    client.exchange()
    client.lose()
    client.sweep(10)
    assert not client.call.cancelled
    client.call.finish()
    assert client.runtime.streams == set()


def upload(client: HTTP2Client) -> None:
    stream = client.request(POST, more=True)
    while client.h2.local_flow_control_window(stream) >= 16384:
        client.send(stream, bytes(16384), more=True)


def accept(client: HTTP2Client) -> None:
    connect(client)
    client.call.send({"type": "websocket.accept"})
    client.exchange()


def close_websocket(client: HTTP2Client) -> None:
    accept(client)
    client.call.send({"type": "websocket.close"})
    client.exchange()
    client.send(1, b"\x88\x80\0\0\0\0", more=True)


def wait_for_window(client: HTTP2Client) -> None:
    client.acknowledges = False
    client.request()
    client.call.start()
    client.call.sending({"type": "http.response.body", "body": bytes(200_000), "more_body": True})
    client.exchange()


def send_to_a_websocket_without_window(client: HTTP2Client) -> None:
    client.acknowledges = False
    accept(client)
    client.call.sending({"type": "websocket.send", "bytes": bytes(200_000)})
    client.exchange()
    assert client.connection.waiting


def finish_without_window(client: HTTP2Client) -> None:
    client.acknowledges = False
    client.request()
    client.call.respond(bytes(200_000))
    client.exchange()


def congest(client: HTTP2Client) -> None:
    client.transport.set_write_buffer_limits(high=1000)
    client.transport.congested = True
    wait_for_window(client)


def drain(client: HTTP2Client) -> None:
    client.request()
    client.drain()


def drain_to_the_last(client: HTTP2Client) -> None:
    drain(client)
    client.exchange()


def break_the_protocol(client: HTTP2Client) -> None:
    client.request()
    client.feed(b"\0\0\5\6\0\0\0\0\0hello")


def let_the_body_expire(client: HTTP2Client) -> None:
    client.acknowledges = False
    client.request(POST, more=True)
    client.sweep(31)


@pytest.mark.parametrize("shuts_down", [False, True], ids=["lost", "shut down"])
@pytest.mark.parametrize(
    "come_to",
    [
        HTTP2Client.ping,
        HTTP2Client.request,
        upload,
        wait_for_window,
        finish_without_window,
        congest,
        drain,
        drain_to_the_last,
        break_the_protocol,
        let_the_body_expire,
        connect,
        accept,
        refuse,
        close_websocket,
        send_to_a_websocket_without_window,
    ],
    ids=lambda step: step.__name__,
)
def test_nothing_is_kept_of_a_lost_connection(
    loop: ManualLoop, come_to: Callable[[HTTP2Client], object], shuts_down: bool
) -> None:
    client = HTTP2Client.of(loop, disconnect_grace=3)
    come_to(client)
    if shuts_down:
        client.transport.feed_eof()
        loop.run_ready()
        client.sweep(30.5)
        client.sweep(30.5)
    else:
        client.lose()
    client.sweep(3)
    for call in client.calls:
        assert call.receive()["type"] in {"http.disconnect", "websocket.disconnect", "http.request"}
        call.finish()
    runtime = client.runtime
    assert (runtime.connections, runtime.streams, runtime.blocked_writers) == (set(), set(), set())
    assert runtime.websockets == 0
    assert runtime.counters.requests == len(client.calls)
    assert client.connection.waiting == set()
    assert client.connection.finishing == set()
