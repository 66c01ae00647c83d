"""The supervisor's decisions as server-sent events: any number of readers cost it one status a second.

No reader has a queue. Each takes what is new in the journal when it is ready for more; one that is so slow that the
journal has forgotten something misses that, and one that takes nothing is cut off by the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus

from outrider.runtime import Receive, Send
from outrider_supervisor.asgi_answers import Headers, Refusal, line_of
from outrider_supervisor.journal import Journal

MOST_READERS = 32
STATUS_PERIOD = 1.0
_FRESH = 0.9 * STATUS_PERIOD
_RETRY = b"retry: 2000\n\n"
"""Milliseconds after which a browser connects anew."""


class EventFeed:
    """Serves `text/event-stream`: `log` for each event of the journal, `status` once a second."""

    def __init__(self, journal: Journal, status: Callable[[], Mapping[str, object]]) -> None:
        self._journal = journal
        self._status = status
        self._changed = asyncio.Event()
        self._readers = 0
        self._encoded: tuple[float, bytes] = (-STATUS_PERIOD, b"")
        journal.on_event = self._wake

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def serve(self, receive: Receive, send: Send, last_id: int, headers: Headers = ()) -> None:
        """Answer a request, until the client leaves or the server drains.

        Args:
            receive: ASGI.
            send: ASGI.
            last_id: number of the last event that the client has, 0 for none.
            headers: more of them.

        Raises:
            Refusal: there are too many readers.
        """
        if self._readers >= MOST_READERS:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"there are {MOST_READERS} readers of events already")
        self._readers += 1
        fields = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), *headers]
        tasks = set[asyncio.Task[None]]()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            tasks = {asyncio.create_task(self._feed(send, last_id)), asyncio.create_task(_until_told_to_end(receive))}
            # Side by side, so that a reader that takes nothing does not hold up the end.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._readers -= 1
            for task in tasks:
                task.cancel()

    async def _feed(self, send: Send, last_id: int) -> None:
        loop = asyncio.get_running_loop()
        next_status = loop.time()
        news = _RETRY
        while True:
            changed = self._changed
            last_id, events = self._events_after(last_id)
            news += events
            if loop.time() >= next_status:
                next_status = loop.time() + STATUS_PERIOD
                news += self._encode_status(loop.time())
            if news:
                await send({"type": "http.response.body", "body": news, "more_body": True})
                news = b""
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_status):
                    await changed.wait()

    def _events_after(self, last_id: int) -> tuple[int, bytes]:
        """The number of the last event there is, and those after `last_id` as they are sent."""
        events, last = self._journal.events, self._journal.recorded
        if last_id > last:  # of another supervisor
            last_id = 0
        first = last - len(events) + 1
        news = [
            b"id: %d\nevent: log\ndata: %s\n" % (first + index, line_of(event))
            for index, event in enumerate(events)
            if first + index > last_id
        ]
        return last, b"".join(news)

    def _encode_status(self, now: float) -> bytes:
        """The status as it is sent, the same to all readers within a second."""
        if now - self._encoded[0] >= _FRESH:
            self._encoded = (now, b"event: status\ndata: %s\n" % line_of(self._status()))
        return self._encoded[1]


async def _until_told_to_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
