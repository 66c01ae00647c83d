"""Logs of real servers: as JSON, and where nobody reads them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from outrider_testing import releases
from outrider_testing.documented import REPOSITORY
from outrider_testing.gunicorn_process import PROBE, parse_listener
from outrider_testing.http_client import HTTPConnection, encode_request
from outrider_testing.launchers import WITH_JOURNAL
from outrider_testing.outrider_process import MODULE
from outrider_testing.server_process import ServerProcess
from outrider_testing.serving import Serve, Supervise
from outrider_testing.waiting import until

FILLING = bytes(4096)
KILLS = 3


def fill(descriptor: int) -> int:
    """Write to a pipe until there is no room; how many bytes that took."""
    os.set_blocking(descriptor, False)
    size = 0
    with suppress(BlockingIOError):
        while True:
            size += os.write(descriptor, FILLING)
    os.set_blocking(descriptor, True)
    return size


class FIFO:
    """A FIFO that has no room left and that nobody reads."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)
        self.descriptor = os.open(path, os.O_RDWR)
        self.left = fill(self.descriptor)
        self._text = b""

    def has(self, text: str) -> bool:
        """Read what is there. Whether a text has come yet."""
        os.set_blocking(self.descriptor, False)
        with suppress(BlockingIOError):
            while True:
                data = os.read(self.descriptor, 65536)
                self._text += data[self.left :]
                self.left = max(0, self.left - len(data))
        return text.encode() in self._text


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[FIFO]:
    fifo = FIFO(tmp_path / "fifo")
    yield fifo
    os.close(fifo.descriptor)


def test_access_log_that_nobody_reads_holds_up_no_request(serve: Serve, fifo: FIFO) -> None:
    server = serve(PROBE, "--access-logfile", fifo.path)
    with server.connect() as connection:
        for _ in range(50):
            assert connection.request("GET", "/pid").status == 200
    until(lambda: fifo.has('"GET /pid HTTP/1.1" 200'))


def test_worker_ends_though_nobody_reads_its_log(serve: Serve, fifo: FIFO) -> None:
    server = serve(PROBE, "--access-logfile", fifo.path)
    assert server.get("/").status == 200
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "was sent SIGKILL" not in server.log_text()


def test_last_words_reach_the_error_log_though_the_access_log_hangs(serve: Serve, fifo: FIFO) -> None:
    server = serve(PROBE, "--access-logfile", fifo.path, "--timeout", "2", env={"OUTRIDER_STALL_WARNING": "0"})

    def are_in_time() -> bool:
        logged = len(server.log_text())
        server.get("/")
        (worker,) = server.workers()
        with server.connect(timeout=15.0) as connection:
            connection.send(encode_request("GET", "/block?seconds=30"))
            server.wait_until_gone(worker)
        log = server.log_text()[logged:]
        return "hold_loop_in_system_call" in log[: log.index("WORKER TIMEOUT")]

    # For a worker that gets no processor meanwhile, the master does not wait.
    assert any(are_in_time() for _ in range(KILLS))


def test_supervisor_obeys_though_nobody_reads_its_log(supervise: Supervise) -> None:
    reader, writer = os.pipe()
    launcher = ("sh", "-c", f'exec "$@" 2>/proc/self/fd/{writer}', "sh")
    server = supervise(launcher=launcher, pass_fds=(writer,))
    fill(writer)
    server.signal(signal.SIGUSR1)
    server.until(lambda: any("log files reopened" in event["text"] for event in server.status()["events"]))
    assert server.get("/").status == 200
    # Its master is gunicorn's, and would wait for a reader until the kernel ends it.
    os.close(reader)
    server.command("stop").check()
    assert server.wait() == 0
    os.close(writer)


# -- JSON


def objects_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_both_logs_of_gunicorn_are_json(serve: Serve) -> None:
    files = ("--access-logfile", "access.log", "--error-logfile", "error.log")
    server = serve(PROBE, *files, workers=0, env={"OUTRIDER_LOG_FORMAT": "json"})
    server.address = parse_listener(server.until_file("error.log", r"Listening at: (\S+)")[1])
    server.until_file("error.log", "Booting worker")
    server.until(lambda: server.get("/fail").status == 500)
    server.until_file("access.log", "/fail")
    server.until_file("error.log", "the probe fails on purpose")
    request = objects_in((server.directory / "access.log").read_text())[-1]
    assert (request["method"], request["path"], request["status"]) == ("GET", "/fail", 500)
    assert 0 < request["duration"] < 60
    # gunicorn's master begins before it knows our worker class.
    events = [line for line in (server.directory / "error.log").read_text().splitlines() if line.startswith("{")]
    failure = next(each for each in objects_in("\n".join(events)) if "exception" in each)
    assert (failure["level"], failure["pid"]) == ("ERROR", request["pid"])
    assert "the probe fails on purpose" in failure["exception"]


def test_all_logs_under_the_supervisor_are_json(supervise: Supervise) -> None:
    server = supervise("--log-format", "json", "--access-logfile", "access.log", "--error-logfile", "error.log")
    server.get("/")
    server.until_file("access.log", '"path":"/"')
    server.reload("--no-canary").check()
    (request, *_) = objects_in((server.directory / "access.log").read_text())
    assert request["generation"] == 1
    events = objects_in((server.directory / "error.log").read_text())
    assert {"outrider.supervisor", "gunicorn.error"} == {event["logger"] for event in events}
    assert {1, 2} == {event["generation"] for event in events if event["logger"] == "gunicorn.error"}


def test_application_logs_as_the_server_does_by_the_line_of_the_page(supervise: Supervise) -> None:
    page = (REPOSITORY / "docs/reference/logging.md").read_text()
    (line,) = re.findall(r"^logging\.basicConfig\(.*\)$", page, re.MULTILINE)
    code = f"{releases.good(1)}\nimport logging\n{line}\nlogging.getLogger('shop').info('imported')\n"
    server = supervise("--log-format", "json", files={"app.py": code})
    server.until_log(r'^{"time":".*","level":"INFO","logger":"shop","pid":\d+,"generation":1,"message":"imported"}$')


def test_server_timing_is_sent(serve: Serve) -> None:
    server = serve(PROBE, env={"OUTRIDER_SERVER_TIMING": "true"})
    with server.connect() as connection:
        assert _has_timing(connection)


def _has_timing(connection: HTTPConnection) -> bool:
    value = connection.request("GET", "/").field("server-timing")
    return re.fullmatch(r"app;dur=\d+\.\d", value) is not None


# In systemd's journal


def journal_lines(server: ServerProcess) -> list[tuple[int, str]]:
    """Each line as journald takes it: its priority, and the text."""
    lines = server.log_text().splitlines()
    matches = [re.fullmatch(r"<([0-7])>(.*)", line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return [(int(match[1]), match[2]) for match in matches if match]


def test_lines_of_all_processes_have_their_priority_in_the_journal(supervise: Supervise) -> None:
    server = supervise("--access-logfile", "-", app=PROBE, launcher=WITH_JOURNAL)
    assert server.get("/pid").status == 200
    assert server.get("/fail").status == 500
    server.until_log("Traceback")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    lines = journal_lines(server)
    assert (6, "generation 1: 1 of 1 worker ready") in lines
    assert any(level == 6 and text.startswith("Booting worker with pid") for level, text in lines)
    assert any(level == 6 and '"GET /pid HTTP/1.1" 200' in text for level, text in lines)
    assert (3, "Traceback (most recent call last):") in lines
    assert not any("[INFO]" in text for _, text in lines)


def test_json_in_the_journal_has_its_priority_in_front(supervise: Supervise) -> None:
    server = supervise("--access-logfile", "-", "--log-format", "json", app=PROBE, launcher=WITH_JOURNAL)
    assert server.get("/fail").status == 500
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    levels = {(level, json.loads(text)["level"]) for level, text in journal_lines(server)}
    assert levels >= {(6, "INFO"), (3, "ERROR")}
    assert levels <= {(6, "INFO"), (3, "ERROR"), (4, "WARNING")}


def test_configuration_that_cannot_be_used_is_an_error_in_the_journal(supervise: Supervise) -> None:
    server = supervise(workers=0, app="nosuch:app", config="bind = 7", launcher=WITH_JOURNAL)
    assert server.wait() == 1
    assert {level for level, _ in journal_lines(server)} == {3}


def test_format_that_was_asked_for_is_that_in_the_journal_too(supervise: Supervise) -> None:
    server = supervise("--log-format", "text", launcher=WITH_JOURNAL)
    server.until_log(r"^\[.* \[INFO\] generation 1: 1 of 1 worker ready$")
    assert "<6>" not in server.log_text()


def test_plain_gunicorn_writes_priorities_once_it_knows_the_worker(serve: Serve) -> None:
    server = serve(PROBE, "--access-logfile", "-", launcher=WITH_JOURNAL)
    assert server.get("/pid").status == 200
    server.until_log('"GET /pid')
    booted = [line for line in server.log_text().splitlines() if "Booting worker" in line or "GET /pid" in line]
    assert len(booted) == 2
    assert all(line.startswith("<6>") for line in booted)


def test_command_that_fails_says_so_as_an_error_in_the_journal(tmp_path: Path) -> None:
    environ = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)}
    command = [*WITH_JOURNAL, sys.executable, "-m", MODULE, "reload", "--name", "absent"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("<3>outrider: no supervisor named absent runs here")
