"""WEB_CONCURRENCY=auto: as many workers as there are cores to run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor.cgroup import ControlGroup
from outrider_supervisor.web_concurrency import resolve

MANY = frozenset(range(64))


def group(root: Path, quota: str) -> ControlGroup:
    """Limits of version 2 that a container sees: its own group is the root."""
    (root / "cgroup.controllers").write_text("cpu memory\n")
    (root / "cpu.max").write_text(f"{quota}\n")
    (root / "memory.max").write_text(f"{1 << 20}\n")  # far too little for one worker
    (root / "membership").write_text("0::/\n")
    return ControlGroup(root, root / "membership")


def pretend_affinity(monkeypatch: pytest.MonkeyPatch, cores: frozenset[int]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: cores)


@pytest.mark.parametrize(
    "quota,cores,workers",
    [
        ("400000 100000", MANY, "4"),
        ("250000 100000", MANY, "2"),
        ("50000 100000", MANY, "1"),
        ("max 100000", frozenset({2, 3, 7}), "3"),
        ("800000 100000", frozenset({5}), "1"),
    ],
)
def test_auto_is_a_worker_for_each_whole_core(
    quota: str, cores: frozenset[int], workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_affinity(monkeypatch, cores)
    assert resolve({"WEB_CONCURRENCY": "auto"}, group(tmp_path, quota)) == {"WEB_CONCURRENCY": workers}


def test_auto_follows_a_limit_that_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_affinity(monkeypatch, MANY)
    limits = group(tmp_path, "200000 100000")
    assert resolve({"WEB_CONCURRENCY": "auto"}, limits) == {"WEB_CONCURRENCY": "2"}
    (tmp_path / "cpu.max").write_text("600000 100000\n")
    assert resolve({"WEB_CONCURRENCY": "auto"}, limits) == {"WEB_CONCURRENCY": "6"}


@pytest.mark.parametrize("environ", [{}, {"WEB_CONCURRENCY": "3"}, {"WEB_CONCURRENCY": "-1"}])
def test_number_is_left_to_gunicorn(environ: dict[str, str], tmp_path: Path) -> None:
    assert resolve(environ, group(tmp_path, "max 100000")) == environ


@pytest.mark.parametrize("given", ["", "many", "2.5", "AUTO"])
def test_anything_else_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"WEB_CONCURRENCY is '{given}'.*a whole number from 1, or auto"):
        resolve({"WEB_CONCURRENCY": given}, group(tmp_path, "max 100000"))


# The command


def outrider(directory: Path, *words: str, concurrency: str = "auto") -> subprocess.CompletedProcess[str]:
    (directory / "app.py").write_text("async def app(scope, receive, send): ...\n")
    first = min(os.sched_getaffinity(0))
    return subprocess.run(
        ["taskset", "--cpu-list", str(first), sys.executable, "-m", "outrider_supervisor.cli", *words],
        cwd=directory,
        env=os.environ | {"WEB_CONCURRENCY": concurrency},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("options,workers", [((), "1 worker"), (("-w", "3"), "3 workers")])
def test_check_counts_cores_unless_told(options: tuple[str, ...], workers: str, tmp_path: Path) -> None:
    done = outrider(tmp_path, "check", *options, "app:app")
    assert (done.returncode, done.stdout) == (0, f"ok: app:app, {workers}, 127.0.0.1:8000\n"), done.stderr


def test_configuration_file_counts_more(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("import os\nworkers = 1 + int(os.environ['WEB_CONCURRENCY'])\n")
    assert "2 workers" in outrider(tmp_path, "check", "app:app").stdout


def test_help_is_shown(tmp_path: Path) -> None:
    done = outrider(tmp_path, "run", "--help")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["run", "check"])
def test_nonsense_is_one_line(command: str, tmp_path: Path) -> None:
    done = outrider(tmp_path, command, "app:app", concurrency="many")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "outrider: WEB_CONCURRENCY is 'many' (environment variable), but must be a whole number from 1, or auto: "
        "a worker for each core that may be used\n"
    )
