"""What a master does while it starts and waits; its life with workers is in tests/integration/test_master.py."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_supervisor.messages import (
    ALIVE_PERIOD,
    Alive,
    MasterBooted,
    ReplaceAtOnce,
    Stop,
    WorkerExited,
    WorkerReady,
    WorkerRetiring,
    WorkerSpawned,
)
from outrider_testing.fake_supervisor import FakeSupervisor
from outrider_testing.http_client import can_connect

PROBE = "outrider_testing.apps.probe:app"

HANGING = """
import select

def on_starting(server):
    select.poll().poll()
"""

RECORDING = """
import faulthandler

def record(*words):
    with open("story", "a") as story:
        print(*words, file=story)

faulthandler.dump_traceback_later = lambda seconds: record("dump after", seconds)
faulthandler.cancel_dump_traceback_later = lambda: record("no dump")

def on_starting(server):
    record("starting")
"""

IMPATIENT = """
import __main__

__main__.ALIVE_PERIOD = 0.01
"""


IMPATIENT_END = """
import __main__

__main__.DRAIN_MARGIN, __main__.END_MARGIN = 0.0, 0.3
"""

HANGING_AT_EXIT = """
import select

def on_exit(server):
    select.poll().poll()
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[FakeSupervisor]:
    with contextlib.closing(FakeSupervisor(tmp_path)) as supervisor:
        yield supervisor


def test_master_says_that_it_is_alive_once_it_is_up(supervisor: FakeSupervisor) -> None:
    began = time.monotonic()
    supervisor.start(PROBE)
    supervisor.until_ready()
    assert [type(message) for message in supervisor.messages[:2]] == [MasterBooted, Alive]
    told = len(supervisor.find(Alive))
    periods = (time.monotonic() - began) / ALIVE_PERIOD
    assert told <= 1 + periods  # and not at each turn of its loop
    supervisor.send(Stop(fast=True))
    assert supervisor.until_exit() == 0


def test_master_says_again_and_again_that_it_is_alive(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, config=IMPATIENT)
    supervisor.until_message(Alive, 3)


def test_master_that_hangs_in_its_start_logs_where(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, "--boot-timeout", "0.2", config=HANGING)
    supervisor.until(lambda: "in main\n" in supervisor.log(), "the place where it hangs")
    assert "Timeout (0:00:00" in supervisor.log()


def test_master_expects_to_hang_only_until_it_is_up(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, "--boot-timeout", "7", config=RECORDING)
    supervisor.until_ready()
    story = (supervisor.directory / "story").read_text()
    assert story.splitlines() == ["dump after 7.0", "starting", "no dump"]


@pytest.mark.parametrize("module", ["asyncio", "concurrent", "http", "httptools", "platform", "uvloop"])
def test_module_of_the_project_does_not_stand_in_for_a_library(supervisor: FakeSupervisor, module: str) -> None:
    (supervisor.directory / f"{module}.py").write_text("raise ImportError('this is no library')")
    supervisor.start(PROBE)
    supervisor.until_ready()


def test_master_on_a_full_disk_says_so_without_call_stacks(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, "--error-logfile", "/dev/full")
    supervisor.until_ready()
    assert "can't write the log" in supervisor.log()
    assert "Logging error" not in supervisor.log()


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def test_title_tells_the_state(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, "--boot-timeout", "0.2", "--name", "shop", config=HANGING)
    supervisor.until(lambda: title_of(supervisor.pid) == "outrider: master [shop] g1 starting", "the title")


def test_title_tells_that_the_master_runs_and_that_it_stops(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, "--name", "shop", config=HANGING_AT_EXIT)
    supervisor.until_ready()
    assert title_of(supervisor.pid) == "outrider: master [shop] g1 running"
    supervisor.send(Stop(fast=False))
    supervisor.until(lambda: title_of(supervisor.pid) == "outrider: master [shop] g1 stopping", "the title")


def test_worker_that_is_to_be_replaced_at_once_goes_before_there_is_another(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE)
    (pid,) = supervisor.until_ready()
    supervisor.send(ReplaceAtOnce(pid))
    supervisor.until_ready(2)
    told = [type(each) for each in supervisor.messages if not isinstance(each, Alive | WorkerExited)]
    assert told == [MasterBooted, WorkerSpawned, WorkerReady, WorkerRetiring, WorkerSpawned, WorkerReady]


def test_master_whose_end_takes_too_long_is_ended_by_the_kernel(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, "--graceful-timeout", "0", config=HANGING_AT_EXIT + IMPATIENT_END)
    supervisor.until_ready()
    supervisor.send(Stop(fast=False))
    assert supervisor.until_exit() == -signal.SIGALRM


def test_master_without_a_supervisor_ends_though_nobody_reads_the_log(supervisor: FakeSupervisor) -> None:
    path = supervisor.directory / "errors"
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    address = supervisor.listener.getsockname()
    supervisor.start(PROBE, "--error-logfile", str(path), "--graceful-timeout", "0", config=IMPATIENT_END)
    supervisor.until_ready()
    with contextlib.suppress(BlockingIOError):
        while os.write(pipe, b"\n" * 64):
            pass
    supervisor.listener.close()
    supervisor.channel.shutdown(socket.SHUT_RDWR)
    supervisor.until(lambda: not can_connect(address), "the end of the service")
    assert supervisor.until_exit() == -signal.SIGALRM
    os.close(pipe)
