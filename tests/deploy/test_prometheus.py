"""deploy/prometheus and deploy/grafana with a real Prometheus, which scrapes a real service."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider_testing.http_client import can_connect, fetch
from outrider_testing.network import Host, isolated
from outrider_testing.prometheus import Prometheus, promtool
from outrider_testing.server_process import SUPPORT
from outrider_testing.waiting import until

pytestmark = pytest.mark.external

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLE = DEPLOY / "prometheus" / "prometheus.yml"
RULES = DEPLOY / "prometheus" / "outrider.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "outrider.json"
OFTEN = {"scrape_interval": "1s", "evaluation_interval": "1s"}
EMPTY_IN_A_SOUND_SERVICE = {"What blocks event loops: seconds", "What blocks event loops: times"}


@contextlib.contextmanager
def serving(host: Host, directory: Path) -> Iterator[None]:
    """A service with the autoscaler on, whose admin endpoint is where the example looks for it."""
    environment = os.environ | {"PYTHONPATH": str(SUPPORT), "PROBE_DIRECTORY": str(directory)}
    words = ["-m", "outrider_supervisor.cli", "run", "outrider_testing.apps.probe:app", "--max-workers", "2"]
    binds = ["-b", "127.0.0.1:8000", "--admin-bind", "127.0.0.1:9100", "--name", "shop"]
    with (directory / "outrider.log").open("wb") as log:
        process = subprocess.Popen(
            host.command(sys.executable, *words, *binds, directory=directory),
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with host.entered():
            until(lambda: can_connect(("127.0.0.1", 9100)), 30, what=(directory / "outrider.log").read_text())
            until(lambda: fetch(("127.0.0.1", 9100), "/readyz").status == 200, 30, what="ready")
            assert fetch(("127.0.0.1", 8000), "/").status == 200
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    directory = tmp_path_factory.mktemp("prometheus")
    example = yaml.safe_load(EXAMPLE.read_text())
    (directory / EXAMPLE.name).write_text(yaml.safe_dump({"global": OFTEN} | example))
    (directory / RULES.name).write_text(RULES.read_text())
    with isolated() as host, serving(host, directory):
        server = Prometheus(host, directory / EXAMPLE.name, directory)
        try:
            server.wait_until_scraped()
            yield server
        finally:
            server.close()


def panels() -> Iterator[tuple[str, str]]:
    """The title of each panel, and a query of it with Grafana's variables filled in."""
    dashboard: Any = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$job", "outrider").replace("$instance", ".*")
            yield panel["title"], re.sub(r"\$__\w+", "10s", query)


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", EXAMPLE)
    assert "SUCCESS" in promtool("check", "rules", RULES)


@pytest.mark.parametrize(
    "state, minutes, fires",
    [("starting", 1, False), ("degraded", 2, True), ("starting", 2, True), ("stopping", 2, False)],
)
def test_alert_fires_of_a_service_without_workers_that_neither_boots_nor_stops(
    state: str, minutes: int, fires: bool, tmp_path: Path
) -> None:
    alert = "OutriderNoWorkers"
    labels = 'job="outrider", instance="shop"'
    shown = {"exp_labels": {"job": "outrider", "instance": "shop", "state": "ready", "severity": "critical"}}
    (rule,) = (each for each in yaml.safe_load(RULES.read_text())["groups"][0]["rules"] if each["alert"] == alert)
    texts = {name: text.replace("{{ $labels.instance }}", "shop") for name, text in rule["annotations"].items()}
    case = {
        "interval": "15s",
        "input_series": [
            {"series": f'outrider_workers{{{labels}, state="ready"}}', "values": "0x20"},
            {"series": f'outrider_service_status{{{labels}, state="{state}"}}', "values": "1x20"},
        ],
        "alert_rule_test": [
            {
                "eval_time": f"{minutes}m",
                "alertname": alert,
                "exp_alerts": [shown | {"exp_annotations": texts}] if fires else [],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [case]})
    )
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "test.yml")


def test_every_alert_is_evaluated_and_none_fires(prometheus: Prometheus) -> None:
    until(lambda: {rule["health"] for rule in prometheus.rules()} == {"ok"}, 20, what="every rule evaluated")
    assert [rule["name"] for rule in prometheus.rules() if rule["state"] == "firing"] == []


def test_every_panel_has_something_to_show(prometheus: Prometheus) -> None:
    until(lambda: prometheus.query("rate(outrider_requests_total[10s])"), 20, what="two scrapes")
    assert {title for title, query in panels() if not prometheus.query(query)} == EMPTY_IN_A_SOUND_SERVICE
