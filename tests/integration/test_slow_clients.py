"""slowhttptest's attacks: no slow connection outlives its deadline, and other clients do not notice."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.serving import Serve

CONNECTIONS = 150
TEST_LENGTH = 14  # seconds after which slowhttptest gives up, far above the deadlines below

DEADLINES = {
    "OUTRIDER_HEADER_TIMEOUT": "2",
    "OUTRIDER_BODY_TIMEOUT": "3",
    "OUTRIDER_WRITE_TIMEOUT": "3",
    "OUTRIDER_MIN_BODY_RATE": "5000",
}

ATTACKS = {
    # A header field of a few bytes each second, without an end.
    "slow headers": ("/", ["-H", "-i", "1", "-x", "8"]),
    # A few bytes of a declared body each second: too often for a pause, too little for a rate.
    "slow body": ("/echo", ["-B", "-i", "1", "-x", "8", "-s", "8192"]),
    # A large response through the smallest receive window. slowhttptest first reads what its own kernel holds
    # before it notices the end: at fewer bytes a second that alone would take minutes.
    "slow read": (
        "/stream?count=20000&size=1000",
        ["-X", "-w", "10", "-y", "20", "-n", "1", "-z", "500"],
    ),
}


@dataclass
class Attack:
    """A running slowhttptest."""

    name: str
    process: subprocess.Popen[str]

    def verdict(self) -> str:
        """Wait for its end and return what it printed."""
        return self.process.communicate(timeout=TEST_LENGTH + 10)[0]


def attack(server: GunicornProcess, directory: Path, name: str) -> Attack:
    program = shutil.which("slowhttptest")
    if program is None:
        pytest.fail("slowhttptest is not installed: apt-get install slowhttptest")
    target, options = ATTACKS[name]
    host, port = server.tcp_address
    prefix = directory / name.replace(" ", "-")
    load = ["-c", str(CONNECTIONS), "-r", str(CONNECTIONS), "-l", str(TEST_LENGTH), "-p", "5"]
    command = [
        program,
        *options,
        *load,
        "-g",
        "-o",
        str(prefix),
        "-v",
        "1",
        "-u",
        f"http://{host}:{port}{target}",
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return Attack(name, process)


@pytest.mark.external
def test_slow_clients_do_not_outlive_their_deadlines(serve: Serve, tmp_path: Path) -> None:
    """The three attacks run side by side; each must find all its connections closed before it gives up."""
    server = serve(env=DEADLINES)
    workers = server.workers()
    attacks = [attack(server, tmp_path, name) for name in ATTACKS]
    try:
        slowest = ask_until(server, lambda: all(each.process.poll() is not None for each in attacks))
        verdicts = {each.name: each.verdict() for each in attacks}
    finally:
        for each in attacks:
            each.process.kill()
            each.process.wait()
    for each in attacks:
        assert "No open connections left" in verdicts[each.name], verdicts[each.name][-600:]
    assert slowest < 1.0, "a normal client had to wait"
    assert server.workers() == workers
    assert "Traceback" not in server.log_text()


def ask_until(server: GunicornProcess, done: Callable[[], bool]) -> float:
    """Be a normal client all the while; return the longest time that an answer took, in seconds."""
    slowest = 0.0
    pause = threading.Event()
    end = time.monotonic() + TEST_LENGTH + 10
    while not done() and time.monotonic() < end:
        start = time.monotonic()
        assert server.get("/").status == 200
        slowest = max(slowest, time.monotonic() - start)
        pause.wait(0.02)
    return slowest
