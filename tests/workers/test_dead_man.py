"""The dead man's switch, alone and in a process that holds the interpreter's lock; and where it writes to."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from outrider import watchdog as module
from outrider.dead_man import DeadManSwitch, log_descriptor
from outrider.watchdog import Watchdog
from outrider_testing.watchdog_fakes import PATIENCE, MemoryLog


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_switch_dumps_stacks_where_log_was_when_armed(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = os.dup(writer)
    switch = DeadManSwitch(lambda: log)
    switch.arm(-1.0, exit=False)
    os.close(log)  # as a log that is reopened
    first = os.read(reader, 65536)
    switch.disarm()
    assert first.startswith(b"Timeout")


def test_switch_armed_again_dumps_once(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    switch = DeadManSwitch(lambda: writer)
    descriptors = open_descriptors()
    switch.arm(PATIENCE, exit=False)
    switch.arm(PATIENCE, exit=False)
    assert open_descriptors() == descriptors + 1
    switch.disarm()
    assert open_descriptors() == descriptors
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)


def test_switch_without_descriptor_does_nothing() -> None:
    switch = DeadManSwitch(lambda: None)
    descriptors = open_descriptors()
    switch.arm(0.0, exit=True)
    switch.disarm()
    assert open_descriptors() == descriptors


PRELUDE = """
import ctypes, logging, os, time
from outrider import watchdog
watchdog.HARD_EXIT_GRACE = 0.0
def block_with_interpreter_lock(*deadline):
    print("blocks", flush=True)
    if deadline:
        dog.expire_at(time.monotonic() + deadline[0], list)
    while dog._dead_man._descriptor is None:
        os.sched_yield()
    ctypes.PyDLL(None).pause()
"""
SELF_EXIT = """
dog = watchdog.Watchdog(logging.getLogger(), list, 0, 0)
dog.start()
block_with_interpreter_lock(0.2)
"""
LAST_WORDS = """
dog = watchdog.Watchdog(logging.getLogger(), list, 0, 0.5)
dog.start()
block_with_interpreter_lock()
"""


def spawn(script: str) -> subprocess.Popen[bytes]:
    source_root = Path(module.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(source_root)},
    )


def test_process_that_holds_interpreter_lock_dumps_stacks_before_timeout() -> None:
    with spawn(LAST_WORDS) as process:
        assert process.stderr is not None
        try:
            dumped = next((line for line in process.stderr if b"in block_with_interpreter_lock" in line), None)
        finally:
            process.kill()
    assert dumped is not None


def test_process_that_holds_interpreter_lock_ends_after_deadline() -> None:
    with spawn(SELF_EXIT) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, out) == (1, b"blocks\n")
    assert b"in block_with_interpreter_lock" in err


# Where the log goes, and what every thread does


class GunicornLog:
    def __init__(self, handler: logging.Handler) -> None:
        self.error_log = logging.getLogger("test_watchdog")
        self.error_log.handlers = [handler]


def test_log_descriptor_is_that_of_log_file(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "error.log")
    descriptor = cast("io.TextIOWrapper", handler.stream).fileno()
    try:
        assert log_descriptor(GunicornLog(handler)) == descriptor
        assert log_descriptor(GunicornLog(handler).error_log) == descriptor
    finally:
        handler.close()


@pytest.mark.parametrize("handler", [logging.NullHandler(), logging.StreamHandler(io.StringIO())])
def test_log_descriptor_falls_back_to_standard_error(handler: logging.Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert log_descriptor(GunicornLog(handler)) == stderr.fileno()
        assert log_descriptor(MemoryLog()) == stderr.fileno()


def test_log_descriptor_is_none_without_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert log_descriptor(MemoryLog()) is None
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert log_descriptor(MemoryLog()) is None


def test_watchdog_writes_dumps_to_its_log_by_default(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "error.log")
    descriptor = cast("io.TextIOWrapper", handler.stream).fileno()
    try:
        log = GunicornLog(handler).error_log
        assert Watchdog(log, list, 0, 0)._dead_man._find_descriptor() == descriptor
    finally:
        handler.close()
