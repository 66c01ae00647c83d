"""Requests that are read while the loop runs: the application may be called, and even end, within that read.

Python 3.12 starts tasks so; before, they wait for their turn. What a client and an application see is the same.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from outrider.errors import Aborted
from outrider.http1 import FEED_SLICE
from outrider.http1_pipeline import MOST_QUEUED
from outrider_testing.fakes import Client, DrivenApp, ManualLoop, constant

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def feed_running(client: Client, data: bytes) -> None:
    """Send as a transport does: from a callback of the loop."""
    client.loop.call_soon(client.transport.feed, data)
    client.loop.run_ready()


class NestingApp:
    """Answers; keeps how many calls of it were in progress at most, and the task of each."""

    def __init__(self) -> None:
        self.calls = 0
        self.deepest = 0
        self.tasks: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        self.deepest = max(self.deepest, self.calls)
        self.tasks.append(asyncio.current_task())
        await constant()(scope, receive, send)
        self.calls -= 1


@pytest.mark.parametrize("count", [1, 2, MOST_QUEUED + 1, 3 * FEED_SLICE // len(GET)])
def test_connection_calls_the_app_in_a_task_for_each_request_and_never_within_another_call(
    loop: ManualLoop, count: int
) -> None:
    app = NestingApp()
    client = Client.of(loop, app)
    feed_running(client, GET * count)
    assert client.statuses == [200] * count
    assert app.deepest == 1
    assert len({id(task) for task in app.tasks}) == count  # the list keeps them alive, so that no id is used twice
    assert {task.get_name() for task in app.tasks} == {"request"}
    assert not client.runtime.streams


def test_app_that_need_not_wait_has_answered_when_the_read_is_over(loop: ManualLoop) -> None:
    client = Client.of(loop, constant())
    answered = []

    def feed() -> None:
        client.transport.feed(GET)
        answered.append(bool(client.sent))

    loop.call_soon(feed)
    loop.run_ready()
    assert answered == [sys.version_info >= (3, 12)]
    assert client.statuses == [200]


def test_app_finds_the_body_that_came_with_the_head(loop: ManualLoop) -> None:
    client = Client.of(loop)
    feed_running(client, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    assert client.call.receive() == {"type": "http.request", "body": b"hello", "more_body": False}


def test_answer_before_the_body_is_complete_leaves_the_body_its_deadline(loop: ManualLoop) -> None:
    client = Client.of(loop, constant(), body_timeout=30)
    feed_running(client, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
    assert client.statuses == [200]
    client.sweep(29)
    assert not client.is_closed()
    client.sweep(2)
    assert client.is_closed()


def test_request_whose_body_is_malformed_in_the_same_read_never_reaches_the_app(loop: ManualLoop) -> None:
    client = Client.of(loop, DrivenApp(loop))
    feed_running(client, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
    assert client.calls == []
    assert client.statuses == [400]
    assert not client.runtime.streams


def test_abort_within_a_call_leaves_the_loop_whatever_the_transport_does_with_errors(loop: ManualLoop) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise Aborted(1)

    client = Client.of(loop, app)

    def feed() -> None:
        try:
            client.transport.feed(GET)
        except BaseException as error:  # noqa: BLE001  # as uvloop: closes the connection, and goes on
            client.transport.lose(Exception(error))

    loop.call_soon(feed)
    with pytest.raises(Aborted):
        loop.run_ready()
