"""What the commands do to a service, and what they answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from outrider_supervisor.handover import PATIENCE
from outrider_supervisor.status import GenerationStatus, OperationStatus, Status, WorkerStatus
from outrider_testing import releases
from outrider_testing.http_client import can_connect, fetch
from outrider_testing.launchers import with_numbers
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Supervise

NO_CANARY = "--no-canary"


def began(process: subprocess.Popen[str], words: str) -> None:
    """Read what a command prints until a line has these words."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"the command ended without {words!r}")


@contextlib.contextmanager
def stopped(server: OutriderProcess, pid: int) -> Iterator[None]:
    """Hold a process up."""
    server.signal(signal.SIGSTOP, pid)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT, pid)


# status


def test_status_fits_eighty_columns(service: OutriderProcess) -> None:
    text = service.command("status").check()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert f"{service.name}: serving, 2 of 2 workers ready" in lines[0]
    for pid in service.workers():
        (row,) = (line for line in lines if str(pid) in line.split())
        assert "ready" in row


def test_status_as_json_is_what_the_docs_say(service: OutriderProcess) -> None:
    status = json.loads(service.command("status", "--json").check())
    assert set(status) == set(Status.__annotations__)
    (generation,) = status["generations"]
    assert set(generation) == set(GenerationStatus.__annotations__)
    worker, _ = generation["workers"]
    assert set(worker) == set(WorkerStatus.__annotations__)
    assert (status["pid"], status["target"], status["capacity"], status["state"]) == (service.pid, 2, 2, "serving")


def test_status_counts_requests_and_errors(service: OutriderProcess) -> None:
    def counted() -> tuple[int, int]:
        rows = service.worker_rows()
        return sum(row["requests"] or 0 for row in rows), sum(row["errors_5xx"] or 0 for row in rows)

    requests, errors = counted()
    for path in ("/", "/", "/fail"):
        service.get(path)
    service.until(lambda: counted() == (requests + 3, errors + 1), what="3 requests and 1 error")


def test_status_names_the_operation_under_way(changing: OutriderProcess) -> None:
    server = changing
    generation = server.current()["number"]
    releases.deploy(server.directory, releases.held_at_import(2))
    reload = server.begin("reload")
    operation = server.until(lambda: server.status()["operation"], what="an operation")
    assert set(operation or {}) == set(OperationStatus.__annotations__)
    assert operation is not None
    assert operation["name"] == "reload"
    server.until(lambda: server.workers(generation + 1, "booting"), what="a worker that boots")
    text = server.command("status").check()
    assert "reload under way" in text
    assert "booting" in text
    releases.let_import(server.directory)
    server.finish(reload).check()


def test_titles_tell_role_name_generation_and_state(service: OutriderProcess) -> None:
    worker, _ = service.workers()
    master = service.current()["master_pid"]

    def titles() -> list[str]:
        return [" ".join(psutil.Process(pid).cmdline()).strip() for pid in (service.pid, master, worker)]

    wanted = [
        f"outrider: supervisor [{service.name}] serving",
        f"outrider: master [{service.name}] g1 running",
        f"outrider: worker [{service.name}] g1 ready",
    ]
    service.until(lambda: titles() == wanted, what=f"{wanted}")


# reload


def test_reload_takes_over_code_and_configuration(supervise: Supervise) -> None:
    server = supervise(NO_CANARY, config="workers = 1", workers=0).wait_until_ready(1)
    releases.deploy(server.directory, releases.good(2))
    releases.configure(server.directory, "workers = 2")
    output = server.reload().check()
    assert "generation 2 is current, serving with 2 of 2 workers" in output
    server.wait_until_settled(2, generation=2)
    assert server.version() == "2"


def test_reload_tells_of_each_step(changing: OutriderProcess) -> None:
    with releases.configured(changing.directory, "canary = True; canary_seconds = 0.2; canary_requests = 0"):
        output = changing.reload().check().splitlines()
    steps = ["starting", "it is the canary for", "canary passed", "2 of 2 workers ready", "is current"]
    assert [any(step in line for line in output) for step in steps] == [True] * len(steps), output


def test_reload_without_canary_begins_to_roll_at_once(changing: OutriderProcess) -> None:
    with releases.configured(changing.directory, "canary = True; canary_seconds = 600"):
        assert "canary" not in changing.reload("--no-canary").check()


def test_reload_opens_and_closes_addresses(supervise: Supervise, tmp_path: Path) -> None:
    first, second = str(tmp_path / "1"), str(tmp_path / "2")
    server = supervise(NO_CANARY, config=f"bind = 'unix:{first}'")
    releases.configure(server.directory, f"bind = ['unix:{first}', 'unix:{second}']")
    server.reload().check()
    assert fetch(second, "/").body == fetch(first, "/").body == b"hello"
    releases.configure(server.directory, f"bind = 'unix:{second}'")
    server.reload().check()
    server.until(lambda: not can_connect(first), what="the first address closed")
    assert fetch(second, "/").body == b"hello"


def test_reload_returns_when_no_old_worker_accepts(supervise: Supervise) -> None:
    server = supervise(NO_CANARY, launcher=with_numbers(handover__PATIENCE=60))
    (old,) = server.workers()
    releases.deploy(server.directory, releases.good(2))
    with stopped(server, old):
        reload = server.begin("reload")
        server.until(lambda: server.current()["number"] == 2, what="the commit")
        assert server.status()["operation"]
        assert reload.poll() is None
    server.finish(reload).check()
    assert {server.version() for _ in range(10)} == {"2"}


def test_blocked_worker_holds_a_reload_up_for_two_seconds(supervise: Supervise) -> None:
    server = supervise(NO_CANARY)
    (old,) = server.workers()
    with stopped(server, old):
        assert "generation 2 is current" in server.reload().check()
        status = server.status()
        (commit,) = (each["at"] for each in status["events"] if "generation 2 is current" in each["text"])
        last = status["reloads"]["last"]
        assert last is not None
        assert PATIENCE - 0.1 <= last["at"] - commit < 4 * PATIENCE


def test_newest_of_the_waiting_reloads_wins(changing: OutriderProcess) -> None:
    server = changing
    generation = server.current()["number"]
    releases.deploy(server.directory, releases.held_at_import(2))
    first = server.begin("reload")
    began(first, f"generation {generation + 1}: starting")
    second = server.begin("reload")
    began(second, "waits until")
    third = server.begin("reload")
    assert "a newer request" in server.finish(second).check(4)
    releases.let_import(server.directory)
    server.finish(first).check()
    server.finish(third).check()
    server.wait_until_settled(2, generation + 2)


def test_stop_ends_a_reload(supervise: Supervise) -> None:
    server = supervise(NO_CANARY)
    releases.deploy(server.directory, releases.held_at_import(2))
    reload = server.begin("reload")
    began(reload, "generation 2: starting")
    server.command("stop").check()
    assert "stop" in server.finish(reload).check(1)
    assert server.wait() == 0


# scale


def test_scale_runs_so_many_workers(changing: OutriderProcess) -> None:
    before = changing.workers()
    changing.scale(3).check()
    assert len(changing.workers()) == 3
    changing.scale(1).check()
    changing.wait_until_settled(1)
    assert not set(before) & set(changing.workers())


def test_scale_outlasts_reload_and_upgrade(changing: OutriderProcess) -> None:
    generation = changing.current()["number"]
    changing.scale(1).check()
    changing.reload().check()
    changing.upgrade().check()
    changing.reload().check()
    changing.wait_until_settled(1, generation + 2)


def test_scale_below_one_is_refused(service: OutriderProcess) -> None:
    assert "a whole number from 1" in service.command("scale", "0").check(2)


# recycle


def test_recycle_replaces_one_worker(changing: OutriderProcess) -> None:
    kept, replaced = changing.workers()
    changing.recycle(replaced).check()
    changing.wait_until_settled(2)
    assert kept in changing.workers()
    assert replaced not in changing.workers()


def test_recycle_all_replaces_each_worker(changing: OutriderProcess) -> None:
    before = set(changing.workers())
    changing.recycle().check()
    changing.wait_until_settled(2)
    assert not before & set(changing.workers())


def test_recycle_of_a_stranger_is_refused(service: OutriderProcess) -> None:
    output = service.recycle(os.getpid()).check(1)
    assert f"{os.getpid()} is no worker" in output


# dump


def test_dump_shows_stacks_and_requests_of_a_worker_that_goes_on(supervise: Supervise) -> None:
    server = supervise()
    (pid,) = server.workers()
    server.get("/thread")
    with server.hold("request") as connection:
        output = server.command("dump", str(pid)).check()
        assert "wait_at_gate" in output
        assert "/gate/request" in output
        assert "idle_in_helper_thread" in output
        server.release("request")
        assert connection.read_response().status == 200
    assert server.workers() == [pid]


def test_dump_of_a_stranger_is_refused(service: OutriderProcess) -> None:
    assert f"{os.getpid()} is no worker" in service.command("dump", str(os.getpid())).check(1)


def test_stuck_worker_is_dumped_and_replaced(supervise: Supervise) -> None:
    server = supervise("--timeout", "3")
    (stuck,) = server.workers()
    with server.connect() as connection:
        connection.send(b"GET /block?seconds=60 HTTP/1.1\r\nHost: a\r\n\r\n")
        server.until_log("hold_loop_in_system_call")
        server.wait_until_gone(stuck, 20.0)
    server.wait_until_settled(1, generation=1)
    assert any(f"worker {stuck}" in event["text"] for event in server.status()["events"])
    (stall,) = server.status()["stalls"]
    assert "hold_loop_in_system_call" in stall["frame"]
    assert (stall["count"], stall["worker"]) == (1, stuck)
    assert "1 time, " in server.command("status").check()


# upgrade


def test_upgrade_keeps_supervisor_and_workers(changing: OutriderProcess) -> None:
    server = changing
    before = server.status()
    generation = server.current()["number"]
    workers = server.workers()
    with server.hold("request") as connection:
        server.upgrade().check()
        server.release("request")
        assert connection.read_response().status == 200
    after = server.status()
    assert after["pid"] == server.pid
    assert after["since"] == pytest.approx(before["since"], abs=1.0)
    assert server.workers() == workers
    server.reload().check()
    server.wait_until_settled(2, generation + 1)


def test_upgrade_to_what_does_not_start_leaves_the_old_one(supervise: Supervise, tmp_path: Path) -> None:
    server = supervise(NO_CANARY, env={"PYTHONPATH": str(tmp_path)})
    broken = tmp_path / "setproctitle.py"
    broken.write_text("raise ImportError('this version is broken')\n")
    assert "this version is broken" in server.upgrade().check(1)
    broken.unlink()
    server.reload().check()
    server.wait_until_settled(1, generation=2)
