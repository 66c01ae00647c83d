"""The master of a generation as a real process, against the supervisor's end in the test."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outrider.scoreboard import RowSnapshot, WorkerState
from outrider_supervisor.messages import (
    Alive,
    BackingOff,
    MasterBooted,
    MasterFailed,
    ReopenLogs,
    Replace,
    SetTarget,
    Stop,
    WorkerExited,
    WorkerReady,
    WorkerRetiring,
    WorkerSpawned,
    WorkerStuck,
)
from outrider_testing.fake_supervisor import SOURCE, SUPPORT, FakeSupervisor, title_of
from outrider_testing.http_client import HTTPConnection, encode_request
from outrider_testing.processes import children, is_running
from outrider_testing.waiting import until

PROBE = "outrider_testing.apps.probe:app"
FAST = ("--graceful-timeout", "5")

SHOP = """
import gc, os, sys

def app(environ, start_response):
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/die":
        os._exit(int(scope["query_string"] or 0))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d %d" % (gc.get_freeze_count(), gc.isenabled())})
"""

HOOKS = """
def record(*words):
    with open("hooks", "a") as events:
        events.write(" ".join(map(str, words)) + "\\n")

def on_starting(server): record("on_starting")
def on_reload(server): record("on_reload")
def when_ready(server): record("when_ready")
def pre_fork(server, worker): record("pre_fork")
def post_fork(server, worker): record("post_fork")
def post_worker_init(worker): record("post_worker_init")
def worker_exit(server, worker): record("worker_exit")
def child_exit(server, worker): record("child_exit")
def nworkers_changed(server, new, old): record("nworkers_changed", new, old)
def on_exit(server): record("on_exit")
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., FakeSupervisor]]:
    """Make supervisors that leave nothing behind."""
    with contextlib.ExitStack() as stack:

        def make_one(**arguments: int) -> FakeSupervisor:
            (tmp_path / "shop.py").write_text(SHOP)
            return stack.enter_context(contextlib.closing(FakeSupervisor(tmp_path, **arguments)))

        yield make_one


@pytest.fixture
def supervisor(make: Callable[..., FakeSupervisor]) -> FakeSupervisor:
    return make()


def row_of(supervisor: FakeSupervisor, pid: int) -> RowSnapshot:
    return next(row for row in supervisor.rows() if row.pid == pid)


def hooks_of(supervisor: FakeSupervisor) -> list[str]:
    return (supervisor.directory / "hooks").read_text().splitlines()


def exit_of(supervisor: FakeSupervisor, pid: int) -> WorkerExited:
    """Wait for the exit of a worker."""

    def find() -> WorkerExited | None:
        return next((each for each in supervisor.find(WorkerExited) if each.pid == pid), None)

    message = supervisor.until(find, f"exit of {pid}")
    assert message is not None
    return message


def until_report(supervisor: FakeSupervisor, pattern: str) -> str:
    """Wait for a log record whose text matches."""

    def find() -> str:
        return next((each.text for each in supervisor.reports if re.search(pattern, each.text)), "")

    return supervisor.until(find, f"report {pattern!r}")


def stop(supervisor: FakeSupervisor) -> int:
    supervisor.send(Stop(fast=False))
    return supervisor.until_exit()


# -- life


def test_master_boots_its_workers_and_serves(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, workers=2)
    pids = supervisor.until_ready(2)
    assert supervisor.messages[0] == MasterBooted()
    assert {each.pid for each in supervisor.find(WorkerSpawned)} == set(pids)
    assert supervisor.get("/").body == b"hello"
    assert title_of(supervisor.pid) == f"outrider: master [{PROBE}] g1"
    assert [row.state for row in supervisor.rows()] == [WorkerState.READY] * 2


def test_stop_drains_and_ends_with_0(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (pid,) = supervisor.until_ready()
    with contextlib.closing(HTTPConnection(supervisor.listener.getsockname())) as connection:
        connection.send(encode_request("GET", "/gate/one"))
        supervisor.until((supervisor.directory / "one.held").exists)
        supervisor.send(Stop(fast=False))
        supervisor.until_message(WorkerRetiring)
        (supervisor.directory / "one.open").touch()
        assert connection.read_response().body == b"one"
    assert supervisor.until_exit() == 0
    assert exit_of(supervisor, pid) == WorkerExited(pid, "exited with code 0", expected=True, was_ready=True)


def test_fast_stop_cuts_requests(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, "--graceful-timeout", "60")
    supervisor.until_ready()
    with contextlib.closing(HTTPConnection(supervisor.listener.getsockname())) as connection:
        connection.send(encode_request("GET", "/gate/one"))
        supervisor.until((supervisor.directory / "one.held").exists)
        supervisor.send(Stop(fast=False))
        supervisor.until_message(WorkerRetiring)
        supervisor.send(Stop(fast=True))
        assert supervisor.until_exit() == 0


@pytest.mark.parametrize("number, how", [(signal.SIGTERM, "gracefully"), (signal.SIGINT, "at once")])
def test_signals_stop_a_master(supervisor: FakeSupervisor, number: signal.Signals, how: str) -> None:
    supervisor.start(PROBE, *FAST)
    supervisor.until_ready()
    supervisor.signal(number)
    assert supervisor.until_exit() == 0
    assert f"Stopping {how}" in supervisor.log()


def test_signals_for_the_supervisor_are_refused_in_one_line(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (pid,) = supervisor.until_ready()
    for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        supervisor.signal(number)
        line = f"{number.name} does nothing in a master: send it to the supervisor (pid: {os.getpid()})"
        supervisor.until(lambda line=line: line in supervisor.log(), line)  # type: ignore[misc]  # a lambda in a loop
    assert children(supervisor.pid) == [pid]


def test_logs_are_reopened_by_message_and_by_signal(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, "--error-logfile", "error.log")
    supervisor.until_ready()
    log = supervisor.directory / "error.log"
    log.rename(log.with_suffix(".1"))
    supervisor.send(ReopenLogs())
    supervisor.until(log.exists)
    log.rename(log.with_suffix(".2"))
    supervisor.signal(signal.SIGUSR1)
    supervisor.until(log.exists)


def test_master_stops_gracefully_when_the_supervisor_is_gone(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    supervisor.until_ready()
    supervisor.channel.shutdown(2)
    until(supervisor._has_ended, 10)
    assert supervisor._status == 0
    assert "The supervisor is gone: stopping gracefully" in supervisor.log()


def test_supervisor_that_dies_during_an_import_takes_the_master_along(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text("import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(1000)\n")
    script = f"""
import os, pathlib, sys
from outrider_testing.fake_supervisor import FakeSupervisor
supervisor = FakeSupervisor(pathlib.Path({str(tmp_path)!r})).start("hangs:app", "--preload")
supervisor.until(pathlib.Path({str(tmp_path / "importing")!r}).exists)
print(supervisor.pid, flush=True)
os._exit(0)
"""
    environment = os.environ | {"PYTHONPATH": f"{SOURCE}:{SUPPORT}"}
    output = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    pid = int(output.stdout)
    until(lambda: not is_running(pid), what="end of the master")


def test_message_that_nobody_understands_is_ignored(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    supervisor.until_ready()
    supervisor.channel.send(b'{"type": "Dance"}')
    until_report(supervisor, "Ignored: not a message")
    assert stop(supervisor) == 0


# -- targets


def test_target_is_met_exactly(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, config=HOOKS)
    (first,) = supervisor.until_ready()
    supervisor.send(SetTarget(3))
    pids = supervisor.until_ready(3)
    assert children(supervisor.pid) == sorted(pids)
    supervisor.send(SetTarget(1))
    assert exit_of(supervisor, first).expected
    supervisor.until(lambda: children(supervisor.pid) == pids[2:])
    supervisor.send(SetTarget(0))
    supervisor.until(lambda: not children(supervisor.pid))
    supervisor.send(SetTarget(1))
    supervisor.until_ready(4)
    changes = [event for event in hooks_of(supervisor) if event.startswith("nworkers")]
    assert changes == [f"nworkers_changed {change}" for change in ("1 None", "3 1", "1 3", "0 1", "1 0")]


def test_replaced_worker_is_retired_after_its_replacement_is_ready(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (old,) = supervisor.until_ready()
    supervisor.send(Replace(old))
    exit_of(supervisor, old)
    new = supervisor.until_ready(2)[1]
    story = [message for message in supervisor.messages if not isinstance(message, MasterBooted | Alive)]
    assert story[2:] == [
        WorkerSpawned(new, old),
        WorkerReady(new),
        WorkerRetiring(old),
        WorkerExited(old, "exited with code 0", expected=True, was_ready=True),
    ]


def test_killed_worker_is_replaced_at_once_and_its_row_given_back(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (old,) = supervisor.until_ready()
    supervisor.signal(signal.SIGKILL, old)
    how = "was killed by SIGKILL, perhaps out of memory"
    assert exit_of(supervisor, old) == WorkerExited(old, how, expected=False, was_ready=True)
    new = supervisor.until_ready(2)[1]
    assert [row.pid for row in supervisor.rows() if row.state is not WorkerState.EXITED] == [new]
    assert f"Worker (pid:{old}) was killed" in until_report(supervisor, "was killed")


def test_worker_that_drains_by_itself_is_replaced_while_it_drains(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (old,) = supervisor.until_ready()
    with contextlib.closing(HTTPConnection(supervisor.listener.getsockname())) as connection:
        connection.send(encode_request("GET", "/gate/one"))
        supervisor.until((supervisor.directory / "one.held").exists)
        supervisor.signal(signal.SIGTERM, old)
        supervisor.until_ready(2)
        assert supervisor.find(WorkerRetiring) == [WorkerRetiring(old)]
        (supervisor.directory / "one.open").touch()
    assert exit_of(supervisor, old).expected


@pytest.mark.parametrize("code, how", [(0, "exited with code 0 without shutting down"), (7, "exited with code 7")])
def test_worker_that_leaves_abruptly_has_crashed(supervisor: FakeSupervisor, code: int, how: str) -> None:
    supervisor.start("shop:asgi", *FAST)
    (pid,) = supervisor.until_ready()
    with pytest.raises(ConnectionError):
        supervisor.get(f"/die?{code}")
    assert exit_of(supervisor, pid) == WorkerExited(pid, how, expected=False, was_ready=True)


def test_worker_does_not_count_its_requests_itself(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, "--max-requests", "2")
    (pid,) = supervisor.until_ready()
    for _ in range(5):
        assert supervisor.get("/pid").body == b"%d" % pid
    supervisor.until(lambda: row_of(supervisor, pid).requests == 5)


def test_workers_without_a_row_serve_all_the_same(make: Callable[..., FakeSupervisor]) -> None:
    supervisor = make(rows=0).start(PROBE, *FAST, workers=2)
    supervisor.until_ready(2)
    assert supervisor.rows() == []
    assert stop(supervisor) == 0


# -- failures of workers


def test_missing_application_backs_off_and_never_halts(supervisor: FakeSupervisor) -> None:
    supervisor.start("nowhere:app", *FAST)
    supervisor.until_message(WorkerExited, 2)
    first = supervisor.find(WorkerExited)[0]
    assert first.how == "exited with code 4 (failed to load the application)"
    assert not first.was_ready
    assert supervisor.find(BackingOff)[0].failures == 1
    assert "No module named 'nowhere'" in until_report(supervisor, "nowhere")
    assert stop(supervisor) == 0


def test_failing_lifespan_is_reported(supervisor: FakeSupervisor) -> None:
    # The end of the process takes its time, after that of the worker in the scoreboard.
    config = "import threading\ndef worker_exit(server, worker): threading.Event().wait(0.3)"
    supervisor.start("outrider_testing.apps.broken:startup_fails", *FAST, config=config)
    message = supervisor.until_message(WorkerExited)
    how = "exited with code 3 (failed to boot)"
    assert message == WorkerExited(message.pid, how, expected=False, was_ready=False)
    until_report(supervisor, "the database is away")


def test_failing_import_is_reported_with_its_traceback(supervisor: FakeSupervisor) -> None:
    supervisor.start("outrider_testing.apps.raises_at_import:app", *FAST)
    assert "raises_at_import.py" in until_report(supervisor, "Traceback")


def test_boot_that_hangs_is_aborted_with_a_dump(supervisor: FakeSupervisor) -> None:
    (supervisor.directory / "hangs.py").write_text("import threading\nthreading.Event().wait(1000)\n")
    supervisor.start("hangs:app", *FAST, "--boot-timeout", "1")
    message = supervisor.until_message(WorkerExited)
    assert message.how == "took longer than boot_timeout (1 s)"
    assert "hangs.py" in until_report(supervisor, "Worker aborted")


def test_stuck_worker_is_dumped_killed_and_replaced(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, "--timeout", "1")
    (pid,) = supervisor.until_ready()
    with contextlib.closing(HTTPConnection(supervisor.listener.getsockname())) as connection:
        connection.send(encode_request("GET", "/spin"))
        stuck = supervisor.until_message(WorkerStuck)
        assert stuck.pid == pid
        assert stuck.silent >= 1
        supervisor.until_ready(2)
        assert exit_of(supervisor, pid).how.startswith("was stuck: its loop was silent for 1.")
    assert "spin_for_ever" in until_report(supervisor, "Worker aborted")


@pytest.mark.parametrize("error", ["LookupError", "SystemExit"])
def test_hook_that_fails_before_the_fork_backs_off(supervisor: FakeSupervisor, error: str) -> None:
    supervisor.start(PROBE, *FAST, config=f"def pre_fork(server, worker): raise {error}('no licence left')")
    assert supervisor.until_message(BackingOff).failures == 1
    assert "no licence left" in until_report(supervisor, "could not be started")
    assert stop(supervisor) == 0


def test_hook_that_fails_in_the_running_master_does_not_end_it(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, config="def child_exit(server, worker): raise LookupError('unlucky')")
    (pid,) = supervisor.until_ready()
    supervisor.signal(signal.SIGKILL, pid)
    supervisor.until_ready(2)
    until_report(supervisor, "unlucky")
    assert stop(supervisor) == 0


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
    make: Callable[..., FakeSupervisor], code: str, reason: str
) -> None:
    supervisor = make()
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


# -- what is inherited


@pytest.mark.parametrize("preload", [True, False])
def test_preloaded_memory_is_frozen_before_the_fork(supervisor: FakeSupervisor, preload: bool) -> None:
    supervisor.start("shop:asgi", *FAST, *(["--preload"] if preload else []))
    supervisor.until_ready()
    frozen, enabled = supervisor.get("/").body.split()
    assert (int(frozen) > 1000) == preload
    assert enabled == b"1"


def test_worker_does_not_hold_the_channel(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST)
    (pid,) = supervisor.until_ready()
    sockets = Path(f"/proc/{supervisor.pid}/fd")
    channel = next(path for path in sockets.iterdir() if path.name == "4").readlink()
    assert channel not in {path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()}


def test_programs_of_a_hook_inherit_nothing_of_ours(supervisor: FakeSupervisor) -> None:
    config = """
import subprocess
def pre_fork(server, worker):
    subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, stdout=open("fds", "w"))
"""
    supervisor.start(PROBE, *FAST, config=config)
    supervisor.until_ready()
    inherited = (supervisor.directory / "fds").read_text()
    assert "socket:" not in inherited
    assert "memfd:" not in inherited


def test_pid_file_and_sockets_are_left_to_the_supervisor(supervisor: FakeSupervisor) -> None:
    path = supervisor.directory / "shop.sock"
    path.touch()
    supervisor.start(PROBE, *FAST, "--pid", "shop.pid", "--bind", f"unix:{path}", "--bind", "fd://77")
    supervisor.until_ready()
    assert not (supervisor.directory / "shop.pid").exists()
    assert stop(supervisor) == 0
    assert path.exists()


def test_hooks_are_called(make: Callable[..., FakeSupervisor]) -> None:
    supervisor = make(generation=1).start(PROBE, *FAST, config=HOOKS)
    supervisor.until_ready()
    assert stop(supervisor) == 0
    assert hooks_of(supervisor) == [
        "nworkers_changed 1 None",
        "on_starting",
        "when_ready",
        "pre_fork",
        "post_fork",
        "post_worker_init",
        "worker_exit",
        "child_exit",
        "on_exit",
    ]


def test_later_generation_calls_the_hook_of_a_reload(make: Callable[..., FakeSupervisor]) -> None:
    supervisor = make(generation=2).start(PROBE, *FAST, config=HOOKS)
    (pid,) = supervisor.until_ready()
    assert "on_reload" in hooks_of(supervisor)
    assert row_of(supervisor, pid).generation == 2


def test_log_configuration_does_not_cut_the_reports(supervisor: FakeSupervisor) -> None:
    config = """
logconfig_dict = {
    "version": 1, "disable_existing_loggers": False, "root": {"level": "INFO", "handlers": []},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "own.log"}},
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["file"], "propagate": False}},
}
"""
    supervisor.start("nowhere:app", *FAST, config=config)
    until_report(supervisor, "nowhere")


# -- other worker classes


def test_other_worker_is_ready_when_it_has_booted(supervisor: FakeSupervisor) -> None:
    supervisor.start("shop:app", *FAST, "-k", "gthread", "--name", "shop", config=HOOKS)
    (pid,) = supervisor.until_ready()
    assert supervisor.get("/").body == b"%d" % pid
    row = row_of(supervisor, pid)
    assert (row.generation, row.state) == (1, WorkerState.READY)
    assert title_of(pid) == "outrider: worker [shop] g1 ready"
    supervisor.until(lambda: row_of(supervisor, pid).requests == 1)
    supervisor.until(lambda: row_of(supervisor, pid).heartbeat > row.heartbeat)
    assert hooks_of(supervisor).count("post_worker_init") == 1
    assert stop(supervisor) == 0
    assert row_of(supervisor, pid).state is WorkerState.EXITED


def test_other_worker_that_cannot_find_the_application_is_reported(supervisor: FakeSupervisor) -> None:
    supervisor.start("shop:ap", *FAST, "-k", "gthread")
    message = supervisor.until_message(WorkerExited)
    assert message.how == "exited with code 4 (failed to load the application)"
    until_report(supervisor, "Failed to find attribute 'ap' in 'shop'")


def test_other_worker_keeps_its_own_count_of_requests(supervisor: FakeSupervisor) -> None:
    supervisor.start("shop:app", *FAST, "-k", "gthread", "--max-requests", "1")
    (pid,) = supervisor.until_ready()
    supervisor.get("/")
    assert exit_of(supervisor, pid) == WorkerExited(pid, "exited with code 0", expected=True, was_ready=True)
    supervisor.until_ready(2)


def test_stop_that_comes_before_another_worker_has_its_handlers_is_not_lost(supervisor: FakeSupervisor) -> None:
    config = """
import os, signal
def post_fork(server, worker):
    if not os.path.exists("signalled"):
        open("signalled", "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
"""
    supervisor.start("shop:app", *FAST, "-k", "gthread", config=config)
    first = supervisor.until_message(WorkerSpawned)
    assert exit_of(supervisor, first.pid).how == "exited with code 0"


def test_another_asgi_worker_serves(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, "-k", "asgi")
    (pid,) = supervisor.until_ready()
    assert json.loads(supervisor.get("/identity").body)["pid"] == pid
    assert stop(supervisor) == 0
