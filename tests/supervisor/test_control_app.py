"""The application behind the control socket, called as the server would call it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from outrider_supervisor import asgi_answers
from outrider_supervisor.asgi_answers import MOST_BODY
from outrider_supervisor.control_app import ControlApp
from outrider_supervisor.control_commands import Recycle, Reload
from outrider_supervisor.event_feed import EventFeed
from outrider_supervisor.journal import Journal
from outrider_supervisor.operations import Outcome
from outrider_testing.control_stage import FakeHandler

COMMANDS = ("dump", "recycle", "reload", "scale", "stop", "upgrade")


class Exchange:
    """One request to the application."""

    def __init__(self, supervisor: FakeHandler, method: str, path: str, *body: bytes) -> None:
        self.sent: list[Any] = []
        self._body = list(body) or [b""]
        scope = {"type": "http", "method": method, "path": path}
        self._app = ControlApp(supervisor, EventFeed(Journal(), supervisor.status))
        self._scope = scope

    async def _receive(self) -> Any:
        if not self._body:
            return {"type": "http.disconnect"}
        part = self._body.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self._body) or part == b"..."}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    def run(self) -> Exchange:
        asyncio.run(self._run())
        return self

    async def _run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(each["body"] for each in self.sent[1:])

    @property
    def error(self) -> str:
        assert self.headers[b"content-type"] == b"application/json"
        (sentence,) = json.loads(self.body).values()
        return str(sentence)


@pytest.fixture
def supervisor() -> FakeHandler:
    return FakeHandler()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_status_is_json(supervisor: FakeHandler, method: str) -> None:
    exchange = Exchange(supervisor, method, "/v1/status").run()
    assert exchange.status == 200
    assert exchange.headers == {b"content-type": b"application/json", b"content-length": b"%d" % len(exchange.body)}
    assert json.loads(exchange.body) == supervisor.status()


def test_command_is_answered_line_by_line_as_it_goes(supervisor: FakeHandler) -> None:
    async def scenario() -> None:
        exchange = Exchange(supervisor, "POST", "/v1/reload", b'{"canary"', b": false}")
        call = asyncio.ensure_future(exchange._run())
        await asyncio.sleep(0)
        assert supervisor.commands == [Reload(canary=False)]
        assert exchange.headers[b"content-type"] == b"application/x-ndjson"
        assert len(exchange.sent) == 1
        supervisor.operation.progress("starting")
        await asyncio.sleep(0)
        assert exchange.sent[1] == {
            "type": "http.response.body",
            "body": b'{"progress": "starting"}\n',
            "more_body": True,
        }
        supervisor.operation.finish(Outcome(ok=False, code="failed", message="no", details="Traceback"))
        await call
        assert json.loads(exchange.sent[2]["body"]) == {
            "ok": False,
            "code": "failed",
            "message": "no",
            "details": "Traceback",
        }
        assert not exchange.sent[2]["more_body"]

    asyncio.run(scenario())


def test_client_is_told_that_the_supervisor_is_alive(supervisor: FakeHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_answers, "ALIVE_PERIOD", 0.001)

    async def scenario() -> None:
        exchange = Exchange(supervisor, "POST", "/v1/reload")
        call = asyncio.ensure_future(exchange._run())
        while len(exchange.sent) < 3:
            await asyncio.sleep(0)
        assert exchange.sent[1] == {"type": "http.response.body", "body": b"\n", "more_body": True}
        supervisor.operation.finish(Outcome(ok=True, code="done", message="generation 2"))
        await call
        assert json.loads(exchange.body)["message"] == "generation 2"

    asyncio.run(scenario())


def test_client_that_goes_away_does_not_cancel_the_operation(supervisor: FakeHandler) -> None:
    async def scenario() -> None:
        exchange = Exchange(supervisor, "POST", "/v1/recycle", b'{"all": true}')
        call = asyncio.ensure_future(exchange._run())
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})
        assert supervisor.commands == [Recycle(0)]
        assert supervisor.operation.outcome is None
        supervisor.operation.progress("goes on")

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/", "/v1/", "/v1/restart", "/v2/status", "/status", "/v1/reload/"])
def test_unknown_path_is_answered_with_the_known_ones(supervisor: FakeHandler, path: str) -> None:
    exchange = Exchange(supervisor, "GET", path).run()
    assert exchange.status == 404
    assert exchange.error.startswith(f"there is no {path}; there are /v1/dump, ")


@pytest.mark.parametrize("path, method", [("status", "POST"), *((name, "GET") for name in COMMANDS)])
def test_wrong_method_is_answered_with_the_right_one(supervisor: FakeHandler, path: str, method: str) -> None:
    exchange = Exchange(supervisor, method, f"/v1/{path}").run()
    allowed = b"GET, HEAD" if path == "status" else b"POST"
    assert exchange.status == 405
    assert exchange.headers[b"allow"] == allowed
    assert f", not {method}" in exchange.error
    assert supervisor.commands == []


def test_wrong_body_is_answered_with_what_is_wrong(supervisor: FakeHandler) -> None:
    exchange = Exchange(supervisor, "POST", "/v1/scale", b'{"workers": "many"}').run()
    assert exchange.status == 400
    assert exchange.error == 'workers is "many": it must be a whole number from 1'
    assert supervisor.commands == []


def test_large_body_is_refused(supervisor: FakeHandler) -> None:
    exchange = Exchange(supervisor, "POST", "/v1/reload", b" " * MOST_BODY, b" ", b"never read").run()
    assert exchange.status == 413
    assert exchange.error == "the body is larger than 65536 bytes"


def test_request_that_breaks_off_is_no_command(supervisor: FakeHandler) -> None:
    exchange = Exchange(supervisor, "POST", "/v1/stop", b"...").run()
    assert exchange.status == 400
    assert supervisor.commands == []
