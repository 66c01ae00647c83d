"""What a master does when a worker fails, or when it cannot start itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from outrider_supervisor.messages import (
    BackingOff,
    MasterBooted,
    MasterFailed,
    WorkerExited,
    WorkerStuck,
)
from outrider_testing.fake_supervisor import FakeSupervisor, MakeSupervisor
from outrider_testing.http_client import encode_request

PROBE = "outrider_testing.apps.probe:app"
FAST = ("--graceful-timeout", "5")


# -- failures of workers


def test_missing_application_backs_off_and_never_halts(supervisor: FakeSupervisor) -> None:
    supervisor.start("nowhere:app", *FAST)
    supervisor.until_message(WorkerExited, 2)
    first = supervisor.find(WorkerExited)[0]
    assert first.how == "exited with code 4 (failed to load the application)"
    assert not first.was_ready
    assert supervisor.find(BackingOff)[0].failures == 1
    assert "No module named 'nowhere'" in supervisor.until_report("nowhere")
    assert supervisor.stop() == 0


def test_failing_lifespan_is_reported(supervisor: FakeSupervisor) -> None:
    # The end of the process takes its time, after that of the worker in the scoreboard.
    config = "import threading\ndef worker_exit(server, worker): threading.Event().wait(0.3)"
    supervisor.start("outrider_testing.apps.broken:startup_fails", *FAST, config=config)
    message = supervisor.until_message(WorkerExited)
    how = "exited with code 3 (failed to boot)"
    assert message == WorkerExited(message.pid, how, expected=False, was_ready=False)
    supervisor.until_report("the database is away")


def test_failing_import_is_reported_with_its_traceback(supervisor: FakeSupervisor) -> None:
    supervisor.start("outrider_testing.apps.raises_at_import:app", *FAST)
    assert "raises_at_import.py" in supervisor.until_report("Traceback")


def test_boot_that_hangs_is_aborted_with_a_dump(supervisor: FakeSupervisor) -> None:
    (supervisor.directory / "hangs.py").write_text("import threading\nthreading.Event().wait(1000)\n")
    supervisor.start("hangs:app", *FAST, "--boot-timeout", "1")
    message = supervisor.until_message(WorkerExited)
    assert message.how == "took longer than boot_timeout (1 s)"
    assert "hangs.py" in supervisor.until_report("Worker aborted")


def test_stuck_worker_is_dumped_killed_and_replaced(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, "--timeout", "1")
    (pid,) = supervisor.until_ready()
    with supervisor.connect() as connection:
        connection.send(encode_request("GET", "/spin"))
        stuck = supervisor.until_message(WorkerStuck)
        assert stuck.pid == pid
        assert stuck.silent >= 1
        supervisor.until_ready(2)
        assert supervisor.until_exit_of(pid).how.startswith("was stuck: its loop was silent for ")
    assert "spin_for_ever" in supervisor.until_report("Worker aborted")


@pytest.mark.parametrize("error", ["LookupError", "SystemExit"])
def test_hook_that_fails_before_the_fork_backs_off(supervisor: FakeSupervisor, error: str) -> None:
    supervisor.start(PROBE, *FAST, config=f"def pre_fork(server, worker): raise {error}('no licence left')")
    assert supervisor.until_message(BackingOff).failures == 1
    assert "no licence left" in supervisor.until_report("could not be started")
    assert supervisor.stop() == 0


def test_hook_that_fails_in_the_running_master_does_not_end_it(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, config="def child_exit(server, worker): raise LookupError('unlucky')")
    (pid,) = supervisor.until_ready()
    supervisor.signal(signal.SIGKILL, pid)
    supervisor.until_ready(2)
    supervisor.until_report("unlucky")
    assert supervisor.stop() == 0


# -- failures of the master


def failure_of(supervisor: FakeSupervisor) -> MasterFailed:
    """Wait for a master that cannot start: it says why, here and on stderr, and ends with 1."""
    assert supervisor.until_exit() == 1
    failure = supervisor.until_message(MasterFailed)
    assert f"outrider: {failure.reason}" in supervisor.log()
    assert not supervisor.find(MasterBooted)
    return failure


def test_broken_configuration_fails_the_master(supervisor: FakeSupervisor) -> None:
    failure = failure_of(supervisor.start(PROBE, config="workers = 1 / 0"))
    assert failure.reason.endswith("gunicorn.conf.py, line 1: ZeroDivisionError: division by zero")
    assert failure.details.startswith("Traceback")


def test_missing_certificate_fails_the_master(supervisor: FakeSupervisor) -> None:
    failure = failure_of(supervisor.start(PROBE, "--certfile", "none.pem"))
    assert "none.pem" in failure.reason


def test_unknown_worker_class_fails_the_master_in_one_line(supervisor: FakeSupervisor) -> None:
    failure = failure_of(supervisor.start(PROBE, "-k", "nothing"))
    assert "nothing" in failure.reason
    assert "\n" not in failure.reason


@pytest.mark.parametrize(
    "code, reason",
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("import sys\nsys.exit(3)", "called sys.exit(3)"),
        ("ap = 1", "Failed to find attribute 'app' in 'shop'."),
    ],
)
def test_preloaded_application_that_fails_fails_the_master(
    make_supervisor: MakeSupervisor, code: str, reason: str
) -> None:
    supervisor = make_supervisor()
    (supervisor.directory / "shop.py").write_text(code)
    failure = failure_of(supervisor.start("shop:app", "--preload"))
    assert failure.reason == f"the application could not be imported (preload_app): {reason}"
    assert ("shop.py" in failure.details) == ("Failed" not in reason)


def test_master_without_a_supervisor_refuses_to_start() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
    command = [sys.executable, "-m", "outrider_supervisor.master", "app:app"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "outrider: a master is started by the supervisor alone: use `outrider run`\n"
