"""What the commands and the signals do to a service, and what they answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from outrider_supervisor.status import GenerationStatus, OperationStatus, Status, WorkerStatus
from outrider_testing import releases
from outrider_testing.http_client import HTTPConnection, can_connect, fetch
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.processes import session_members
from outrider_testing.server_process import SUPPORT
from outrider_testing.serving import Supervise, supervising

NO_CANARY = "--no-canary"

# Imports when the test says so.
WAITS_AT_IMPORT = """\
import pathlib
import time

while not pathlib.Path("go").exists():
    time.sleep(0.01)

"""


def let_import(server: OutriderProcess) -> None:
    (server.directory / "go").touch()


def version(server: OutriderProcess) -> str:
    return server.get("/").field("x-version")


def began(process: subprocess.Popen[str], words: str) -> None:
    """Read what a command prints until a line has these words."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"the command ended without {words!r}")


def is_cut(connection: HTTPConnection) -> bool:
    """Tell whether the request ends without its answer; the server may still be able to say that it failed."""
    try:
        return connection.read_head().status >= 500
    except ConnectionError:
        return True


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutriderProcess]:
    """A service with two workers for all the tests that leave it as it was."""
    with supervising(tmp_path_factory.mktemp("service")) as supervise:
        server = supervise(workers=2)
        before = server.workers()
        yield server
        server.wait_until_settled(2, generation=1)
        assert server.workers() == before


@pytest.fixture(scope="module")
def _changing_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutriderProcess]:
    with supervising(tmp_path_factory.mktemp("changing")) as supervise:
        yield supervise(workers=2, config="canary = False")


@pytest.fixture
def changing(_changing_service: OutriderProcess) -> OutriderProcess:
    """A service with two workers for the tests that put others into their place; its generation may be any."""
    server = _changing_service
    for pattern in ("go", "*.held", "*.open"):
        for path in server.directory.glob(pattern):
            path.unlink()
    releases.deploy(server.directory, releases.good(1))
    if not server.is_settled(2):
        server.scale(2).check()
        server.wait_until_settled(2)
    return server


def generation_of(server: OutriderProcess) -> int:
    return server.current()["number"]


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


def test_status_counts_requests_and_errors(supervise: Supervise) -> None:
    server = supervise()
    for path in ("/", "/", "/fail"):
        server.get(path)

    def counted() -> bool:
        (row,) = server.worker_rows()
        return (row["requests"], row["errors_5xx"]) == (3, 1)

    server.until(counted, what="3 requests and 1 error")


def test_status_names_the_operation_under_way(changing: OutriderProcess) -> None:
    server = changing
    generation = generation_of(server)
    releases.deploy(server.directory, WAITS_AT_IMPORT + releases.good(2))
    reload = server.begin("reload")
    operation = server.until(lambda: server.status()["operation"], what="an operation")
    assert set(operation or {}) == set(OperationStatus.__annotations__)
    assert operation is not None
    assert operation["name"] == "reload"
    server.until(lambda: server.workers(generation + 1, "booting"), what="a worker that boots")
    text = server.command("status").check()
    assert "reload under way" in text
    assert "booting" in text
    let_import(server)
    server.finish(reload).check()


def test_titles_tell_role_name_generation_and_state(service: OutriderProcess) -> None:
    worker, _ = service.workers()
    master = service.current()["master_pid"]

    def titles() -> list[str]:
        return [" ".join(psutil.Process(pid).cmdline()).strip() for pid in (service.pid, master, worker)]

    wanted = [
        f"outrider: supervisor [{service.name}] serving",
        f"outrider: master [{service.name}] g1",
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
    assert version(server) == "2"


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


def test_newest_of_the_waiting_reloads_wins(changing: OutriderProcess) -> None:
    server = changing
    generation = generation_of(server)
    releases.deploy(server.directory, WAITS_AT_IMPORT + releases.good(2))
    first = server.begin("reload")
    began(first, f"generation {generation + 1}: starting")
    second = server.begin("reload")
    began(second, "waits until")
    third = server.begin("reload")
    assert "a newer request" in server.finish(second).check(4)
    let_import(server)
    server.finish(first).check()
    server.finish(third).check()
    server.wait_until_settled(2, generation + 2)


def test_stop_ends_a_reload(supervise: Supervise) -> None:
    server = supervise(NO_CANARY)
    releases.deploy(server.directory, WAITS_AT_IMPORT + releases.good(2))
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
    generation = generation_of(changing)
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
    server = supervise("--timeout", "1")
    (stuck,) = server.workers()
    with server.connect() as connection:
        connection.send(b"GET /block?seconds=60 HTTP/1.1\r\nHost: a\r\n\r\n")
        server.until_log("hold_loop_in_system_call", 10.0)
        server.wait_until_gone(stuck, 10.0)
    server.wait_until_settled(1, generation=1)
    assert any(f"worker {stuck}" in event["text"] for event in server.status()["events"])


# upgrade


def test_upgrade_keeps_supervisor_and_workers(changing: OutriderProcess) -> None:
    server = changing
    before = server.status()
    generation = generation_of(server)
    workers = server.workers()
    with server.hold("request") as connection:
        server.upgrade().check()
        server.release("request")
        assert connection.read_response().status == 200
    after = server.status()
    assert after["pid"] == server.pid
    assert after["since"] == pytest.approx(before["since"], abs=0.1)
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


# stop


def test_stop_lets_requests_finish(supervise: Supervise) -> None:
    server = supervise()
    with server.hold("request") as connection:
        stop = server.begin("stop")
        server.until(lambda: not can_connect(server.address), what="the listener closed")
        server.release("request")
        assert connection.read_response().status == 200
    server.finish(stop).check()
    assert server.wait() == 0
    assert not Path(server.control_socket).exists()


def test_fast_stop_cuts_requests(supervise: Supervise) -> None:
    server = supervise()
    with server.hold("request") as connection:
        server.command("stop", "--fast").check()
        assert is_cut(connection)
    assert server.wait() == 0


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_stop_at_once(supervise: Supervise, number: signal.Signals) -> None:
    server = supervise()
    with server.hold("request") as connection:
        server.signal(number)
        assert is_cut(connection)
    assert server.wait() == 0


def test_second_term_stops_at_once(supervise: Supervise) -> None:
    server = supervise("--graceful-timeout", "600")
    with server.hold("request") as connection:
        server.signal(signal.SIGTERM)
        server.until_log("stopping: workers finish what they hold")
        server.signal(signal.SIGTERM)
        assert is_cut(connection)
    assert server.wait() == 0


def test_hup_reloads(changing: OutriderProcess) -> None:
    generation = generation_of(changing)
    releases.deploy(changing.directory, releases.good(2))
    changing.signal(signal.SIGHUP)
    changing.wait_until_settled(2, generation + 1)
    assert version(changing) == "2"


def test_ttin_and_ttou_change_the_number_of_workers_one_by_one(changing: OutriderProcess) -> None:
    for number, workers in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
        changing.signal(number)
        changing.wait_until_settled(workers)
    changing.signal(signal.SIGTTOU)
    changing.until_log("scaling from 1 to 1 workers")
    changing.wait_until_settled(1)


def test_usr1_reopens_logs_of_everybody(supervise: Supervise) -> None:
    server = supervise("--error-logfile", "error.log", "--access-logfile", "access.log")
    for name in ("error.log", "access.log"):
        (server.directory / name).rename(server.directory / f"old-{name}")
    server.signal(signal.SIGUSR1)
    server.until_file("error.log", "log files reopened")
    # The worker gets to know after the supervisor, and opens a file when it has a line for it.
    server.until(lambda: server.get("/").status == 200 and (server.directory / "access.log").exists())
    server.get("/fail")
    server.until_file("error.log", "the probe fails on purpose")


def test_usr2_upgrades(changing: OutriderProcess) -> None:
    workers = changing.workers()
    before = changing.log_text().count("replaced in place")
    changing.signal(signal.SIGUSR2)
    changing.until(lambda: changing.log_text().count("replaced in place") > before, 10.0)
    changing.wait_until_settled(2)
    assert changing.workers() == workers


# The control socket


def test_command_without_supervisor_says_so(service: OutriderProcess) -> None:
    output = service.command("status", name="nobody").check(3)
    assert output.count("\n") == 1
    assert "no supervisor named nobody runs here" in output


def test_command_finds_the_only_supervisor(service: OutriderProcess) -> None:
    assert service.name in service.command("status", name="").check()


def test_command_names_the_supervisors_to_choose_from(service: OutriderProcess, supervise: Supervise) -> None:
    run = {"RUNTIME_DIRECTORY": str(service.runtime_directory)}
    other = supervise("--name", "other", env=run, workers=0)
    other.until_log("1 of 1 worker ready", 20.0)
    output = service.command("status", name="").check(3)
    assert f"choose one with --name (other, {service.name})" in output


def test_second_supervisor_of_a_name_is_refused(service: OutriderProcess, supervise: Supervise) -> None:
    second = supervise(env={"RUNTIME_DIRECTORY": str(service.runtime_directory)}, workers=0)
    assert second.wait() == 1
    second.until_log(f"another supervisor named {service.name} is running \\(pid {service.pid}\\)")


@contextlib.contextmanager
def listener_at(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield sock


def test_command_at_a_stale_socket_says_so(service: OutriderProcess) -> None:
    with listener_at(service.runtime_directory / "dead.sock"):
        pass
    output = service.command("status", name="dead").check(3)
    assert output.count("\n") == 1
    assert "no supervisor named dead runs any more" in output


def test_command_at_a_foreign_socket_says_so(service: OutriderProcess, supervise: Supervise) -> None:
    # An HTTP server, but no supervisor.
    foreign = f"{service.runtime_directory}/foreign.sock"
    other = supervise("--bind", f"unix:{foreign}", config="umask = 0o177")
    assert fetch(foreign, "/").status == 200
    output = service.command("status", name="foreign").check(3)
    assert output.count("\n") == 1
    assert "not a supervisor" in output
    assert other.status()["state"] == "serving"


def test_supervisor_refuses_a_runtime_directory_that_others_may_write_to(supervise: Supervise, tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o777)
    server = supervise(env={"RUNTIME_DIRECTORY": str(public)}, workers=0)
    assert server.wait() == 1
    (line,) = server.log_text().splitlines()
    assert str(public) in line


def test_supervisor_is_found_in_the_users_runtime_directory(supervise: Supervise, tmp_path: Path) -> None:
    private = tmp_path / "run"
    private.mkdir(mode=0o700)
    server = supervise(env={"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": str(private)}, workers=0)
    server.until((private / "outrider" / f"{server.name}.sock").exists, 10.0)
    server.until_log("1 of 1 worker ready", 20.0)
    assert "serving" in server.command("status").check()


# What it is started with


@pytest.mark.parametrize(
    "options, setting", [(("--daemon",), "daemon"), (("--reuse-port",), "reuse_port")], ids=["daemon", "reuse_port"]
)
def test_setting_that_supervisor_cannot_honour_is_refused(
    supervise: Supervise, options: tuple[str, ...], setting: str
) -> None:
    server = supervise(*options, workers=0)
    assert server.wait() == 1
    (line,) = server.log_text().splitlines()
    assert setting in line


def test_first_generation_that_does_not_boot_ends_the_supervisor(supervise: Supervise) -> None:
    server = supervise(workers=0, files={"app.py": "import no_such_module\n"})
    assert server.wait() == 3
    assert "No module named 'no_such_module'" in server.log_text()


def test_other_worker_class_counts_as_ready_when_it_has_booted(supervise: Supervise) -> None:
    server = supervise(
        "--worker-class", "gthread", NO_CANARY, app="outrider_testing.apps.broken:wsgi", env={"PROBE_DIRECTORY": "."}
    )
    assert "reports no state" in server.log_text()
    assert server.get("/").status == 200
    before = server.workers()
    server.reload().check()
    server.wait_until_settled(1, generation=2)
    assert server.workers() != before


def test_check_imports_the_application_and_starts_nothing(service: OutriderProcess) -> None:
    before = session_members(service.pid)
    check = ("check", "app:app", "--pythonpath", str(SUPPORT))
    assert "app:app" in service.command(*check).check()
    releases.deploy(service.directory, "import no_such_module\n")
    assert "No module named 'no_such_module'" in service.command(*check).check(1)
    assert session_members(service.pid) == before
