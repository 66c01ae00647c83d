"""The commands of docs/how-to/containers.md: one belongs to tests/deploy/test_containers.py, or stands in its table."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from outrider_supervisor.master import END_MARGIN
from outrider_supervisor.pool import DRAIN_MARGIN
from outrider_testing.documented import REPOSITORY, Command, commands

PAGE = "docs/how-to/containers.md"
RUN_BY_CRUN = "docker exec shop "


def in_table() -> list[str]:
    """The commands of the table, by how they begin."""
    _, table = (REPOSITORY / PAGE).read_text().split("| Command | What was checked instead |")
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return [each for row in rows for each in re.findall(r"`([^`]+)`", row)]


def options(command: Command) -> dict[str, list[str]]:
    """The options of `docker run`, each of which is written out, and their values."""
    found: dict[str, list[str]] = {}
    *words, image = shlex.split(command.text.replace("\\\n", " "))[2:]
    assert image == "shop"
    name = ""
    for word in words:
        name = word if word.startswith("--") else name
        found.setdefault(name, []).extend([word] if word != name else [])
    return found


def runs() -> list[Command]:
    return [each for each in commands(PAGE) if each.text.startswith("docker run")]


def test_every_command_is_run_or_stands_in_the_table() -> None:
    for command in commands(PAGE):
        assert len([each for each in [RUN_BY_CRUN, *in_table()] if command.text.startswith(each)]) == 1, str(command)


def test_table_has_no_other_commands() -> None:
    texts = [each.text for each in commands(PAGE)]
    assert [each for each in in_table() if not any(text.startswith(each) for text in texts)] == []


def test_files_that_commands_name_are_there() -> None:
    named = {name for each in commands(PAGE) for name in re.findall(r"compose\.\w+\.yaml", each.text)}
    assert named
    assert [name for name in named if not (REPOSITORY / "deploy/compose" / name).exists()] == []


@pytest.mark.parametrize("command", runs(), ids=lambda each: str(each.line))
def test_container_is_run_as_compose_runs_it(command: Command) -> None:
    shop = yaml.safe_load((REPOSITORY / "deploy/compose/shop.yaml").read_text())["services"]["shop"]
    limits = shop["deploy"]["resources"]["limits"]
    given = options(command)
    assert (given["--read-only"], given["--tmpfs"], given["--cap-drop"]) == ([], shop["tmpfs"], shop["cap_drop"])
    assert [f"{each}:true" for each in given["--security-opt"]] == shop["security_opt"]
    assert given["--stop-timeout"] == [shop["stop_grace_period"].removesuffix("s")]
    assert (given["--cpus"], given["--memory"]) == ([limits["cpus"]], [limits["memory"].lower()])
    assert given["--pids-limit"] == [str(limits["pids"])]
    assert given["--publish"] == ["127.0.0.1:8000:8000"], "others go through a proxy"


def test_time_to_stop_is_that_of_the_settings() -> None:
    settings: dict[str, float] = {}
    exec((REPOSITORY / "deploy/docker/gunicorn.conf.py").read_text(), settings)  # noqa: S102  # it is ours
    for command in runs():
        (timeout,) = options(command)["--stop-timeout"]
        assert float(timeout) >= settings["graceful_timeout"] + DRAIN_MARGIN + END_MARGIN
