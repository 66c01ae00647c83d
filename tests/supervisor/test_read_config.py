"""The child that reads the configuration for the supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from outrider_supervisor.read_config import explain
from outrider_supervisor.service import Service, ServiceRefused

APP = "async def app(scope, receive, send): ...\ndef wsgi(environ, start_response): ...\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a working directory with an application in it."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def read(directory: Path, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "outrider_supervisor.read_config", *argv],
        cwd=directory,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def read_service(directory: Path, *argv: str, **environ: str) -> Service:
    done = read(directory, *argv, **environ)
    assert done.returncode == 0, done.stderr
    return Service.from_json(done.stdout)


def read_complaint(directory: Path, *argv: str, **environ: str) -> str:
    """What the supervisor is told, or with --import the user."""
    done = read(directory, *argv, **environ)
    assert done.returncode == 1
    if "--import" in argv:
        assert done.stdout == ""
        return done.stderr
    assert done.stderr == ""
    return f"{ServiceRefused.from_json(done.stdout)}\n"


def test_reader_writes_the_service(directory: Path) -> None:
    service = read_service(directory, "app:app", WEB_CONCURRENCY="1")
    assert service == Service(
        name="app:app",
        application="app:app",
        worker_class="outrider.UvicornWorker",
        reports_state=True,
        addresses=(("127.0.0.1", 8000),),
        backlog=2048,
        umask=0,
        uid=os.geteuid(),
        gid=os.getegid(),
        workers=1,
        graceful_timeout=30,
        boot_timeout=60.0,
        canary=True,
        canary_seconds=5.0,
        canary_requests=20,
        max_surge=1,
        restart_intensity=5,
        max_requests=0,
        max_requests_jitter=0,
        max_worker_age=0.0,
        max_worker_memory=0,
        preload=False,
        directory=str(directory),
        pidfile=None,
        errorlog="-",
        loglevel="info",
    )


def test_reader_takes_file_environment_and_command_line(directory: Path) -> None:
    (directory / "gunicorn.conf.py").write_text(
        "proc_name = 'shop'\nworkers = 2\nbind = ['unix:/run/x', 'localhost:1']\n"
        "max_surge = 2\nmax_worker_memory = '1G'\n"
    )
    arguments = "--max-requests 9 --canary-seconds 3"
    service = read_service(directory, "-w", "3", "--no-canary", "app:app", GUNICORN_CMD_ARGS=arguments)
    assert (service.name, service.workers, service.max_requests) == ("shop", 3, 9)
    assert service.addresses == ("/run/x", ("localhost", 1))
    assert (service.max_surge, service.max_worker_memory) == (2, 1 << 30)
    assert (service.canary, service.canary_seconds) == (False, 3.0)


def test_reader_takes_the_token_from_its_file(directory: Path) -> None:
    (directory / "token").write_text("0123456789abcdef\n")
    service = read_service(directory, "app:app", "--admin-bind", "0.0.0.0:9100", "--admin-token-file", "token")
    assert (service.admin_bind, service.admin_token) == ("0.0.0.0:9100", "0123456789abcdef")
    assert "0123456789abcdef" not in repr(service)


def test_reader_takes_the_log_format_whatever_the_worker_class(directory: Path) -> None:
    assert read_service(directory, "-k", "gthread", "app:app", OUTRIDER_LOG_FORMAT="json").log_format == "json"
    assert read_service(directory, "--log-format", "text", "app:app", OUTRIDER_LOG_FORMAT="json").log_format == "text"


def test_answer_is_not_spoilt_by_what_the_users_code_prints(directory: Path) -> None:
    (directory / "gunicorn.conf.py").write_text("import os\nprint('printed')\nos.write(1, b'written')\n")
    done = read(directory, "app:app")
    assert Service.from_json(done.stdout).application == "app:app"
    assert "printed" in done.stderr
    assert "written" in done.stderr


def test_thread_of_the_application_does_not_hold_the_reader_up(directory: Path) -> None:
    hanging = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    (directory / "app.py").write_text(hanging + APP)
    assert read_service(directory, "--import", "app:app").application == "app:app"


def test_reader_writes_no_log_and_binds_nothing(directory: Path) -> None:
    log = ["--error-logfile", "error.log", "--access-logfile", "access.log", "--capture-output"]
    read_service(directory, *log, "--pid", "pid", "-b", "unix:app.sock", "app:app")
    assert [path.name for path in directory.iterdir() if path.name != "__pycache__"] == ["app.py"]


# -- refusals


@pytest.mark.parametrize(
    "argv,complaint",
    [
        ("--daemon", "daemon is True, but must be False: Outrider runs in the foreground; use systemd"),
        ("--reuse-port", "reuse_port is True, but must be False: the supervisor owns one listener per address"),
        ("--check-config", "check_config is True, but must be False: use `outrider check`"),
        ("--print-config", "print_config is True, but must be False: use `gunicorn --print-config`"),
        ("-w 0", "workers is 0, but must be 1 or more"),
        ("-w 2 --max-workers 1", "workers is 2, but must be between min_workers and max_workers: 1 to 1"),
        ("--max-surge 0", "max_surge is '0' (the command line), but must be a whole number"),
        ("--certfile /nowhere.pem", "certfile '/nowhere.pem' can't be read"),
        ("--header-map dangerous --http-parser python", "http_parser is 'python', but outrider.UvicornWorker allows"),
        ("--access-logformat %(x", "access_log_format is '%(x', but must be"),
        ("--error-logfile /nowhere/log", "errorlog is '/nowhere/log', which this user may not write"),
        ("--log-config /nowhere.ini", "logconfig is '/nowhere.ini', but there is no such file"),
        ("-k nowhere.Worker", "worker_class is 'nowhere.Worker', which can't be loaded: ModuleNotFoundError"),
        ("-k nowhere.Worker", "No module named 'nowhere'; for an ASGI application use outrider.UvicornWorker"),
        ("-k app.app", "worker_class is 'app.app', which is no class; for an ASGI application use outrider.Uv"),
        ("-e SECRET", "raw_env (--env): environment setting 'SECRET' invalid, but must be NAME=value"),
        ("-e OUTRIDER_MAX_SURGE=2", "the environment variable OUTRIDER_MAX_SURGE is not read: give max_surge in"),
        ("-e OUTRIDER_HEADERTIMEOUT=2", "OUTRIDER_HEADERTIMEOUT is no setting of Outrider; did you mean"),
        ("--unheard-of", "unrecognized arguments: --unheard-of"),
    ],
)
def test_reader_refuses_in_one_line(directory: Path, argv: str, complaint: str) -> None:
    text = read_complaint(directory, *argv.split(), "app:app")
    assert complaint in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize(
    "option, complaint",
    [
        ("--error-logfile", "errorlog is 'odd', but must be a regular file, a character device or '-'\n"),
        ("--pid", "pidfile odd is no regular file; remove it, or choose another pidfile\n"),
    ],
)
def test_reader_refuses_what_would_keep_the_supervisor_waiting(
    directory: Path, make: Callable[[Path], None], option: str, complaint: str
) -> None:
    make(directory / "odd")
    assert read_complaint(directory, option, "odd", "app:app") == complaint


@pytest.mark.parametrize("log", ["/dev/stderr", "/dev/null", "error.log"])
def test_reader_takes_devices_and_what_is_open_already_as_a_log(directory: Path, log: str) -> None:
    assert read_service(directory, "--error-logfile", log, "app:app").errorlog == log  # its stderr is a pipe


def test_reader_takes_the_pidfile_of_the_last_run(directory: Path) -> None:
    (directory / "pid").write_text("1\n")
    assert read_service(directory, "--pid", "pid", "app:app").pidfile == "pid"


def test_reader_refuses_to_do_without_an_application(directory: Path) -> None:
    assert read_complaint(directory).startswith("no application was given")


def test_error_in_the_configuration_file_comes_with_its_traceback(directory: Path) -> None:
    (directory / "gunicorn.conf.py").write_text("workers = 2\nworkers / 0\n")
    refusal = ServiceRefused.from_json(read(directory, "app:app").stdout)
    assert refusal.reason.endswith("gunicorn.conf.py, line 2: ZeroDivisionError: division by zero")
    assert refusal.details.startswith("Traceback")
    assert refusal.details.count("  File ") == 1


def test_error_in_the_worker_class_comes_with_its_traceback(directory: Path) -> None:
    (directory / "own.py").write_text("import sys\nsys.nothing\n")
    text = read_complaint(directory, "-k", "own.Worker", "app:app")
    assert text.startswith("worker_class is 'own.Worker', which can't be loaded: AttributeError: module 'sys'")
    assert text.count("  File ") == 1


# -- notes


def test_foreign_worker_class_is_noted(directory: Path) -> None:
    service = read_service(directory, "--import", "-k", "gthread", "app:wsgi")
    assert not service.reports_state
    (note,) = service.notes
    assert note == (
        "worker_class is 'gthread', which reports no state: its workers count as ready when they have booted; "
        "for an ASGI application use outrider.UvicornWorker"
    )


def test_subclass_of_our_worker_reports_its_state(directory: Path) -> None:
    (directory / "own.py").write_text("from outrider import UvicornWorker\nclass Worker(UvicornWorker): ...\n")
    service = read_service(directory, "-k", "own.Worker", "app:app")
    assert service.reports_state
    assert service.notes == ()


def test_what_has_no_effect_is_noted(directory: Path) -> None:
    (directory / "gunicorn.conf.py").write_text(
        "workres = 2\nloglevel = 'trace'\nreload = preload_app = True\ncontrol_socket = '/run/x.ctl'\n"
        "def pre_exec(server): ...\n"
    )
    notes = read_service(directory, "app:app").notes
    assert "did you mean workers?" in notes[0]
    assert [note.partition(" has no effect")[0] for note in notes[1:]] == [
        "control_socket",
        "pre_exec",
        "loglevel is 'trace' and counts as 'info'; there are: critical, error, warning, info, debug",
        "reload",
    ]


# -- the application


@pytest.mark.parametrize(
    "uri,complaint",
    [
        ("nowhere:app", "can't import the application 'nowhere:app': No module named 'nowhere'. Check the name,"),
        (
            "app:nothing",
            "can't import the application 'app:nothing': Failed to find attribute 'nothing' in 'app'. Name it MODULE",
        ),
        ("app:wsgi", "'app:wsgi' looks like a WSGI application, not ASGI"),
    ],
)
def test_wrong_name_of_an_application_is_one_line(directory: Path, uri: str, complaint: str) -> None:
    text = read_complaint(directory, "--import", uri)
    assert text.startswith(f"outrider: {complaint}")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    "code,summary,files",
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'", 1),
        ("def f(): 1 / 0\nf()", "ZeroDivisionError: division by zero", 2),
        ("x = (", "SyntaxError: '(' was never closed", 1),
        ("import sys; sys.exit(5)", "SystemExit: 5", 1),
    ],
)
def test_application_that_raises_is_shown_with_its_own_frames(
    directory: Path, code: str, summary: str, files: int
) -> None:
    (directory / "app.py").write_text(code)
    text = read_complaint(directory, "--import", "app:app")
    assert text.startswith(f"outrider: importing the application raised {summary}\n")
    assert text.rstrip().endswith(summary)
    assert text.count("  File ") == files


def test_application_is_found_by_pythonpath_and_made_by_a_factory(directory: Path) -> None:
    (directory / "lib").mkdir()
    (directory / "lib" / "shop.py").write_text("def make():\n    from app import app\n    return app\n")
    found = read_service(directory, "--import", "--pythonpath", "lib", "--app-factory", "shop:make")
    assert found.application == "shop:make"
    assert "looks like a factory" in read_complaint(directory, "--import", "--pythonpath", "lib", "shop:make")


def test_application_is_left_alone_without_import(directory: Path) -> None:
    (directory / "app.py").write_text("1 / 0")
    assert read_service(directory, "app:app").application == "app:app"


def test_error_of_gunicorn_itself_is_its_sentence() -> None:
    refusal = explain(RuntimeError("environment setting 'x' invalid"), "reading")
    assert (refusal.reason, refusal.details) == ("environment setting 'x' invalid", "")
    assert explain(RuntimeError(), "reading").reason == "RuntimeError()"
