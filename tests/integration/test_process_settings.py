"""gunicorn's settings for the process and its logs keep their meaning under this worker."""

from __future__ import annotations

import os
import pwd
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing.gunicorn_process import PROBE, parse_listener
from outrider_testing.launchers import WITHOUT_SETUID
from outrider_testing.serving import Serve, serving

NOBODY = pwd.getpwnam("nobody")

EVENT_LOGGER = """
import os

from gunicorn.glogging import Logger


class EventLogger(Logger):
    def access(self, resp, req, environ, request_time):
        request = f"{environ['REQUEST_METHOD']} {environ['RAW_URI']}"
        line = f"{request} {resp.status} {resp.sent} {request_time.total_seconds():.3f}"
        with open(os.environ["PROBE_DIRECTORY"] + "/custom.log", "a") as log:
            print(line, file=log)
"""


# Logs


def test_access_log_has_requested_format(serve: Serve) -> None:
    atoms = "%(h)s|%(r)s|%(m)s|%(U)s|%(q)s|%(H)s|%(s)s|%(B)s|%(f)s|%(a)s|%({x-given}i)s|%({content-type}o)s|%(p)s"
    server = serve(PROBE, "--access-logfile", "access.log", "--access-logformat", atoms)
    (worker,) = server.workers()
    fields = [("X-Given", "one"), ("User-Agent", "test/1"), ("Referer", "http://r/")]
    with server.connect() as connection:
        size = len(connection.request("GET", "/pid?a=b", fields=fields).body)
    line = server.until_file("access.log", "^.*/pid.*$")[0]
    request = "GET /pid?a=b HTTP/1.1|GET|/pid|a=b|HTTP/1.1"
    assert line == f"127.0.0.1|{request}|200|{size}|http://r/|test/1|one|text/plain|<{worker}>"


def test_access_log_to_stdout_has_a_line_per_request(serve: Serve) -> None:
    server = serve(PROBE, "--access-logfile", "-")
    with server.connect() as connection:
        for number in range(3):
            connection.request("GET", f"/missing?{number}")
    for number in range(3):
        server.until_log(rf'"GET /missing\?{number} HTTP/1.1" 404 9 ')


def test_error_log_shows_traceback_of_application(serve: Serve) -> None:
    server = serve()
    assert server.get("/fail").status == 500
    server.until_log(r"RuntimeError: the probe fails on purpose")
    assert "Traceback" in server.log_text()


def test_capture_output_sends_prints_to_error_log(serve: Serve) -> None:
    server = serve(PROBE, "--capture-output", "--error-logfile", "error.log", workers=0)
    listening = server.until_file("error.log", r"Listening at: (\S+)")
    server.address = parse_listener(listening[1])
    server.until_file("error.log", "Booting worker")
    assert server.get("/say?text=printed").body == b"said"
    server.until_file("error.log", "^printed$")
    assert "printed" not in server.log_text()


def test_logger_class_gets_each_request(serve: Serve) -> None:
    server = serve(
        PROBE,
        "--logger-class",
        "event_logger.EventLogger",
        "--access-logfile",
        "-",
        files={"event_logger.py": EVENT_LOGGER},
    )
    assert server.get("/echo?x=1", body=b"twelve bytes").status == 200
    line = server.until_file("custom.log", "^.*/echo.*$")[0]
    assert re.fullmatch(r"POST /echo\?x=1 200( OK)? 12 0\.\d{3}", line)


def test_log_configuration_dictionary_is_honoured(serve: Serve) -> None:
    config = """
logconfig_dict = {
    "version": 1,
    "formatters": {"plain": {"format": "configured %(name)s %(message)s"}},
    "handlers": {
        "file": {"class": "logging.FileHandler", "filename": "dict.log", "formatter": "plain"},
        "console": {"class": "logging.StreamHandler"},
    },
    "root": {"level": "INFO", "handlers": []},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["file", "console"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["file"], "propagate": False},
    },
}
errorlog = "-"
"""
    server = serve(config=config)
    server.get("/missing")
    server.until_file("dict.log", r"configured gunicorn.access .*GET /missing")


def test_statsd_server_hears_of_requests(serve: Serve) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(5.0)
        server = serve(PROBE, "--statsd-host", f"127.0.0.1:{statsd.getsockname()[1]}", "--statsd-prefix", "probe")
        server.get("/missing")
        seen = ""
        while not all(
            metric in seen for metric in ("probe.gunicorn.requests:1|c", "request.status.404:1|c", "request.duration:")
        ):
            seen += statsd.recv(4096).decode() + "\n"


# The process


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that another user can reach, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="outrider-") as name:
        directory = Path(name)
        directory.chmod(0o777)
        mask = os.umask(0)
        yield directory
        os.umask(mask)


def test_worker_runs_as_configured_user_or_refuses(public_directory: Path) -> None:
    """Root's workers change their user; anybody else's refuse to start rather than serve as they are."""
    options = ("--user", str(NOBODY.pw_uid), "--group", str(NOBODY.pw_gid), "--preload")
    with serving(public_directory) as serve:
        if os.getuid() != 0:
            assert serve(PROBE, *options, workers=0).wait() != 0
            return
        # Nobody may be unable to read the interpreter's library; gunicorn's random.seed() imports this late.
        answer = serve(PROBE, *options, config="import hashlib\n").get("/identity").json()
        assert (answer["uid"], answer["gid"]) == (NOBODY.pw_uid, NOBODY.pw_gid)


def test_worker_without_right_to_change_user_refuses_in_one_line(serve: Serve) -> None:
    server = serve(PROBE, "--user", str(NOBODY.pw_uid), workers=0, launcher=WITHOUT_SETUID)
    assert server.wait() != 0
    log = server.log_text()
    assert str(NOBODY.pw_uid) in log
    assert "Traceback" not in log


@pytest.mark.parametrize("umask, mode", [("0o117", 0o660), ("0o077", 0o700)])
def test_umask_shapes_unix_socket(serve: Serve, umask: str, mode: int) -> None:
    server = serve(PROBE, "--bind", "unix:server.sock", "--umask", umask, workers=0)
    path = server.directory / "server.sock"
    server.address = str(path)
    server.wait_until_ready()
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_environment_and_directory_reach_application(serve: Serve) -> None:
    source = """
import os
from outrider_testing.apps.probe import make
app = make(os.environ["GREETING"] + " in " + os.path.basename(os.getcwd()))
"""
    server = serve("here:app", "--chdir", "inner", "--env", "GREETING=hello", files={"inner/here.py": source})
    assert server.get("/").body == b"hello in inner"


def test_root_path_reaches_application(serve: Serve) -> None:
    server = serve(config="root_path = '/mounted'\n")
    assert server.get("/identity").json()["root_path"] == "/mounted"


def test_threads_size_default_executor(serve: Serve) -> None:
    server = serve(PROBE, "--threads", "7")
    assert server.get("/threads").body == b"7"
