"""Server-sent events, called as the server would call it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from outrider_supervisor import event_feed
from outrider_supervisor.actions import Level
from outrider_supervisor.asgi_answers import Refusal
from outrider_supervisor.event_feed import MOST_READERS, EventFeed
from outrider_supervisor.journal import KEPT_EVENTS, Journal

PATIENCE = 20.0


class Reader:
    """One client. While it is not `hungry` it takes nothing."""

    def __init__(self, feed: EventFeed, last_id: int = 0) -> None:
        self.received = b""
        self.is_complete = False
        self.hungry = asyncio.Event()
        self.hungry.set()
        self._leaves = asyncio.Event()
        self.task = asyncio.create_task(feed.serve(self._receive, self._send, last_id))

    def leave(self) -> None:
        """Go away, or be told that the server drains."""
        self._leaves.set()

    @property
    def events(self) -> list[tuple[int, str]]:
        """Numbers and texts of the log."""
        found = []
        for block in self.received.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if fields.get("event") == "log":
                found.append((int(fields["id"]), json.loads(fields["data"])["text"]))
        return found

    @property
    def statuses(self) -> list[Any]:
        """The states that it was told."""
        blocks = [block for block in self.received.decode().split("\n\n") if "event: status" in block]
        return [json.loads(block.split("data: ", 1)[1]) for block in blocks]

    async def _receive(self) -> Any:
        await self._leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message.get("more_body", False):  # what is last, a server takes without waiting for its client
            await self.hungry.wait()
        if message["type"] == "http.response.body":
            self.received += message["body"]
            self.is_complete = not message.get("more_body", False)


class Scene:
    def __init__(self) -> None:
        self.journal = Journal()
        self.asked = 0
        self.feed = EventFeed(self.journal, self._status)

    def _status(self) -> dict[str, Any]:
        self.asked += 1
        return {"number": self.asked}

    def log(self, *texts: str) -> None:
        for text in texts:
            self.journal.remember(Level.INFO, text)


def run(scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        scene = Scene()
        async with asyncio.timeout(PATIENCE):
            await scenario(scene)

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_reader_gets_what_was_and_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "STATUS_PERIOD", 3600.0)  # an event does not wait for it

    async def scenario(scene: Scene) -> None:
        scene.log("one", "two")
        reader = Reader(scene.feed)
        await until(lambda: reader.statuses)
        assert reader.events == [(1, "one"), (2, "two")]
        assert reader.statuses == [{"number": 1}]
        scene.log("three\nwith a line break")
        await until(lambda: len(reader.events) == 3)
        assert reader.events[2] == (3, "three\nwith a line break")
        reader.leave()
        await reader.task
        assert reader.is_complete

    run(scenario)


def test_reader_that_comes_back_gets_what_it_has_missed() -> None:
    async def scenario(scene: Scene) -> None:
        scene.log("one", "two", "three")
        readers = [Reader(scene.feed, last_id) for last_id in (2, 3, 99)]
        await until(lambda: all(reader.statuses for reader in readers))
        assert readers[0].events == [(3, "three")]
        assert readers[1].events == []
        assert len(readers[2].events) == 3  # its number is of another supervisor
        for reader in readers:
            reader.leave()
            await reader.task

    run(scenario)


def test_events_begin_with_the_oldest_that_is_kept() -> None:
    async def scenario(scene: Scene) -> None:
        scene.log(*(f"event {number}" for number in range(1, KEPT_EVENTS + 11)))
        reader = Reader(scene.feed)
        await until(lambda: reader.events)
        assert reader.events[0] == (11, "event 11")
        assert len(reader.events) == KEPT_EVENTS
        reader.leave()
        await reader.task

    run(scenario)


def test_status_is_made_once_for_all_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "STATUS_PERIOD", 0.01)
    monkeypatch.setattr(event_feed, "_FRESH", 0.0)

    async def scenario(scene: Scene) -> None:
        readers = [Reader(scene.feed) for _ in range(5)]
        await until(lambda: all(reader.statuses for reader in readers))
        monkeypatch.setattr(event_feed, "_FRESH", float("inf"))
        asked = scene.asked
        before = [len(reader.statuses) for reader in readers]
        await until(lambda: all(len(reader.statuses) > seen for reader, seen in zip(readers, before, strict=True)))
        assert scene.asked == asked
        assert {reader.statuses[-1]["number"] for reader in readers} == {asked}
        monkeypatch.setattr(event_feed, "_FRESH", 0.0)
        await until(lambda: all(reader.statuses[-1]["number"] > asked for reader in readers))
        for reader in readers:
            reader.leave()
            await reader.task

    run(scenario)


def test_reader_that_takes_nothing_costs_nothing_and_ends_at_once() -> None:
    async def scenario(scene: Scene) -> None:
        slow, quick = Reader(scene.feed), Reader(scene.feed)
        await until(lambda: slow.statuses)
        slow.hungry.clear()
        scene.log(*(f"event {number}" for number in range(10 * KEPT_EVENTS)))
        await until(lambda: quick.events and quick.events[-1][0] == 10 * KEPT_EVENTS)
        assert slow.events == []
        slow.leave()
        await until(lambda: scene.feed._readers == 1)  # although it still takes nothing
        slow.hungry.set()
        quick.leave()
        await asyncio.gather(slow.task, quick.task, return_exceptions=True)

    run(scenario)


def test_readers_are_limited() -> None:
    async def scenario(scene: Scene) -> None:
        readers = [Reader(scene.feed) for _ in range(MOST_READERS)]
        await until(lambda: all(reader.statuses for reader in readers))
        surplus = Reader(scene.feed)
        with pytest.raises(Refusal) as caught:
            await surplus.task
        assert caught.value.status == 503
        readers.pop().leave()
        await until(lambda: scene.feed._readers < MOST_READERS)
        readers.append(Reader(scene.feed))
        await until(lambda: readers[-1].statuses)
        for reader in readers:
            reader.leave()
        await asyncio.gather(*(reader.task for reader in readers))

    run(scenario)


def test_reader_that_is_cancelled_leaves_no_task() -> None:
    async def scenario(scene: Scene) -> None:
        reader = Reader(scene.feed)
        await until(lambda: reader.statuses)
        reader.task.cancel()
        await asyncio.wait({reader.task})
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert scene.feed._readers == 0

    run(scenario)
