"""`outrider status` for people: the service at a glance, in 80 columns of plain text."""

from __future__ import annotations

import textwrap
import time

from outrider_supervisor.counting import count
from outrider_supervisor.status import (
    AutoscalerStatus,
    EventStatus,
    GenerationStatus,
    StallStatus,
    Status,
    WorkerStatus,
)
from outrider_supervisor.text_format import (
    format_count,
    format_duration,
    format_milliseconds,
    format_percent,
    format_size,
    plain,
)

WIDTH = 80
MOST_EVENTS = 5
MOST_STALLS = 5
_EVENT_LINES = 3
_DAY = 86400

# Heading, width, and whether to align to the right.
_COLUMNS = (
    ("PID", 8, True),
    ("STATE", 8, False),
    ("AGE", 7, True),
    ("IN-FLIGHT", 10, True),
    ("REQUESTS", 9, True),
    ("5XX", 6, True),
    ("LAG", 7, True),
    ("CPU", 6, True),
    ("MEMORY", 8, True),
)
_GREEN, _YELLOW, _RED = 32, 33, 31
_COLOURS = {"serving": _GREEN, "degraded": _RED, "stopping": _YELLOW, "starting": _YELLOW, "reloading": _YELLOW}


def render_status(status: Status, now: float, *, colour: bool = False) -> str:
    """Write it out.

    Args:
        status: what the supervisor said.
        now: Unix time.
        colour: whether the state of the service is coloured.
    """
    lines = [*_head(status, now, colour), ""]
    if status["generations"]:
        lines.append(_row(tuple(heading for heading, _, _ in _COLUMNS)))
        for generation in status["generations"]:
            lines += _generation(generation, now)
    stalls = status.get("stalls")  # a supervisor that was started earlier may know nothing of them
    if stalls:
        lines += ["", "Blocked event loops"]
        for stall in stalls[:MOST_STALLS]:
            lines += _stall(stall, now)
    if status["events"]:
        lines += ["", "Latest events"]
        for event in status["events"][-MOST_EVENTS:]:
            lines += _event(event, now)
    return "\n".join(lines) + "\n"


def _head(status: Status, now: float, colour: bool) -> list[str]:
    state = status["state"]
    shown = f"\x1b[{_COLOURS[state]}m{state}\x1b[0m" if colour and state in _COLOURS else plain(state)
    lines = [f"{plain(status['name'])}: {shown}, {status['capacity']} of {count(status['target'], 'worker')} ready"]
    facts = [f"outrider {status['version']}", f"pid {status['pid']}", f"up {format_duration(now - status['since'])}"]
    if status["addresses"]:
        facts.append(" ".join(status["addresses"]))
    lines += _wrapped(", ".join(facts), "")
    operation = status["operation"]
    if operation is not None:
        age = "" if operation["since"] is None else f" for {format_duration(now - operation['since'])}"
        progress = f": {operation['progress']}" if operation["progress"] else ""
        lines += _wrapped(f"{operation['name']} under way{age}{progress}", "")
    return lines + _autoscaler(status.get("autoscaler"))  # a supervisor that was started earlier may know nothing of it


def _autoscaler(autoscaler: AutoscalerStatus | None) -> list[str]:
    """A line for what decides on the number of workers."""
    if autoscaler is None:
        return []
    limits = f"autoscaler: {autoscaler['min']} to {count(autoscaler['max'], 'worker')}"
    vetoes = f"; held by: {', '.join(autoscaler['vetoes'])}" if autoscaler["vetoes"] else ""
    return _wrapped(f"{limits}, {autoscaler['reason'] or 'nothing measured yet'}{vetoes}", "")


def _generation(generation: GenerationStatus, now: float) -> list[str]:
    master = "its master is gone" if generation["master_pid"] is None else f"master {generation['master_pid']}"
    age = format_duration(now - generation["since"])
    title = f"generation {generation['number']}: {generation['state']}, {age}, {master}"
    return [title, *(_row(_cells(worker)) for worker in generation["workers"]), *_backoff(generation, now)]


def _backoff(generation: GenerationStatus, now: float) -> list[str]:
    """A line for the worker that there should be."""
    backoff = generation.get("backoff")  # a supervisor that was started earlier may know nothing of it
    if backoff is None:
        return []
    failures = count(backoff["failures"], "failure")
    wait = format_duration(backoff["until"] - now)
    return [f"       - backoff  {failures} in a row, the next worker is started in {wait}"]


def _cells(worker: WorkerStatus) -> tuple[str, ...]:
    return (
        str(worker["pid"]),
        worker["state"],
        format_duration(worker["age"]),
        format_count(worker["in_flight"]),
        format_count(worker["requests"]),
        format_count(worker["errors_5xx"]),
        format_milliseconds(None if worker["state"] == "booting" else worker["loop_lag_ms"]),
        format_percent(worker["cpu_percent"]),
        format_size(worker["memory_bytes"]),
    )


def _row(cells: tuple[str, ...]) -> str:
    columns = zip(cells, _COLUMNS, strict=True)
    return " ".join(
        plain(cell).rjust(width) if is_number else plain(cell).ljust(width) for cell, (_, width, is_number) in columns
    ).rstrip()


def _stall(stall: StallStatus, now: float) -> list[str]:
    longest = "" if stall["count"] == 1 else f", longest {stall['longest']:.1f} s"
    took = f"{count(stall['count'], 'time')}, {stall['seconds']:.1f} s{longest}, worker {stall['worker']}"
    where = f"{stall['frame']}, in {stall['hangs_in']}" if stall["hangs_in"] else stall["frame"]
    return _wrapped(f"{_clock(stall['last'], now)}  {took}: {where}", " " * 10)


def _event(event: EventStatus, now: float) -> list[str]:
    level = "" if event["level"] == "info" else f"{event['level']}: "
    sentence = event["text"].strip().partition("\n")[0]  # and perhaps a traceback, which is in the log
    return _wrapped(f"{_clock(event['at'], now)}  {level}{sentence}", " " * 10)


def _clock(moment: float, now: float) -> str:
    return time.strftime("%H:%M:%S" if now - moment < _DAY else "%m-%d %H:%M", time.localtime(moment))


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        plain(text),
        WIDTH,
        subsequent_indent=indent,
        max_lines=_EVENT_LINES,
        placeholder=" ...",
        break_on_hyphens=False,
    )
