"""What a supervisor is started with, and how the commands find it."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.processes import session_members
from outrider_testing.server_process import SUPPORT
from outrider_testing.serving import Supervise
from outrider_testing.waiting import POLL_INTERVAL

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
    _, _, choice = output.strip().partition("choose one with --name ")
    assert {"other", service.name} <= set(choice.strip("()").split(", "))  # others may run on this machine


def test_second_supervisor_of_a_name_is_refused(service: OutriderProcess, supervise: Supervise) -> None:
    second = supervise(env={"RUNTIME_DIRECTORY": str(service.runtime_directory)}, workers=0)
    assert second.wait() == 1
    second.until_log(f"another supervisor named {service.name} is running \\(pid {service.pid}\\)")


@pytest.fixture
def socket_path(service: OutriderProcess) -> Iterator[Path]:
    """Where the commands would look for a supervisor named other."""
    path = service.runtime_directory / "other.sock"
    yield path
    path.unlink()


def test_command_at_a_stale_socket_says_so(service: OutriderProcess, socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(socket_path))
        sock.listen()
    output = service.command("status", name="other").check(3)
    assert output.count("\n") == 1
    assert "no supervisor named other runs any more" in output


class NotFound(BaseHTTPRequestHandler):
    """An HTTP server, but no supervisor."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """There is nobody to read it."""


def test_command_at_a_foreign_socket_says_so(service: OutriderProcess, socket_path: Path) -> None:
    with socketserver.ThreadingUnixStreamServer(str(socket_path), NotFound) as foreign:
        socket_path.chmod(0o600)
        thread = threading.Thread(target=foreign.serve_forever, args=(POLL_INTERVAL,))
        thread.start()
        output = service.command("status", name="other").check(3)
        foreign.shutdown()
        thread.join()
    assert output.count("\n") == 1
    assert "not a supervisor" in output


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
        "--worker-class",
        "gthread",
        "--no-canary",
        app="outrider_testing.apps.broken:wsgi",
        env={"PROBE_DIRECTORY": "."},
    )
    assert "reports no state" in server.log_text()
    assert server.get("/").status == 200
    before = server.workers()
    server.reload().check()
    server.wait_until_settled(1, generation=2)
    assert server.workers() != before


def test_check_imports_the_application_and_starts_nothing(service: OutriderProcess) -> None:
    before = session_members(service.pid)
    check = ("check", "--pythonpath", str(SUPPORT))
    assert "app:app" in service.command(*check, "app:app").check()
    (service.directory / "broken.py").write_text("import no_such_module\n")
    assert "No module named 'no_such_module'" in service.command(*check, "broken:app").check(1)
    assert session_members(service.pid) == before
