"""The machines of the deployment tests: what they share, and what they don't."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from outrider_testing.http_client import can_connect
from outrider_testing.network import isolated, network
from outrider_testing.processes import is_running
from outrider_testing.programs import PATH, check_programs
from outrider_testing.server_process import SUPPORT
from outrider_testing.waiting import until

pytestmark = pytest.mark.external

# A test that is killed amid its work; two of its processes are not its children, and would take a SIGTERM calmly.
KILLED_TEST = """
import os, signal
from outrider_testing.network import isolated
from outrider_testing.waiting import until

with isolated() as host:
    host.start("sh", "-c", "trap '' TERM HUP; setsid sleep 600 & sleep 600 & wait")
    until(lambda: len(host.processes()) == 3)
    print(host.pid, *host.processes(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_host_has_ports_of_its_own() -> None:
    with isolated() as one, isolated() as other:
        with one.entered(), socket.create_server(("127.0.0.1", 9)):
            assert can_connect(("127.0.0.1", 9))
            with other.entered():
                assert not can_connect(("127.0.0.1", 9))
        assert not can_connect(("127.0.0.1", 9))


def test_host_has_a_run_directory_of_its_own(tmp_path: Path) -> None:
    with isolated() as one, isolated() as other:
        one.path("/run/outrider-test").touch()
        assert "outrider-test" in one.run("ls", "/run")
        assert "outrider-test" not in other.run("ls", "/run")
        assert not Path("/run/outrider-test").exists()
        assert one.run("pwd", directory=tmp_path) == f"{tmp_path}\n"


def test_host_reaches_another_until_its_cable_is_pulled() -> None:
    with network(one="10.0.0.1", two="10.0.0.2") as hosts:
        one, two = hosts["one"], hosts["two"]
        with two.entered():
            listening = socket.create_server((two.address, 80))
        with listening, one.entered():
            until(lambda: can_connect((two.address, 80)))
            two.set_link(up=False)
            assert not can_connect((two.address, 80))
            two.set_link(up=True)
            until(lambda: can_connect((two.address, 80)))


def test_nothing_is_left_of_a_host() -> None:
    with isolated() as host:
        processes = [
            host.start("sleep", "600"),
            host.start("sh", "-c", "trap '' TERM; sleep 600 & wait"),
        ]
        until(lambda: len(host.processes()) == 3)
        everything = [host.pid, *host.processes()]
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2
    assert not any(map(is_running, everything))


def test_nothing_is_left_of_a_host_whose_test_is_killed() -> None:
    command = [sys.executable, "-c", KILLED_TEST]
    done = subprocess.run(command, env={"PATH": PATH, "PYTHONPATH": str(SUPPORT)}, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    everything = [int(pid) for pid in done.stdout.split()]
    assert len(everything) == 4
    until(lambda: not any(map(is_running, everything)))


def test_missing_program_is_told_with_its_package() -> None:
    with pytest.raises(AssertionError, match="apt-get install nothing-there"):
        check_programs({"a-program-that-is-not": "nothing-there", "sh": "dash"})
