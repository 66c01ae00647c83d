"""What a master's workers and programs inherit, its hooks, and workers of other classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outrider.scoreboard import WorkerState
from outrider_supervisor.messages import (
    WorkerExited,
    WorkerSpawned,
)
from outrider_testing.fake_supervisor import HOOKS, FakeSupervisor, MakeSupervisor, title_of

PROBE = "outrider_testing.apps.probe:app"
FAST = ("--graceful-timeout", "5")


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
    assert supervisor.stop() == 0
    assert path.exists()


def test_hooks_are_called(make_supervisor: MakeSupervisor) -> None:
    supervisor = make_supervisor(generation=1).start(PROBE, *FAST, config=HOOKS)
    supervisor.until_ready()
    assert supervisor.stop() == 0
    assert supervisor.hooks() == [
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


def test_later_generation_calls_the_hook_of_a_reload(make_supervisor: MakeSupervisor) -> None:
    supervisor = make_supervisor(generation=2).start(PROBE, *FAST, config=HOOKS)
    (pid,) = supervisor.until_ready()
    assert "on_reload" in supervisor.hooks()
    assert supervisor.row_of(pid).generation == 2


def test_log_configuration_does_not_cut_the_reports(supervisor: FakeSupervisor) -> None:
    config = """
logconfig_dict = {
    "version": 1, "disable_existing_loggers": False, "root": {"level": "INFO", "handlers": []},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "own.log"}},
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["file"], "propagate": False}},
}
"""
    supervisor.start("nowhere:app", *FAST, config=config)
    supervisor.until_report("nowhere")


# -- other worker classes


def test_other_worker_is_ready_when_it_has_booted(supervisor: FakeSupervisor) -> None:
    supervisor.start("shop:app", *FAST, "-k", "gthread", "--name", "shop", config=HOOKS)
    (pid,) = supervisor.until_ready()
    assert supervisor.get("/").body == b"%d" % pid
    row = supervisor.row_of(pid)
    assert (row.generation, row.state) == (1, WorkerState.READY)
    assert title_of(pid) == "outrider: worker [shop] g1 ready"
    supervisor.until(lambda: supervisor.row_of(pid).requests == 1)
    supervisor.until(lambda: supervisor.row_of(pid).heartbeat > row.heartbeat)
    assert supervisor.hooks().count("post_worker_init") == 1
    assert supervisor.stop() == 0
    assert supervisor.row_of(pid).state is WorkerState.EXITED


def test_other_worker_that_cannot_find_the_application_is_reported(supervisor: FakeSupervisor) -> None:
    supervisor.start("shop:ap", *FAST, "-k", "gthread")
    message = supervisor.until_message(WorkerExited)
    assert message.how == "exited with code 4 (failed to load the application)"
    supervisor.until_report("Failed to find attribute 'ap' in 'shop'")


def test_other_worker_keeps_its_own_count_of_requests(supervisor: FakeSupervisor) -> None:
    supervisor.start("shop:app", *FAST, "-k", "gthread", "--max-requests", "1")
    (pid,) = supervisor.until_ready()
    supervisor.get("/")
    assert supervisor.until_exit_of(pid) == WorkerExited(pid, "exited with code 0", expected=True, was_ready=True)
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
    assert supervisor.until_exit_of(first.pid).how == "exited with code 0"


def test_another_asgi_worker_serves(supervisor: FakeSupervisor) -> None:
    supervisor.start(PROBE, *FAST, "-k", "asgi")
    (pid,) = supervisor.until_ready()
    assert json.loads(supervisor.get("/identity").body)["pid"] == pid
    assert supervisor.stop() == 0
