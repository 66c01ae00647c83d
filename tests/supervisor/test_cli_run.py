"""`outrider run` and `outrider check`, which know gunicorn's options: usage, refusals, exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outrider_supervisor import cli


def run_outrider(directory: Path, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "outrider_supervisor.cli", *argv],
        cwd=directory,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_run_shows_all_options_with_one_section_of_outrider(tmp_path: Path) -> None:
    done = run_outrider(tmp_path, "run", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: outrider run ")
    assert done.stdout.count("\nOutrider:\n") == 1
    for flag in ("--bind", "--worker-class", "--header-timeout", "--max-surge", "--no-canary"):
        assert f" {flag}" in done.stdout


def test_check_says_what_would_run(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("print('importing')\nasync def app(scope, receive, send): ...\n")
    (tmp_path / "gunicorn.conf.py").write_text("bind = ['[::1]:8001', 'unix:/run/x.sock']\nworkres = 9\n")
    done = run_outrider(tmp_path, "check", "-w", "4", "app:app")
    assert (done.returncode, done.stdout) == (0, "ok: app:app, 4 workers, [::1]:8001, unix:/run/x.sock\n")
    assert "importing\n" in done.stderr
    assert "note: " in done.stderr
    assert "did you mean workers?" in done.stderr


@pytest.mark.parametrize(
    "code,complaint",
    [
        ("raise KeyError('boom')", "KeyError: 'boom'"),
        ("import os; os._exit(0)", "ended the process that imported it (os._exit)"),
        ("import os; os.kill(os.getpid(), 9)", "ended the process that imported it (signal 9)"),
    ],
)
def test_check_fails_with_the_reason(tmp_path: Path, code: str, complaint: str) -> None:
    (tmp_path / "app.py").write_text(code)
    done = run_outrider(tmp_path, "check", "app:app")
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr


def test_streams_that_the_caller_has_closed_are_open_for_children_too(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import os, pathlib\n"
        "pathlib.Path('streams').write_text(' '.join(os.readlink(f'/proc/self/fd/{each}') for each in (0, 2)))\n"
        "async def app(scope, receive, send): ...\n"
    )
    closed = 'exec "$@" <&- >&- 2>&-'
    command = [sys.executable, "-m", "outrider_supervisor.cli", "check", "app:app"]
    done = subprocess.run(["sh", "-c", closed, "sh", *command], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert (tmp_path / "streams").read_text() == "/dev/null /dev/null"


@pytest.mark.parametrize("argv", [["check", "app:app"], ["check", "--help"], ["run", "app:app"], ["run", "--help"]])
def test_removed_directory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    directory = tmp_path / "release"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("PWD", str(directory))
    directory.rmdir()
    assert cli.main(argv) == 1
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors == (
        "outrider: the working directory does not exist any more (No such file or directory); "
        "change to one that does and try again\n"
    )


@pytest.mark.parametrize(
    "argv,complaint",
    [
        ("--nosuch", "unrecognized arguments: --nosuch."),
        ("--limit-re 3", "ambiguous option: --limit-re could match"),
        ("-w many", "invalid int value: 'many'"),
        ("--header-timeout soon", "header_timeout is 'soon' (the command line)"),
        ("--name a/b", "a slash, a leading dot and control characters are not allowed"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_wrong_option_is_a_usage_error(tmp_path: Path, command: str, argv: str, complaint: str) -> None:
    (tmp_path / "app.py").write_text("async def app(scope, receive, send): ...\n")
    done = run_outrider(tmp_path, command, *argv.split(), "app:app", RUNTIME_DIRECTORY=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("outrider: ")
    assert complaint in done.stderr


@pytest.mark.parametrize("command", ["run", "check"])
def test_wrong_setting_in_the_file_is_no_usage_error(tmp_path: Path, command: str) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("header_timeout = 'soon'\n")
    done = run_outrider(tmp_path, command, "-w", "2", "app:app", RUNTIME_DIRECTORY=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("outrider: header_timeout is 'soon'")


def test_wrong_option_beside_help_is_a_usage_error(tmp_path: Path) -> None:
    done = run_outrider(tmp_path, "run", "-w", "many", "--help")
    assert done.returncode == 2
    assert done.stderr.startswith("outrider: argument -w/--workers: invalid int value: 'many'")
