"""A client that sends many small frames at once: other connections have their turns of the loop in between."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.websocket_frames import FRAMES_PER_TURN
from outrider_testing import websocket_bytes as ws
from outrider_testing.fakes import Client, ManualLoop
from outrider_testing.fakes.websocket import ACCEPT, opened


def test_client_that_floods_with_pings_leaves_turns_of_the_loop_to_others(loop: ManualLoop) -> None:
    client = opened(loop)
    pings = 10 * FRAMES_PER_TURN
    client.transport.feed(ws.frame(ws.PING) * pings)
    answered = [len(client.sent) // 2]
    while answered[-1] < pings:
        loop.run_turn()
        answered.append(len(client.sent) // 2)
    assert max(later - before for before, later in zip([0, *answered], answered, strict=False)) <= FRAMES_PER_TURN
    assert client.sent == b"\x8a\x00" * pings


def test_client_that_floods_is_not_read_before_the_next_turn(loop: ManualLoop) -> None:
    client = opened(loop)
    client.transport.feed(ws.frame(ws.PING) * (FRAMES_PER_TURN + 1))
    client.transport.feed(bytes(1000))
    assert client.transport.waiting == 1000
    loop.run_ready()
    assert client.transport.waiting == 0


def test_application_that_need_not_wait_leaves_turns_of_the_loop_to_others(loop: ManualLoop) -> None:
    received: list[str] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        while "text" in (message := await receive()):
            received.append(message["text"])

    client = Client.of(loop, app)
    client.feed(ws.handshake())
    sent = [str(number) for number in range(10 * FRAMES_PER_TURN)]
    client.transport.feed(b"".join(ws.frame(ws.TEXT, text.encode()) for text in sent))
    before = 0
    while before < len(sent):
        loop.run_turn()
        assert len(received) - before <= FRAMES_PER_TURN
        before = len(received)
    assert received == sent


def test_what_is_held_for_the_next_turn_comes_before_the_end(loop: ManualLoop) -> None:
    client = opened(loop)
    client.transport.feed(ws.frame(ws.PING) * 1000 + ws.frame(ws.TEXT, b"last") + ws.close(4000))
    client.transport.feed_eof()
    loop.run_ready()
    assert client.call.receive()["text"] == "last"
    assert client.call.receive()["code"] == 4000


def test_early_frames_have_their_turns_as_well(loop: ManualLoop) -> None:
    client = Client.of(loop)
    client.feed(ws.handshake() + ws.frame(ws.PING) * 20_000 + ws.frame(ws.TEXT, b"last"))
    client.feed(ws.frame(ws.TEXT, b"behind"))
    client.call.receive()
    client.call.send(ACCEPT)
    assert [client.call.receive()["text"] for _ in range(2)] == ["last", "behind"]


@pytest.mark.parametrize("end", ["lose", "abort", "close"])
def test_connection_that_ends_while_frames_are_held_is_over(loop: ManualLoop, end: str) -> None:
    client = opened(loop)
    (connection,) = client.runtime.connections
    client.transport.feed(ws.frame(ws.PING) * 2000)
    if end == "lose":
        client.transport.lose()
    elif end == "abort":
        connection.abort()
    else:
        client.call.send({"type": "websocket.close"})
        client.transport.feed(ws.close())
    loop.run_ready()
    assert client.call.receive()["type"] == "websocket.disconnect"
    assert not client.runtime.connections
    assert client.runtime.websockets == 0


def test_fault_behind_held_frames_is_told(loop: ManualLoop) -> None:
    client = opened(loop)
    client.feed(ws.frame(ws.PING) * 1000 + ws.frame(0x3))
    assert client.call.receive()["code"] == 1002
    assert client.transport.eof_written
    assert client.transport.is_reading()
