"""The supervisor as process 1 of a PID namespace: signals, strangers, an upgrade. No image and no runtime is needed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing import releases
from outrider_testing.launchers import AS_PID_1
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.processes import children, is_running

pytestmark = pytest.mark.external

# The master's child, until the shell has ended; then nobody's. It would not end by itself, or when it is asked to.
LEAVES_A_STRANGER = """\
import contextlib, subprocess

with contextlib.suppress(FileExistsError):  # the other worker was first
    open("stranger", "x").close()
    subprocess.run(["sh", "-c", "trap '' TERM INT QUIT HUP; setsid sleep 600 <&- >&- 2>&- &"], check=True)

"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OutriderProcess]:
    """Return a supervisor with two workers and a stranger among its children."""
    files = {"app.py": LEAVES_A_STRANGER + releases.good(1)}
    server = OutriderProcess(tmp_path, "app:app", "-w", "2", "--no-canary", launcher=AS_PID_1, files=files)
    try:
        yield server.wait_until_ready(2)
    finally:
        server.stop()


def init_of(server: OutriderProcess) -> int:
    """Process 1, by its number outside."""
    (init,) = children(server.process.pid)
    return init


def stranger_of(server: OutriderProcess) -> int:
    (found,) = (pid for pid in children(init_of(server)) if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signal_that_stops_ends_everybody(server: OutriderProcess, number: signal.Signals) -> None:
    stranger = stranger_of(server)
    server.signal(number, init_of(server))
    assert server.wait() == 0
    assert not is_running(stranger), "what is left in the namespace ends with its process 1"


def test_hangup_reloads_and_upgrade_keeps_process_1(server: OutriderProcess) -> None:
    init = init_of(server)
    server.signal(signal.SIGHUP, init)
    server.wait_until_settled(2, generation=2)
    server.upgrade().check()
    server.wait_until_settled(2)
    assert (init_of(server), server.status()["pid"]) == (init, 1)
    stranger = stranger_of(server)
    server.signal(signal.SIGKILL, stranger)
    server.until(lambda: not Path(f"/proc/{stranger}").exists(), what="a stranger that is reaped")
    server.command("stop").check()


def test_probe_tells_a_service_that_stops(server: OutriderProcess) -> None:
    assert server.command("status", "--ready").check().startswith("ready: test-")
    with server.hold("request"):
        server.signal(signal.SIGTERM, init_of(server))
        server.until(lambda: server.status()["state"] == "stopping")
        assert "not ready: stopping" in server.command("status", "--ready").check(code=1)
        server.release("request")
    assert server.wait() == 0
