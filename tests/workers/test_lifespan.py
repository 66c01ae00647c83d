"""The lifespan protocol: startup, shutdown, and applications that do not keep to it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from outrider.lifespan import Lifespan, LifespanError

MS = 0.001
App = Callable[[Any, Any, Any], Awaitable[None]]


class FakeLog:
    """Keeps (level, message, exception)."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, BaseException | None]] = []

    def debug(self, msg: str, *args: object) -> None:
        self.entries.append(("debug", msg % args, None))

    def info(self, msg: str, *args: object) -> None:
        self.entries.append(("info", msg % args, None))

    def warning(self, msg: str, *args: object) -> None:
        self.entries.append(("warning", msg % args, None))

    def error(self, msg: str, *args: object, exc_info: BaseException | None = None) -> None:
        self.entries.append(("error", msg % args, exc_info))

    def exception(self, msg: str, *args: object) -> None:
        self.error(msg, *args, exc_info=sys.exception())

    @property
    def only(self) -> tuple[str, str, BaseException | None]:
        (entry,) = self.entries
        return entry


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


async def settle() -> None:
    """Let the tasks of the loop run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


def steps(*script: Any) -> App:
    """Make an application: None receives, a string sends that message, anything else is raised or awaited."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        app.scope = scope  # type: ignore[attr-defined]  # for the test to look at
        for step in script:
            if step is None:
                app.received.append((await receive())["type"])  # type: ignore[attr-defined]  # as above
            elif isinstance(step, str):
                await send({"type": step})
            elif isinstance(step, dict):
                await send(step)
            elif isinstance(step, BaseException):
                raise step
            else:
                await step()

    app.received = []  # type: ignore[attr-defined]  # as above
    return app


COMPLETE = "lifespan.startup.complete"
STOPPED = "lifespan.shutdown.complete"
GOOD = (None, COMPLETE, None, STOPPED)


async def live(app: App, log: FakeLog, mode: str = "auto", within: float | None = None) -> None:
    lifespan = Lifespan(app, mode, log, {})
    await lifespan.startup()
    await lifespan.shutdown(within)
    await settle()


# -- what every application should see


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_application_starts_and_stops(log: FakeLog, mode: str) -> None:
    app: Any = steps(*GOOD)
    asyncio.run(live(app, log, mode))
    assert app.received == ["lifespan.startup", "lifespan.shutdown"]
    assert log.entries == []


def test_application_gets_scope_with_shared_state(log: FakeLog) -> None:
    state: dict[str, Any] = {"given": 1}
    app: Any = steps(*GOOD)

    async def main() -> None:
        await Lifespan(app, "auto", log, state).startup()

    asyncio.run(main())
    assert app.scope["type"] == "lifespan"
    assert app.scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
    assert app.scope["state"] is state


def test_startup_waits_for_application(log: FakeLog) -> None:
    async def main() -> None:
        ready = asyncio.Event()
        lifespan = Lifespan(steps(None, ready.wait, COMPLETE, None, STOPPED), "auto", log, {})
        startup = asyncio.create_task(lifespan.startup())
        await settle()
        assert not startup.done()
        ready.set()
        await startup

    asyncio.run(main())


def test_application_may_complete_without_asking(log: FakeLog) -> None:
    app: Any = steps(COMPLETE, None, None, STOPPED)
    asyncio.run(live(app, log, "on"))
    assert app.received == ["lifespan.startup", "lifespan.shutdown"]
    assert log.entries == []


def test_mode_off_calls_nothing(log: FakeLog) -> None:
    app: Any = steps(AssertionError())
    asyncio.run(live(app, log, "off"))
    assert not hasattr(app, "scope")


# -- failed startup


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_startup_failed_raises_message_of_application(log: FakeLog, mode: str) -> None:
    app = steps(None, {"type": "lifespan.startup.failed", "message": "no database"})
    with pytest.raises(LifespanError, match=r"^Application startup failed: no database$"):
        asyncio.run(live(app, log, mode))


def test_startup_failed_without_message_says_so(log: FakeLog) -> None:
    with pytest.raises(LifespanError, match="gave no reason"):
        asyncio.run(live(steps(None, "lifespan.startup.failed"), log))


def test_exception_after_startup_failed_is_not_logged_again(log: FakeLog) -> None:
    app = steps(None, {"type": "lifespan.startup.failed", "message": "no database"}, ValueError("no database"))

    async def main() -> None:
        with pytest.raises(LifespanError):
            await Lifespan(app, "auto", log, {}).startup()
        await settle()

    asyncio.run(main())
    assert log.entries == []


def test_failed_application_is_cancelled(log: FakeLog) -> None:
    app = steps(None, "lifespan.startup.failed", None)

    async def main() -> None:
        with pytest.raises(LifespanError):
            await Lifespan(app, "auto", log, {}).startup()
        await settle()

    asyncio.run(main())
    assert log.only[0] == "debug"


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_exception_after_startup_began_is_a_failure(log: FakeLog, mode: str) -> None:
    error = ValueError("no database")
    with pytest.raises(LifespanError, match=r"raised ValueError\('no database'\) during startup"):
        asyncio.run(live(steps(None, error), log, mode))
    level, message, logged = log.only
    assert (level, message) == ("error", "Exception in the application's lifespan during startup")
    assert logged is error


def test_failure_in_mode_auto_tells_how_to_do_without(log: FakeLog) -> None:
    with pytest.raises(LifespanError, match="set asgi_lifespan to 'off'"):
        asyncio.run(live(steps(None, KeyError("body")), log))


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_return_after_startup_began_is_a_failure(log: FakeLog, mode: str) -> None:
    with pytest.raises(LifespanError, match=r"returned during startup and sent no lifespan\.startup\.complete"):
        asyncio.run(live(steps(None), log, mode))


def test_cancelled_application_is_a_failure(log: FakeLog) -> None:
    with pytest.raises(LifespanError, match=r"raised CancelledError\(\) during startup"):
        asyncio.run(live(steps(None, asyncio.CancelledError()), log))


@pytest.mark.parametrize("script", [(TypeError("scope"),), ()])
def test_mode_on_requires_support(log: FakeLog, script: tuple[Any, ...]) -> None:
    with pytest.raises(LifespanError, match=r"before lifespan\.startup"):
        asyncio.run(live(steps(*script), log, "on"))


def test_cancelled_startup_cancels_application(log: FakeLog) -> None:
    async def main() -> None:
        lifespan = Lifespan(steps(None, asyncio.Event().wait), "auto", log, {})
        startup = asyncio.create_task(lifespan.startup())
        await settle()
        startup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await startup
        await settle()
        await lifespan.shutdown(None)

    asyncio.run(main())
    assert log.only[0] == "debug"


# -- applications without a lifespan


@pytest.mark.parametrize(
    "script",
    [
        (KeyError("path"),),
        (AssertionError(),),
        (),
        ("http.response.start",),
        (None, "http.response.start"),
    ],
)
def test_application_without_lifespan_is_served_in_mode_auto(log: FakeLog, script: tuple[Any, ...]) -> None:
    asyncio.run(live(steps(*script), log))
    level, message, _ = log.only
    assert level == "info"
    assert message.startswith("The application has no lifespan: it r")


# -- while it serves


def test_exception_while_serving_is_logged_at_once(log: FakeLog) -> None:
    error = ValueError("worker died")

    async def main() -> None:
        lifespan = Lifespan(steps(None, COMPLETE, error), "auto", log, {})
        await lifespan.startup()
        await settle()
        assert log.only == ("error", "Exception in the application's lifespan after startup", error)
        await lifespan.shutdown(None)

    asyncio.run(main())


def test_return_while_serving_is_logged(log: FakeLog) -> None:
    asyncio.run(live(steps(None, COMPLETE), log))
    assert log.only[:2] == ("warning", "The application left its lifespan before the shutdown")


@pytest.mark.parametrize(
    "script,message",
    [
        ((None, COMPLETE, COMPLETE), "'lifespan.startup.complete' was sent after startup"),
        ((None, COMPLETE, STOPPED), "'lifespan.shutdown.complete' was sent after startup"),
        ((None, COMPLETE, "http.response.body"), "'http.response.body' was sent on the lifespan scope"),
        ((None, COMPLETE, None, COMPLETE), "'lifespan.startup.complete' was sent during shutdown"),
        ((*GOOD, STOPPED), "'lifespan.shutdown.complete' was sent after its end"),
    ],
)
def test_message_out_of_order_raises_in_application(log: FakeLog, script: tuple[Any, ...], message: str) -> None:
    asyncio.run(live(steps(*script), log))
    level, _, error = log.only
    assert level == "error"
    assert isinstance(error, RuntimeError)
    assert str(error) == message


def test_shutdown_message_before_startup_is_a_failure(log: FakeLog) -> None:
    with pytest.raises(LifespanError, match=r"'lifespan\.shutdown\.complete' was sent during startup"):
        asyncio.run(live(steps(None, STOPPED), log))


# -- shutdown


@pytest.mark.parametrize("rest", [(), (ValueError("still busy"),)])
def test_shutdown_failed_is_logged_once(log: FakeLog, rest: tuple[Any, ...]) -> None:
    app = steps(None, COMPLETE, None, {"type": "lifespan.shutdown.failed", "message": "still busy"}, *rest)
    asyncio.run(live(app, log))
    assert log.only[:2] == ("error", "Application shutdown failed: still busy")


@pytest.mark.parametrize("script,phase", [((None, COMPLETE, None), "during shutdown"), (GOOD, "after its end")])
def test_exception_in_shutdown_is_logged(log: FakeLog, script: tuple[Any, ...], phase: str) -> None:
    error = ValueError("clean-up")
    asyncio.run(live(steps(*script, error), log))
    assert log.only == ("error", f"Exception in the application's lifespan {phase}", error)


def test_return_without_shutdown_complete_is_logged(log: FakeLog) -> None:
    asyncio.run(live(steps(None, COMPLETE, None), log))
    assert log.only[:2] == ("warning", "The application left its lifespan without lifespan.shutdown.complete")


def test_shutdown_does_not_wait_for_an_application_that_asks_for_more(log: FakeLog) -> None:
    asyncio.run(live(steps(*GOOD, None), log))
    assert log.only[0] == "debug"


def test_shutdown_waits_for_what_follows_the_answer(log: FakeLog) -> None:
    async def main() -> None:
        closed = asyncio.Event()
        lifespan = Lifespan(steps(*GOOD, closed.wait), "auto", log, {})
        await lifespan.startup()
        shutdown = asyncio.create_task(lifespan.shutdown(None))
        await settle()
        assert not shutdown.done()
        closed.set()
        await shutdown

    asyncio.run(main())
    assert log.entries == []


def test_shutdown_ends_at_its_deadline(log: FakeLog) -> None:
    app = steps(None, COMPLETE, None, lambda: asyncio.Event().wait())
    asyncio.run(live(app, log, within=5 * MS))
    message = "The application's shutdown did not complete in 0.0 s: cancelled"
    assert [entry[:2] for entry in log.entries] == [
        ("error", message),
        ("debug", "The application's lifespan was cancelled after its end"),
    ]


def test_shutdown_ends_at_its_deadline_where_nobody_asks_for_it(log: FakeLog) -> None:
    app = steps(None, COMPLETE, lambda: asyncio.Event().wait())
    asyncio.run(live(app, log, within=0))
    assert "did not complete" in log.entries[0][1]


def test_second_receiver_waits_while_the_first_shuts_down(log: FakeLog) -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": COMPLETE})
        first, second = asyncio.create_task(receive()), asyncio.create_task(receive())
        assert await first == {"type": "lifespan.shutdown"}
        await settle()
        assert not second.done()
        second.cancel()
        await send({"type": STOPPED})

    asyncio.run(live(app, log))
    assert log.entries == []


def test_shutdown_without_startup_does_nothing(log: FakeLog) -> None:
    asyncio.run(Lifespan(steps(), "auto", log, {}).shutdown(None))
    assert log.entries == []
