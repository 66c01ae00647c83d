"""deploy/docker/Dockerfile as it is written; tests/deploy/test_containers.py builds it and runs the image."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from outrider_testing.containers import DOCKER
from outrider_testing.documented import REPOSITORY


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text())
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines()) if name.isupper()]


def last(name: str) -> str:
    return [rest for each, rest in instructions() if each == name][-1]


def test_linter_has_nothing_to_say() -> None:
    command = [str(Path(sys.executable).with_name("hadolint")), "Dockerfile"]
    done = subprocess.run(command, cwd=DOCKER, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_process_1_is_outrider_and_not_a_shell() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["outrider", "run"]
    assert json.loads(last("CMD")) == ["shop:app"]
    assert json.loads(last("HEALTHCHECK").partition("CMD ")[2]) == ["outrider", "status", "--ready"]


def test_user_is_a_number_other_than_root() -> None:
    assert re.fullmatch(r"([1-9]\d*):\1", last("USER"))
    made = re.search(r"useradd --uid (\d+) --user-group ", " ".join(rest for _, rest in instructions()))
    assert made is not None
    assert last("USER") == f"{made[1]}:{made[1]}"


def test_image_is_stopped_by_the_signal_that_drains() -> None:
    assert last("STOPSIGNAL") == "SIGTERM"


def test_stages_share_their_python() -> None:
    """An environment is tied to the interpreter that made it."""
    bases = {rest.split(" AS ")[0] for name, rest in instructions() if name == "FROM"}
    assert len(bases) == 1
    (python,) = (rest.partition("=")[2] for name, rest in instructions() if rest.startswith("PYTHON="))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]


def test_what_changes_most_often_is_copied_last() -> None:
    copied = [rest.split()[-2:] for name, rest in instructions() if name == "COPY"]
    order = ["requirements.txt", "LICENSE", "workers", "supervisor", "/opt/venv", "."]
    assert [each[0] for each in copied] == order


def test_extras_are_those_of_the_project() -> None:
    extras = {rest.partition("=")[2] for name, rest in instructions() if rest.startswith("OUTRIDER_EXTRAS=")}
    assert extras <= set(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"])
