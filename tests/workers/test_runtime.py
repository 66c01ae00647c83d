"""What the connections of one worker share."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import time
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from outrider.runtime import DRAIN_STATE_KEY, MOST_DESCRIBED, PERSISTENT, Connection, Runtime, Stream
from outrider_testing.fakes import ManualLoop, constant, make_context, make_runtime

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")


@pytest.fixture
def runtime(loop: ManualLoop) -> Runtime:
    return make_runtime(loop, constant())


class FakeStream:
    """A request in flight."""

    def __init__(self, path: str, client: tuple[str, int] | None, age: float) -> None:
        self.scope = {"method": "GET", "path": "decoded\nline", "raw_path": path.encode(), "client": client}
        self.started_ns = time.monotonic_ns() - int(age * 1e9)


def test_requests_in_flight_are_described(runtime: Runtime) -> None:
    runtime.streams.add(cast("Stream", FakeStream("/a", ("192.0.2.1", 5000), 2.0)))
    (line,) = runtime.describe_streams()
    assert line.startswith("GET /a from 192.0.2.1:5000, 2.")
    assert line.endswith(" s")


def test_request_over_a_unix_socket_is_described(runtime: Runtime) -> None:
    runtime.streams.add(cast("Stream", FakeStream("/a", None, 0.0)))
    assert runtime.describe_streams() == ["GET /a from a unix socket, 0.0 s"]


def test_websockets_are_described_last_and_the_list_has_an_end(runtime: Runtime) -> None:
    for number in range(MOST_DESCRIBED):
        idle = FakeStream(f"/{number}", None, 0.0)
        idle.scope = {"type": "websocket", "raw_path": b"/w", "client": None}
        runtime.streams.add(cast("Stream", idle))
    runtime.streams.add(cast("Stream", FakeStream("/a", None, 0.0)))
    first, *_, last = runtime.describe_streams()
    assert first.startswith("GET /a")
    assert last == "and 1 more"


def test_connections_that_are_not_identified_yet_are_held(runtime: Runtime) -> None:
    runtime.connections.add(cast("Connection", object()))
    runtime.opening = 2
    assert runtime.held == 3


def test_application_finds_the_drain_event_in_its_state(runtime: Runtime) -> None:
    assert runtime.state[DRAIN_STATE_KEY] is runtime.drain_event


def test_callbacks_that_nobody_set_do_nothing(runtime: Runtime) -> None:
    runtime.on_change()
    runtime.on_max_requests()


@pytest.fixture(params=["spawn", "spawn_eagerly"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def spawn(runtime: Runtime, loop: ManualLoop, way: str) -> tuple[str, str]:
    """Run a task in which a context variable of the caller may show; its value and the task's name."""
    seen = []

    async def task() -> None:
        current = asyncio.current_task()
        assert current is not None
        seen.append((variable.get(), current.get_name()))

    context = contextvars.copy_context()
    context.run(variable.set, "the caller's")
    loop.call_soon(lambda: getattr(runtime, way)(task()), context=context)
    loop.run_ready()
    return seen[0]


def test_request_runs_in_a_copy_of_the_context(runtime: Runtime, loop: ManualLoop, way: str) -> None:
    assert spawn(runtime, loop, way) == ("the caller's", "request")


def test_request_runs_in_an_empty_context_if_wanted(loop: ManualLoop, way: str) -> None:
    runtime = make_runtime(loop, constant(), reset_contextvars=True)
    assert spawn(runtime, loop, way) == ("default", "request")


def test_task_factory_of_the_application_is_used(runtime: Runtime, loop: ManualLoop, way: str) -> None:
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(cast("Any", factory))
    runtime.renew_spawn()
    assert spawn(runtime, loop, way) == ("the caller's", "request")
    assert len(made) == 1


@pytest.mark.parametrize("keepalive, flags", [(2.0, PERSISTENT), (0, 0)])
def test_context_knows_what_an_everyday_request_is(loop: ManualLoop, keepalive: float, flags: int) -> None:
    context = make_context(make_runtime(loop, constant(), keepalive=keepalive, root_path="/r"), scheme="https")
    assert context.flags == flags
    assert context.scope_template["type"] == "http"
    assert context.scope_template["scheme"] == "https"
    assert context.scope_template["root_path"] == "/r"
    assert context.scope_template["client"] == context.client
    assert context.scope_template["server"] == context.server


def test_memory_that_bodies_free_is_kept_for_the_next_ones() -> None:
    code = """
import asyncio, resource
from outrider_testing.fakes import constant, make_runtime
runtime = make_runtime(asyncio.new_event_loop(), constant())
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def bodies(): return [b"x" * 65536 for _ in range(64)]
bodies()
before = faults()
for _ in range(10): bodies()
print(faults() - before)
"""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    faults = subprocess.run([sys.executable, "-c", code], env=environ, check=True, capture_output=True).stdout
    assert int(faults) < 1024  # ten times as many where the pages come from the kernel each time
