"""deploy/rolling-reload by itself, with a script in the place of ssh; test_many_machines.py has real services."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from outrider_testing.documented import REPOSITORY
from outrider_testing.programs import check_programs

SCRIPT = REPOSITORY / "deploy/rolling-reload"
# It says what it was given, and fails on hosts whose name is a number: with that.
RUNNER = '#!/bin/sh\necho "runs on $1: $2"\ncase $1 in [0-9]*) exit "$1" ;; esac\n'


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    path = tmp_path / "runner"
    path.write_text(RUNNER)
    path.chmod(0o755)
    return path


def run(runner: Path | str, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "RUNNER": str(runner)}
    return subprocess.run([SCRIPT, *words], env=environ, capture_output=True, text=True, check=False, timeout=10)


def test_hosts_are_reloaded_in_order(runner: Path) -> None:
    done = run(runner, "one", "two")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "== one",
        "runs on one: outrider reload",
        "== two",
        "runs on two: outrider reload",
        "rolling-reload: all hosts serve the new release: one two",
    ]


def test_first_host_that_fails_is_the_last_one_touched(runner: Path) -> None:
    done = run(runner, "one", "3", "two", "three")
    assert done.returncode == 3
    assert done.stdout.splitlines()[-1] == "runs on 3: outrider reload"
    assert done.stderr.splitlines() == [
        "rolling-reload: stopped, 3 failed with exit status 3",
        "  new release: one",
        "  failed:      3, which serves what it says above",
        "  old release: two three",
    ]


def test_only_host_that_fails_leaves_nobody_to_name(runner: Path) -> None:
    assert run(runner, "255").stderr.splitlines()[1:] == [
        "  new release: none",
        "  failed:      255, which serves what it says above",
        "  old release: none",
    ]


def test_command_reaches_the_host_as_one_word(runner: Path) -> None:
    done = run(runner, "-c", "sh '/srv/my shop/deploy.sh' 2", "one")
    assert "runs on one: sh '/srv/my shop/deploy.sh' 2" in done.stdout


def test_runner_may_have_options(runner: Path) -> None:
    assert "runs on first: one" in run(f"{runner} first", "one").stdout


@pytest.mark.parametrize("words", [(), ("-c", "true"), ("-x", "one"), ("-c",)])
def test_wrong_command_line_touches_nothing(runner: Path, words: tuple[str, ...]) -> None:
    done = run(runner, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: rolling-reload [-c COMMAND] HOST..." in done.stderr


@pytest.mark.external
def test_shellcheck_finds_nothing() -> None:
    check_programs({"shellcheck": "shellcheck"})
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
