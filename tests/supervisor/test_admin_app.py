"""The application of the admin endpoint, called as the server would call it: who may do what."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import math
from typing import Any

import pytest

from outrider_supervisor import admin_app, resources
from outrider_supervisor.actions import Level
from outrider_supervisor.asgi_answers import MOST_BODY
from outrider_supervisor.control_commands import Command, Dump, Recycle, Reload, Scale
from outrider_supervisor.operations import Outcome
from outrider_testing.admin_stage import TOKEN, AdminScene, Answer, ask

READS = ("/metrics", "/api/status", "/api/history")
COMMANDS = ("/api/reload", "/api/scale", "/api/recycle", "/api/dump")
BEARER = f"Bearer {TOKEN}"
PATIENCE = 20.0


@pytest.fixture
def scene() -> AdminScene:
    """On loopback, without a token."""
    return AdminScene()


@pytest.fixture
def guarded() -> AdminScene:
    """Where others can connect, with a token."""
    return AdminScene(TOKEN, only_loopback=False)


def finish(scene: AdminScene) -> AdminScene:
    scene.handler.operation.finish(Outcome(ok=True, code="done", message="it is done"))
    return scene


# -- probes


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_supervisor_that_runs_is_alive(guarded: AdminScene, method: str) -> None:
    answer = ask(guarded, method, "/livez")
    assert (answer.status, answer.body) == (200, b"ok\n")


def test_service_is_ready_or_says_why_not(guarded: AdminScene) -> None:
    assert (ask(guarded, "GET", "/readyz").status, ask(guarded, "GET", "/readyz").body) == (200, b"ok\n")
    guarded.handler.reason = "0 of 1 worker ready"
    answer = ask(guarded, "GET", "/readyz")
    assert (answer.status, answer.body) == (503, b"0 of 1 worker ready\n")


# -- what there is to see


def test_status_and_history_are_json(scene: AdminScene) -> None:
    answer = ask(scene, "GET", "/api/status")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body) == scene.handler.status()
    assert json.loads(ask(scene, "GET", "/api/history").body) == scene.handler.history()


def test_history_is_made_once_for_all_who_ask_within_its_period(
    scene: AdminScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count(1)
    monkeypatch.setattr(scene.handler, "history", lambda: {"number": next(numbers)})

    async def read(period: float) -> list[int]:
        monkeypatch.setattr(resources, "PERIOD", period)
        return [json.loads((await scene.ask("GET", "/api/history")).body)["number"] for _ in range(2)]

    assert [asyncio.run(read(period)) for period in (math.inf, 0.0)] == [[1, 1], [2, 3]]


def test_metrics_are_written_as_the_scraper_likes(scene: AdminScene) -> None:
    answer = ask(scene, "GET", "/metrics", accept="application/openmetrics-text")
    assert answer.body == b"# for application/openmetrics-text\n"
    assert answer.headers["content-type"] == "text/plain"


def test_metrics_that_cannot_be_written_say_why(scene: AdminScene) -> None:
    scene.handler.has_metrics = False
    answer = ask(scene, "GET", "/metrics")
    assert (answer.status, json.loads(answer.body)) == (501, {"error": "they can't be written"})


def test_page_runs_nothing_but_its_own_script(guarded: AdminScene) -> None:
    answer = ask(guarded, "GET", "/")
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy


@pytest.mark.parametrize("path", ["/", "/livez", *READS])
def test_answers_are_neither_kept_nor_guessed_at(scene: AdminScene, path: str) -> None:
    headers = ask(scene, "GET", path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


# -- paths and methods


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api/stop", "/api/upgrade", "/api/metrics", "/v1/status", "/metrics/"]
)
def test_unknown_path_is_answered_with_the_known_ones(scene: AdminScene, path: str) -> None:
    answer = ask(scene, "GET", path)
    assert answer.status == 404
    assert "/api/events" in json.loads(answer.body)["error"]


@pytest.mark.parametrize("path", ["/", "/livez", *READS])
def test_what_can_be_seen_cannot_be_posted_to(scene: AdminScene, path: str) -> None:
    answer = ask(scene, "POST", path)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", COMMANDS)
def test_command_is_a_post(guarded: AdminScene, path: str) -> None:
    answer = ask(guarded, "GET", path, authorization=BEARER)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert guarded.handler.commands == []


# -- the token


@pytest.mark.parametrize("path", [*READS, "/api/events", "/nothing"])
@pytest.mark.parametrize(
    "given", ["", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer ü"]
)
def test_without_the_right_token_nothing_can_be_seen(guarded: AdminScene, path: str, given: str) -> None:
    answer = ask(guarded, "GET", path, b"", **({"authorization": given} if given else {}))
    assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="outrider"')


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("given", [BEARER, f"bearer {TOKEN}", f"Bearer  {TOKEN} "])
def test_with_the_token_everything_can_be_seen(guarded: AdminScene, path: str, given: str) -> None:
    assert ask(guarded, "GET", path, authorization=given).status == 200


def test_token_is_compared_in_constant_time(guarded: AdminScene, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, wanted: bytes) -> bool:
        compared.append((given, wanted))
        return True

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert ask(guarded, "GET", "/metrics", authorization="Bearer x").status == 200
    assert compared == [(b"x", TOKEN.encode())]


# -- commands


@pytest.mark.parametrize(
    "path, body, command",
    [
        ("reload", b'{"canary": false}', Reload(canary=False)),
        ("scale", b'{"workers": 3}', Scale(3)),
        ("recycle", b'{"all": true}', Recycle(0)),
        ("dump", b'{"pid": 7}', Dump(7)),
    ],
)
def test_command_with_the_token_is_carried_out(path: str, body: bytes, command: Command) -> None:
    scene = AdminScene(TOKEN)

    async def scenario() -> None:
        call = asyncio.create_task(scene.ask("POST", f"/api/{path}", body, authorization=BEARER))
        await scene.handler.has_command.wait()
        finish(scene)
        answer = await call
        assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
        assert json.loads(answer.body.splitlines()[-1])["ok"]

    asyncio.run(scenario())
    assert scene.handler.commands == [command]


@pytest.mark.parametrize("path", COMMANDS)
def test_command_where_there_is_no_token_is_forbidden(scene: AdminScene, path: str) -> None:
    answer = ask(scene, "POST", path, b"{}", authorization="Bearer ")
    assert answer.status == 403
    assert "admin_token" in json.loads(answer.body)["error"]
    assert scene.handler.commands == []


@pytest.mark.parametrize("given", ["", "Bearer wrong", "Bearer "])
def test_command_with_a_wrong_token_is_not_taken(given: str) -> None:
    scene = AdminScene(TOKEN)
    answer = ask(scene, "POST", "/api/reload", b"{}", **({"authorization": given} if given else {}))
    assert answer.status == 401
    assert scene.handler.commands == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "null"},
        {"origin": "null", "host": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_command_from_the_page_of_another_is_forbidden(headers: dict[str, str]) -> None:
    scene = AdminScene(TOKEN)
    answer = ask(scene, "POST", "/api/reload", b"{}", authorization=BEARER, **headers)
    assert answer.status == 403
    assert "Origin" in json.loads(answer.body)["error"]
    assert scene.handler.commands == []


def test_command_from_our_own_page_is_taken() -> None:
    scene = AdminScene(TOKEN)
    finish(scene)
    origin = {"origin": "http://127.0.0.1:9100", "sec_fetch_site": "same-origin"}
    assert ask(scene, "POST", "/api/reload", b"{}", authorization=BEARER, **origin).status == 200


def test_bad_or_large_body_is_refused() -> None:
    scene = AdminScene(TOKEN)
    assert ask(scene, "POST", "/api/scale", b"{}", authorization=BEARER).status == 400
    assert ask(scene, "POST", "/api/scale", b" " * (MOST_BODY + 1), authorization=BEARER).status == 413
    assert scene.handler.commands == []


# -- names that an attacker has pointed here


@pytest.mark.parametrize("path", ["/", "/livez", "/metrics", "/api/status", "/api/events"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9100", "127.0.0.1.evil.example", "0.0.0.0:9100", "[::2]:1"]
)
def test_strange_host_is_forbidden_on_loopback(scene: AdminScene, path: str, host: str) -> None:
    assert ask(scene, "GET", path, host=host).status == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9100", "127.0.0.1:9100", "[::1]:9100", "LocalHost:80", ""])
def test_host_of_this_machine_is_taken(scene: AdminScene, host: str) -> None:
    assert ask(scene, "GET", "/api/status", host=host).status == 200


def test_any_host_is_taken_where_the_token_guards(guarded: AdminScene) -> None:
    assert ask(guarded, "GET", "/api/status", host="admin.example", authorization=BEARER).status == 200


def test_every_command_is_one_of_the_control_socket() -> None:
    assert {f"/api/{name}" for name in admin_app.COMMANDS} == set(COMMANDS)


# -- events


@pytest.mark.parametrize("given, number", [("7", 7), ("9" * 5000, 0), ("\u00b2", 0), ("-1", 0), ("", 0)])
def test_number_of_the_last_event_is_taken_if_it_is_one(
    scene: AdminScene, monkeypatch: pytest.MonkeyPatch, given: str, number: int
) -> None:
    asked: list[int] = []

    async def serve(_receive: Any, send: Any, last_id: int, _headers: Any) -> None:
        asked.append(last_id)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    monkeypatch.setattr(scene.feed, "serve", serve)
    assert ask(scene, "GET", "/api/events", last_event_id=given).status == 200
    assert asked == [number]


def test_reader_of_events_is_cut_off_when_the_token_changes() -> None:
    async def read() -> Answer:
        scene = AdminScene(TOKEN, only_loopback=False)
        scene.journal.write(Level.INFO, "hello")
        reading = asyncio.create_task(scene.ask("GET", "/api/events", authorization=BEARER))
        for _ in range(10):
            await asyncio.sleep(0)
        scene.app.token = TOKEN
        for _ in range(10):
            await asyncio.sleep(0)
        assert not reading.done()
        scene.app.token = "another0123456789"
        return await asyncio.wait_for(reading, PATIENCE)

    answer = asyncio.run(read())
    assert b"hello" in answer.body
    assert answer.is_complete
