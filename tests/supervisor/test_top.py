"""The screen of `outrider top`: what it shows, and what its keys do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Static

from outrider_supervisor.client import ClientError
from outrider_supervisor.control_commands import Command, Dump, Recycle, Reload, Scale
from outrider_supervisor.status import Status
from outrider_supervisor.top import SILENCE, Details, Question, Top
from outrider_testing.statuses import NOW, make_generation, make_status, make_worker

WORKERS = (make_worker(7, memory_bytes=50 << 20), make_worker(8, memory_bytes=90 << 20))
DONE = {"ok": True, "code": "done", "message": "[bold]done[/bold]", "details": ""}
TURNS = 500
HANGS = 30.0


class FakeClient:
    """A supervisor that says the same each time, and does all it is told."""

    def __init__(self, status: Status, outcome: dict[str, Any] | ClientError = DONE) -> None:
        self.answer: Status | ClientError = status
        self.outcome = outcome
        self.commands: list[Command] = []

    def status(self) -> dict[str, Any]:
        if isinstance(self.answer, ClientError):
            raise self.answer
        return dict(self.answer)

    def run(self, command: Command) -> Iterator[dict[str, Any]]:
        self.commands.append(command)
        if isinstance(self.outcome, ClientError):
            raise self.outcome
        yield {"progress": "begun"}
        yield self.outcome


Act = Callable[["Screen"], Awaitable[None]]


class Screen:
    """A running `Top`, and the fingers on its keys."""

    def __init__(self, top: Top, pilot: Pilot[None]) -> None:
        self.top = top
        self.pilot = pilot

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(TURNS):
            if condition():
                return
            await self.pilot.pause(0.01)
        raise AssertionError(f"not shown: {self.text()}")

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    def line(self, name: str) -> str:
        return str(self.top.query_one(f"#{name}", Static).render())

    def rows(self) -> list[list[str]]:
        table = self.top.query_one(DataTable)
        return [[str(cell) for cell in table.get_row_at(index)] for index in range(table.row_count)]

    def text(self) -> str:
        return "\n".join(self.line(name) for name in ("head", "rates", "operation"))

    def events(self) -> list[str]:
        return [strip.text.rstrip() for strip in self.top.query_one(RichLog).lines]

    def notices(self) -> list[tuple[str, str]]:
        return [(each.message, each.severity) for each in self.top._notifications]


def run(client: FakeClient, act: Act, clock: Callable[[], float] = time.monotonic) -> None:
    async def show() -> None:
        top = Top(client, clock)
        async with top.run_test(size=(120, 30)) as pilot:
            await act(Screen(top, pilot))

    asyncio.run(show())


@pytest.fixture
def client() -> FakeClient:
    events = [{"at": NOW, "level": "warning", "text": "worker 7: \x1b[31mblocked\nStack"}]
    return FakeClient(make_status(make_generation(*WORKERS), target=2, events=events))


def test_screen_shows_the_service_and_its_workers(client: FakeClient) -> None:
    async def act(screen: Screen) -> None:
        await screen.until(screen.rows)
        assert "shop: serving" in screen.line("head")
        assert "200 requests/s" in screen.line("rates")
        assert [row[1] for row in screen.rows()] == ["7", "8"]
        await screen.until(screen.events)
        assert [event.partition("  ")[2] for event in screen.events()] == ["warning: worker 7: ?[31mblocked"]

    run(client, act)


def test_screen_shows_each_event_once(client: FakeClient) -> None:
    async def act(screen: Screen) -> None:
        await screen.until(screen.events)
        client.answer = status = make_status(events=[{"at": NOW, "level": "info", "text": "one"}])
        await screen.until(lambda: len(screen.events()) > 1)
        for _ in range(3):
            screen.top.show(status)
        await screen.pilot.pause()
        assert [event.partition("  ")[2] for event in screen.events()[1:]] == ["one"]

    run(client, act)


def test_screen_follows_the_service(client: FakeClient) -> None:
    async def act(screen: Screen) -> None:
        await screen.until(screen.rows)
        client.answer = make_status(make_generation(make_worker(9)))
        await screen.until(lambda: [row[1] for row in screen.rows()] == ["9"])
        client.answer = ClientError("the supervisor went away")
        await screen.until(lambda: "the supervisor went away" in screen.line("operation"))
        assert [row[1] for row in screen.rows()] == ["9"]

    run(client, act)


def test_columns_are_sorted_by_keys_and_clicks(client: FakeClient) -> None:
    async def act(screen: Screen) -> None:
        await screen.until(screen.rows)
        await screen.press("left", "left")  # before the first one is the last one: memory
        assert [row[1] for row in screen.rows()] == ["8", "7"]
        await screen.press("i")
        assert [row[1] for row in screen.rows()] == ["7", "8"]
        await screen.press("right", "right")
        await screen.press("i")
        assert [row[1] for row in screen.rows()] == ["8", "7"]
        table = screen.top.query_one(DataTable)
        table.post_message(
            DataTable.HeaderSelected(
                table, table.ordered_columns[-1].key, len(table.columns) - 1, table.ordered_columns[-1].label
            )
        )
        await screen.until(lambda: "MEMORY ▼" in [str(column.label) for column in table.ordered_columns])

    run(client, act)


def test_cursor_stays_with_its_worker(client: FakeClient) -> None:
    async def act(screen: Screen) -> None:
        await screen.until(screen.rows)
        await screen.press("i", "c")  # the worker is in the last line then
        await screen.until(lambda: isinstance(screen.top.screen, Question))
        await screen.press("y")
        await screen.until(lambda: client.commands)
        assert client.commands == [Recycle(7)]

    run(client, act)


@pytest.mark.parametrize(
    "key, command",
    [("r", Reload()), ("plus", Scale(3)), ("minus", Scale(1)), ("c", Recycle(7)), ("d", Dump(7))],
)
def test_key_is_obeyed_once_it_is_confirmed(client: FakeClient, key: str, command: Command) -> None:
    async def act(screen: Screen) -> None:
        await screen.until(screen.rows)
        await screen.press(key)
        await screen.until(lambda: isinstance(screen.top.screen, Question))
        await screen.press("n")
        await screen.until(lambda: not isinstance(screen.top.screen, Question))
        assert client.commands == []
        await screen.press(key)
        await screen.until(lambda: isinstance(screen.top.screen, Question))
        await screen.press("y")
        await screen.until(screen.notices)
        assert client.commands == [command]
        assert screen.notices() == [("[bold]done[/bold]", "information")]

    run(client, act)


def test_service_is_not_scaled_to_nothing(client: FakeClient) -> None:
    client.answer = make_status(target=1)

    async def act(screen: Screen) -> None:
        await screen.until(lambda: "of 1 worker " in screen.line("head"))
        await screen.press("minus")
        await screen.until(lambda: isinstance(screen.top.screen, Question))
        await screen.press("y")
        await screen.until(lambda: client.commands)
        assert client.commands == [Scale(1)]

    run(client, act)


def test_keys_for_a_worker_do_nothing_without_one(client: FakeClient) -> None:
    client.answer = make_status()

    async def act(screen: Screen) -> None:
        await screen.until(lambda: screen.line("head"))
        await screen.press("c", "d")
        assert not isinstance(screen.top.screen, Question)

    run(client, act)


def test_details_are_shown_until_they_are_closed(client: FakeClient) -> None:
    client.outcome = DONE | {"details": "File app.py, [red]\x1b"}

    async def act(screen: Screen) -> None:
        await screen.until(screen.rows)
        await screen.press("d")
        await screen.until(lambda: isinstance(screen.top.screen, Question))
        await screen.press("y")
        await screen.until(lambda: isinstance(screen.top.screen, Details))
        assert str(screen.top.screen.query_one(Static).render()) == "File app.py, [red]?"
        await screen.press("escape")
        await screen.until(lambda: not isinstance(screen.top.screen, Details))

    run(client, act)


@pytest.mark.parametrize(
    "outcome", [DONE | {"ok": False, "code": "failed", "message": "it failed"}, ClientError("it failed")]
)
def test_failure_is_told(client: FakeClient, outcome: dict[str, Any] | ClientError) -> None:
    client.outcome = outcome

    async def act(screen: Screen) -> None:
        await screen.until(screen.rows)
        await screen.press("r")
        await screen.until(lambda: isinstance(screen.top.screen, Question))
        await screen.press("y")
        await screen.until(screen.notices)
        assert screen.notices() == [("it failed", "error")]

    run(client, act)


class SilentClient(FakeClient):
    """A supervisor that hangs, until it is released."""

    def __init__(self) -> None:
        super().__init__(make_status())
        self.released = threading.Event()
        self.asked = 0
        self.is_silent = False

    def status(self) -> dict[str, Any]:
        self.asked += 1
        self.is_silent = True
        self.released.wait(HANGS)
        self.is_silent = False
        return super().status()


def test_silent_supervisor_is_asked_once_and_told_of() -> None:
    client = SilentClient()
    now = [100.0]

    async def act(screen: Screen) -> None:
        await screen.until(lambda: client.asked)
        now[0] += SILENCE + 1
        screen.top._look()
        await screen.until(lambda: screen.line("operation") == "no answer for 4s")
        assert client.asked == 1
        client.released.set()
        await screen.until(lambda: "shop: serving" in screen.line("head"))
        assert screen.line("operation") == ""

    run(client, act, lambda: now[0])


def test_leaving_does_not_wait_for_a_silent_supervisor() -> None:
    client = SilentClient()

    async def act(screen: Screen) -> None:
        await screen.until(lambda: client.asked)
        await screen.press("q")

    run(client, act)
    assert client.is_silent
    client.released.set()


def test_answer_that_comes_while_the_screen_goes_is_not_shown(client: FakeClient) -> None:
    async def act(screen: Screen) -> None:
        await screen.until(screen.rows)
        tried: list[str] = []

        def show(name: str) -> None:
            tried.append(name)
            screen.line(name)

        screen.top._then(show, "gone")
        await screen.until(lambda: tried)

    run(client, act)
