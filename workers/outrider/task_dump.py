"""Where asyncio's tasks wait.

`Task.get_stack` shows the outermost frame of a suspended task only. This follows what each coroutine awaits, down
to the innermost frame. Tasks with the same stack are told of together: of ten thousand connections, one stack.
Those of requests come first, then the application's others, and our own (the server, the lifespan) last.
"""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

MOST_STACKS = 200
MOST_FRAMES = 40
MOST_BYTES = 160 * 1024
_LONGEST_CHAIN = 1000
_MOST_NAMES = 3
_OURS = f"{Path(__file__).parent}{os.sep}"
_REQUESTS = f"{_OURS}http_stream.py"  # an application may have renamed their tasks

# How a coroutine, a generator and an asynchronous generator name their frame, and what they await.
_KINDS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
# These stand between two of them and have no attribute for the inner one.
_WRAPPERS = frozenset({"async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper"})


def describe_tasks(
    tasks: Iterable[asyncio.Task[Any]], most_stacks: int = MOST_STACKS, most_bytes: int = MOST_BYTES
) -> str:
    """Describe tasks by where they wait: requests first, then the most frequent stack; innermost frame last.

    What is beyond `most_stacks` or `most_bytes` (as UTF-8) is left out; the last line says how many tasks those are.
    To be called in the loop's thread, between two bytecodes of it as in a signal handler is fine.
    """
    alike: dict[object, list[asyncio.Task[Any]]] = {}
    for task in tasks:
        alike.setdefault(_place_of(task), []).append(task)
    parts: list[str] = []
    room = most_bytes
    left_out = 0
    for group in sorted(alike.values(), key=lambda group: (_rank(group[0]), -len(group), group[0].get_name())):
        part = _describe(group) if len(parts) < most_stacks else None
        size = len(part.encode(errors="backslashreplace")) if part else 0
        if part is None or size > room:
            left_out += len(group)
        else:
            parts.append(part)
            room -= size
    if left_out:
        parts.append(f"Tasks left out: {left_out}\n")
    return "".join(parts)


def awaiting_chain(awaitable: object) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of what it awaits, outermost first.

    It ends at a future, and at anything that is no Python code.
    """
    current: object = awaitable
    for _ in range(_LONGEST_CHAIN):
        if current is None:
            return
        kind = next((kind for kind in _KINDS if hasattr(current, kind[0])), None)
        if kind is not None:
            frame = getattr(current, kind[0])
            if frame is not None:
                yield frame
            current = getattr(current, kind[1])
        elif type(current).__name__ in _WRAPPERS:
            current = next((each for each in gc.get_referents(current) if _has_frame(each)), None)
        else:
            return


def _has_frame(candidate: object) -> bool:
    return type(candidate).__name__ in _WRAPPERS or any(hasattr(candidate, frame) for frame, _ in _KINDS)


def _place_of(task: asyncio.Task[Any]) -> object:
    coro = task.get_coro()
    return (_name_of(coro), *((frame.f_code, frame.f_lineno) for frame in awaiting_chain(coro)))


def _rank(task: asyncio.Task[Any]) -> int:
    code = getattr(task.get_coro(), "cr_code", None)
    place = "" if code is None else code.co_filename
    if place == _REQUESTS:
        return 0
    return 2 if place.startswith(_OURS) else 1


def _name_of(coro: object) -> str:
    return str(getattr(coro, "__qualname__", type(coro).__name__))


def _describe(group: list[asyncio.Task[Any]]) -> str:
    names = [repr(name) for name in dict.fromkeys(task.get_name() for task in group)]
    count = "Task" if len(group) == 1 else f"{len(group)} tasks"
    shown = ", ".join(names[:_MOST_NAMES]) + (" ..." if len(names) > _MOST_NAMES else "")
    coro = group[0].get_coro()
    head = f"{count} {shown}, {_name_of(coro)}"
    if getattr(coro, "cr_running", False):
        return f"{head}: runs, see the stack of its thread\n"
    return f"{head}:\n{''.join(_format(coro))}"


def _format(coro: object) -> list[str]:
    frames = list(awaiting_chain(coro))
    outer = len(frames) - MOST_FRAMES
    lines = [f"  ({outer} outer frames left out)\n"] if outer > 0 else []
    frames = frames[-MOST_FRAMES:]
    return lines + traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames).format()
