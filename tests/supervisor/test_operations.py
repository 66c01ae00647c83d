"""A long operation: the supervisor reports, one client reads."""

from __future__ import annotations

import asyncio
from typing import Any

from outrider_supervisor.operations import MOST_UNREAD, Operation, Outcome

DONE = Outcome(ok=True, code="done", message="generation 2 is current")
LAST_LINE = {"ok": True, "code": "done", "message": "generation 2 is current", "details": ""}


async def _read(operation: Operation, patience: float = 60.0) -> list[dict[str, Any] | None]:
    return [line async for line in operation.lines(patience)]


def test_reader_gets_progress_and_then_the_outcome() -> None:
    async def scenario() -> list[dict[str, Any] | None]:
        operation = Operation()
        reader = asyncio.create_task(_read(operation))
        await asyncio.sleep(0)
        operation.progress("starting")
        await asyncio.sleep(0)
        operation.progress("rolling")
        operation.finish(DONE)
        return await reader

    assert asyncio.run(scenario()) == [{"progress": "starting"}, {"progress": "rolling"}, LAST_LINE]


def test_late_reader_gets_all_of_it() -> None:
    operation = Operation()
    operation.progress("starting")
    operation.finish(DONE)
    assert asyncio.run(_read(operation)) == [{"progress": "starting"}, LAST_LINE]


def test_operation_outlives_a_reader_that_leaves() -> None:
    async def scenario() -> Outcome | None:
        operation = Operation()
        reader = asyncio.create_task(_read(operation))
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait({reader})
        operation.progress("rolling")
        operation.finish(DONE)
        return operation.outcome

    assert asyncio.run(scenario()) == DONE


def test_operation_that_nobody_reads_keeps_a_bounded_number_of_lines() -> None:
    operation = Operation()
    for number in range(MOST_UNREAD + 5):
        operation.progress(str(number))
    operation.finish(DONE)
    lines = asyncio.run(_read(operation))
    assert lines[0] == {"progress": "5"}
    assert len(lines) == MOST_UNREAD + 1


def test_first_outcome_counts_and_ends_progress() -> None:
    operation = Operation()
    operation.finish(DONE)
    operation.finish(Outcome(ok=False, code="failed", message="too late"))
    operation.progress("too late")
    assert asyncio.run(_read(operation)) == [LAST_LINE]


def test_reader_is_told_that_nothing_happens() -> None:
    async def scenario() -> list[dict[str, Any] | None]:
        operation = Operation()
        lines = operation.lines(0.01)
        seen = [await anext(lines), await anext(lines)]
        operation.progress("rolling")
        seen.append(await anext(lines))
        operation.finish(DONE)
        return [*seen, await anext(lines)]

    assert asyncio.run(scenario()) == [None, None, {"progress": "rolling"}, LAST_LINE]
