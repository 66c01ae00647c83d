"""The commands of docs/how-to/kubernetes.md: each is run here, or stands in its table of what needs a cluster."""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from outrider_supervisor.settings import token
from outrider_testing import kubernetes
from outrider_testing.documented import REPOSITORY, Command, commands
from outrider_testing.programs import run_program
from outrider_testing.shown_output import match

PAGE = "docs/how-to/kubernetes.md"
NEED_NO_CLUSTER = ("kubectl kustomize", "helm template", "(printf ")


def without_namespace(command: str) -> str:
    """A command without the option that people put before its verb."""
    return re.sub(r" --namespace \S+", "", command)


def in_table() -> list[str]:
    """The commands of the table, by how they begin."""
    page = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    _, table = page.split("| Command | What was checked instead |")
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def run(command: Command, *more: str) -> subprocess.CompletedProcess[str]:
    path = f"{kubernetes.TOOLS / 'bin'}:{os.environ['PATH']}"
    return run_program(
        ["bash", "-c", " ".join([command.text, *more])],
        cwd=REPOSITORY,
        env=os.environ | {"PATH": path, "KUBECONFIG": os.devnull},
    )


def of(*beginnings: str) -> list[Command]:
    return [each for each in commands(PAGE) if without_namespace(each.text).startswith(beginnings)]


def test_every_command_is_run_or_stands_in_the_table() -> None:
    for command in commands(PAGE):
        text = without_namespace(command.text)
        where = [each for each in [*NEED_NO_CLUSTER, *in_table()] if text.startswith(each)]
        assert len(where) == 1, str(command)


def test_table_has_no_other_commands() -> None:
    texts = [without_namespace(each.text) for each in commands(PAGE)]
    assert [each for each in in_table() if not any(text.startswith(each) for text in texts)] == []


def test_files_and_values_that_commands_name_are_there() -> None:
    named = {name for each in commands(PAGE) for name in re.findall(r"deploy/kubernetes/[\w./-]+", each.text)}
    assert named
    assert [name for name in named if not Path(REPOSITORY, name).exists()] == []


@pytest.mark.external
@pytest.mark.parametrize("command", of("kubectl kustomize", "helm template"), ids=lambda each: str(each.line))
def test_command_shows_what_the_page_shows(command: Command) -> None:
    printed = run(command).stdout
    assert match(command.output, printed) is not None, f"{command}\nprinted:\n{printed}"


@pytest.mark.external
@pytest.mark.parametrize("command", of("kubectl create secret"), ids=lambda each: str(each.line))
def test_command_makes_the_secret_that_the_pods_mount(command: Command) -> None:
    done = run(command, "--dry-run=client", "--output=yaml")
    assert done.returncode == 0, done.stdout
    secret = yaml.safe_load(done.stdout)
    volumes = kubernetes.base("Deployment")["spec"]["template"]["spec"]["volumes"]
    (mounted,) = (volume["secret"] for volume in volumes if "secret" in volume)
    assert secret["metadata"]["name"] == mounted["secretName"]
    (item,) = mounted["items"]
    assert token(base64.b64decode(secret["data"][item["key"]]).decode())


def test_command_makes_a_rule_of_the_operator_out_of_the_alerts() -> None:
    """With the label `job` that the ServiceMonitor gives."""
    (command,) = of("(printf ")
    done = run(dataclasses.replace(command, text=command.text.removesuffix(" > prometheusrule.yaml")))
    monitor = kubernetes.read(kubernetes.COMPONENTS / "prometheus" / "servicemonitor.yaml")
    job = kubernetes.base("Service", "shop-admin")["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    rules = (REPOSITORY / "deploy/prometheus/outrider.rules.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(done.stdout) == {
        "apiVersion": monitor["apiVersion"],
        "kind": "PrometheusRule",
        "metadata": {"name": "shop"},
        "spec": yaml.safe_load(rules.replace('job="outrider"', f'job="{job}"')),
    }


@pytest.mark.external
@pytest.mark.parametrize("command", of("helm upgrade --install shop"), ids=lambda each: str(each.line))
def test_helm_takes_the_values_of_the_page(command: Command) -> None:
    done = run(dataclasses.replace(command, text=command.text.replace("upgrade --install", "template")))
    assert done.returncode == 0, done.stdout
    assert "registry.example.com/shop:1.0.0" in done.stdout
