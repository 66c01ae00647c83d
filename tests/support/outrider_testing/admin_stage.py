"""The admin endpoint without a supervisor behind it: called as the server would call it, or served for real."""

from __future__ import annotations

import asyncio
from typing import Any

from outrider_supervisor.admin import Admin
from outrider_supervisor.admin_app import AdminApp
from outrider_supervisor.event_feed import EventFeed
from outrider_supervisor.journal import Journal
from outrider_testing.control_stage import FakeHandler

TOKEN = "0123456789abcdef"
Headers = dict[str, str]


def make_admin(journal: Journal) -> Admin:
    """One that shows a `FakeHandler`."""
    handler = FakeHandler()
    return Admin(handler, EventFeed(journal, handler.status), journal)


class Answer:
    """What an application has sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(each["body"] for each in self.sent[1:])

    @property
    def is_complete(self) -> bool:
        return bool(self.sent) and not self.sent[-1].get("more_body", self.sent[-1]["type"].endswith("start"))


class AdminScene:
    """One application."""

    def __init__(self, token: str = "", *, only_loopback: bool = True) -> None:
        self.handler = FakeHandler()
        self.journal = Journal()
        self.feed = EventFeed(self.journal, self.handler.status)
        self.app = AdminApp(self.handler, self.feed, token, only_loopback=only_loopback)

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request, with `_` for `-` in the names of headers."""
        fields = {"host": "127.0.0.1:9100"} | {name.replace("_", "-"): value for name, value in headers.items()}
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        answer = Answer()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            return await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            answer.sent.append(message)

        await self.app({"type": "http", "method": method, "path": path, "headers": raw}, receive, send)
        return answer


def ask(scene: AdminScene, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """The same outside of a loop."""
    return asyncio.run(scene.ask(method, path, body, **headers))
