"""The stacks of tasks: from the outermost frame down to what each one waits for."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from outrider import http_stream, task_dump
from outrider.task_dump import MOST_FRAMES, awaiting_chain, describe_tasks
from outrider_testing.fakes import ManualLoop


async def wait_in_the_depth() -> None:
    await asyncio.get_running_loop().create_future()


async def outer() -> None:
    await wait_in_the_depth()


Spawn = Callable[..., "asyncio.Task[Any]"]


@pytest.fixture
def spawn(loop: ManualLoop) -> Spawn:
    def spawn(coro: Coroutine[Any, Any, Any], name: str = "task") -> asyncio.Task[Any]:
        task = loop.create_task(coro, name=name)
        loop.run_ready()
        return task

    return spawn


def functions(awaitable: object) -> list[str]:
    return [frame.f_code.co_name for frame in awaiting_chain(awaitable)]


def test_stack_goes_down_to_the_innermost_frame(spawn: Spawn) -> None:
    text = describe_tasks([spawn(outer(), "first")])
    head, *lines = text.splitlines()
    assert head == "Task 'first', outer:"
    assert [line for line in lines if "File" in line] == [
        line for line in lines if line.endswith((", in outer", ", in wait_in_the_depth"))
    ]
    assert text.endswith(
        "in outer\n    await wait_in_the_depth()\n"
        + lines[2]
        + "\n    await asyncio.get_running_loop().create_future()\n"
    )


class Wrapped:
    """An awaitable whose iterator is that of a coroutine."""

    def __await__(self) -> Generator[Any, None, None]:
        return wait_in_the_depth().__await__()


async def generate() -> AsyncGenerator[int, None]:
    await wait_in_the_depth()
    yield 1


async def through_wrapper() -> None:
    await Wrapped()


async def through_loop() -> None:
    async for _ in generate():
        pass


async def through_anext_with_default() -> None:
    await anext(generate(), None)


async def through_send() -> None:
    await generate().asend(None)


async def through_close() -> None:
    @asynccontextmanager
    async def manage() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await wait_in_the_depth()

    async with manage():
        pass


async def generate_and_clean_up() -> AsyncGenerator[int, None]:
    try:
        yield 1
    finally:
        await wait_in_the_depth()


async def through_aclose() -> None:
    generator = generate_and_clean_up()
    await anext(generator)
    await generator.aclose()


@types.coroutine
def generator_based() -> Generator[Any, None, None]:
    yield from wait_in_the_depth().__await__()


async def through_generator() -> None:
    await generator_based()


@pytest.mark.parametrize(
    "coroutine, between",
    [
        (through_wrapper, []),
        (through_loop, ["generate"]),
        (through_anext_with_default, ["generate"]),
        (through_send, ["generate"]),
        (through_close, ["__aexit__", "manage"]),
        (through_aclose, ["generate_and_clean_up"]),
        (through_generator, ["generator_based"]),
    ],
)
def test_chain_passes_through_what_stands_between(
    spawn: Spawn, coroutine: Callable[[], Coroutine[Any, Any, None]], between: list[str]
) -> None:
    task = spawn(coroutine())
    assert functions(task.get_coro()) == [coroutine.__name__, *between, "wait_in_the_depth"]


def test_chain_ends_at_another_task(spawn: Spawn) -> None:
    async def wait_for_another() -> None:
        await asyncio.gather(other)

    other = spawn(outer(), "other")
    assert functions(spawn(wait_for_another()).get_coro()) == ["wait_for_another"]


def test_chain_ends_at_what_is_not_python(spawn: Spawn) -> None:
    class Odd:
        def __await__(self) -> Iterator[None]:
            return iter([None])

    async def wait_for_odd() -> None:
        await _awaitable(Odd())

    task = spawn(wait_for_odd())
    assert functions(Odd().__await__()) == []
    assert functions(task.get_coro()) == []  # it has ended


def _awaitable(thing: Any) -> Awaitable[None]:
    result: Awaitable[None] = thing
    return result


class Endless:
    """Something that looks like a coroutine and awaits itself."""

    cr_frame = None

    @property
    def cr_await(self) -> Endless:
        return self


def test_endless_chain_is_cut() -> None:
    assert functions(Endless()) == []


def test_task_that_has_not_begun_shows_where_it_will(loop: ManualLoop) -> None:
    task = loop.create_task(outer(), name="new")
    assert "in outer\n    async def outer() -> None:\n" in describe_tasks([task])
    loop.run_ready()


def test_running_task_refers_to_its_thread(spawn: Spawn) -> None:
    texts = []

    async def describe_itself() -> None:
        texts.append(describe_tasks(asyncio.all_tasks()))

    spawn(describe_itself(), "me")
    (text,) = texts
    assert text == (
        "Task 'me', test_running_task_refers_to_its_thread.<locals>.describe_itself: "
        "runs, see the stack of its thread\n"
    )


def test_tasks_at_the_same_place_are_told_of_together_and_first(spawn: Spawn) -> None:
    tasks = [spawn(wait_in_the_depth(), "alone"), *(spawn(outer(), f"n{index}") for index in range(5))]
    text = describe_tasks(tasks)
    assert text.startswith("5 tasks 'n0', 'n1', 'n2' ..., outer:\n")
    assert "\nTask 'alone', wait_in_the_depth:\n" in text
    assert text.count("in outer\n") == 1


def test_tasks_of_requests_come_first_and_ours_last(spawn: Spawn) -> None:
    def make(name: str, path: str) -> Coroutine[Any, Any, None]:
        names: dict[str, Any] = {"wait": wait_in_the_depth}
        source = f"async def {name}(): await wait()"
        exec(compile(source, path, "exec"), names)  # noqa: S102  # code with a place of ours
        coro: Coroutine[Any, Any, None] = names[name]()
        return coro

    lifespan = spawn(make("live", task_dump.__file__), "lifespan")
    applications = [spawn(outer(), "background") for _ in range(3)]
    request = spawn(make("answer", http_stream.__file__), "request")
    heads = [line for line in describe_tasks([lifespan, *applications, request]).splitlines() if "ask" in line[:7]]
    assert heads == ["Task 'request', answer:", "3 tasks 'background', outer:", "Task 'lifespan', live:"]


def test_tasks_of_one_name_are_named_once(spawn: Spawn) -> None:
    text = describe_tasks([spawn(outer(), "request"), spawn(outer(), "request")])
    assert text.startswith("2 tasks 'request', outer:\n")


def test_stacks_beyond_the_limit_are_counted(spawn: Spawn) -> None:
    tasks = [spawn(outer()), spawn(outer()), spawn(wait_in_the_depth(), "a"), spawn(through_loop(), "b")]
    text = describe_tasks(tasks, most_stacks=1)
    assert text.startswith("2 tasks 'task', outer:\n")
    assert text.endswith("\nTasks left out: 2\n")
    assert "'a'" not in text


def test_stacks_for_which_there_is_no_room_are_counted(spawn: Spawn) -> None:
    tasks = [spawn(outer()), spawn(wait_in_the_depth(), "ö" * 1000)]
    assert describe_tasks(tasks, most_bytes=2000).endswith("create_future()\nTasks left out: 1\n")
    assert "left out" not in describe_tasks(tasks, most_bytes=4000)
    assert describe_tasks(tasks, most_bytes=1) == "Tasks left out: 2\n"


def test_deep_stack_keeps_its_innermost_frames(spawn: Spawn) -> None:
    async def descend(levels: int) -> None:
        await (descend(levels - 1) if levels else wait_in_the_depth())

    text = describe_tasks([spawn(descend(MOST_FRAMES + 2))])
    assert "\n  (4 outer frames left out)\n" in text
    assert text.endswith("create_future()\n")


def test_no_task_is_no_text() -> None:
    assert describe_tasks([]) == ""
