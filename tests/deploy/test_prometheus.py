"""deploy/prometheus and deploy/grafana with a real Prometheus, which scrapes a real service."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
ADAPTER = DEPLOY / "kubernetes" / "components" / "prometheus" / "prometheus-adapter.values.yaml"
INSTANCE = 'job="outrider",instance="shop"'
RATE = "0+{}x60"
STAYS = "{}x60"


class Alert(NamedTuple):
    """What an alert fires of, and does not. The samples of a series are a minute apart."""

    minutes: int
    """After which it is looked at."""
    series: str
    values: str
    """Of the series, with a gap for one of the next two."""
    bad: str
    good: str
    others: Mapping[str, str] = {}
    """Other series, and their values."""


ALERTS = {
    "OutriderDown": Alert(2, "up", STAYS, "0", "1"),
    "OutriderDegraded": Alert(6, 'outrider_service_status{state="degraded"}', STAYS, "1", "0"),
    "OutriderErrors": Alert(
        *(12, 'outrider_requests_total{http_response_status_class="5xx"}', RATE, "6", "5"),
        {'outrider_requests_total{http_response_status_class="2xx"}': RATE.format(95)},
    ),
    "OutriderSlow": Alert(
        *(16, 'http_server_request_duration_seconds_bucket{le="1"}', RATE, "98", "100"),
        {f'http_server_request_duration_seconds_bucket{{le="{bound}"}}': RATE.format(100) for bound in ("2.5", "+Inf")},
    ),
    "OutriderSaturated": Alert(12, 'outrider_worker_event_loop_busy_ratio{pid="7"}', STAYS, "0.95", "0.9"),
    "OutriderLoopLag": Alert(7, 'outrider_worker_event_loop_lag_seconds{pid="7"}', STAYS, "0.6", "0.5"),
    "OutriderBacklog": Alert(3, "outrider_accept_backlog", STAYS, "101", "100"),
    "OutriderStalls": Alert(11, "outrider_stalls_total", RATE, "1", "0"),
    "OutriderCrashes": Alert(16, 'outrider_worker_restarts_total{cause="boot_failure"}', RATE, "1", "0"),
    "OutriderReloadFailed": Alert(2, "outrider_last_reload_successful", STAYS, "0", "1"),
    "OutriderMemoryGrows": Alert(400, 'outrider_worker_pss_bytes{pid="7"}', "200e6x360 {}x60", "310e6", "290e6"),
    "OutriderAtMostWorkers": Alert(
        *(20, "outrider_autoscaler_utilisation_ratio", STAYS, "0.95", "0.9"),
        {"outrider_workers_target": STAYS.format(4), "outrider_autoscaler_workers_max": STAYS.format(4)},
    ),
    "OutriderLogLinesDropped": Alert(11, "outrider_log_lines_dropped_total", RATE, "1", "0"),
}


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


def test_alert_fires_for_what_it_is_for() -> None:
    rules = [each["alert"] for each in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]]
    assert set(rules) == {*ALERTS, "OutriderNoWorkers"}
    check_queries(*(case for alert in ALERTS for case in alert_cases(alert)))


def alert_cases(name: str) -> Iterator[dict[str, Any]]:
    """Where it fires, and where it does not."""
    alert = ALERTS[name]
    query = f'count by (alertname) (ALERTS{{alertname="{name}", alertstate="firing"}})'
    fires = [{"labels": f'{{alertname="{name}"}}', "value": 1}]
    for value, shown in ((alert.bad, fires), (alert.good, [])):
        series = {alert.series: alert.values.format(value), **alert.others}
        yield query_case("1m", series, query, f"{alert.minutes}m", shown)


def query_case(interval: str, series: Mapping[str, str], query: str, at: str, shown: list[Any]) -> dict[str, Any]:
    """A test of promtool's: these samples, each `interval` apart, and what the query gives for them."""
    named = [(name.partition("{")[0], name.partition("{")[2].rstrip("}"), values) for name, values in series.items()]
    return {
        "interval": interval,
        "input_series": [
            {"series": f"{name}{{{','.join(filter(None, (INSTANCE, labels)))}}}", "values": values}
            for name, labels, values in named
        ],
        "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": shown}],
    }


def check_queries(*cases: dict[str, Any]) -> None:
    content = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": list(cases)}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write(yaml.safe_dump(content))
        file.flush()
        assert "SUCCESS" in promtool("test", "rules", file.name)


def test_figure_of_the_adapter_is_of_pods_whose_workers_serve() -> None:
    """A pod that boots, or whose only worker hangs, has none: Kubernetes can't reckon with infinity."""
    (rule,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    name, selector = rule["seriesQuery"].rstrip("}").split("{")
    query = rule["metricsQuery"].replace("<<.Series>>", name)
    query = query.replace("<<.LabelMatchers>>", selector).replace("<<.GroupBy>>", "pod")
    pod = 'namespace="shop",pod="{}"'.format
    series = {
        f'{name}{{{pod("serving")},pid="7"}}': "0.5x20",
        f'{name}{{{pod("serving")},pid="8"}}': "0.7x20",
        f'outrider_workers{{{pod("serving")},state="ready"}}': "2x20",
        f'{name}{{{pod("booting")},pid="7"}}': "1x20",
        f'outrider_workers{{{pod("booting")},state="ready"}}': "0x20",
        f'outrider_workers{{{pod("booting")},state="booting"}}': "1x20",
        f'{name}{{{pod("booted")},pid="7"}}': "1x9 0.2x10",
        f'outrider_workers{{{pod("booted")},state="ready"}}': "0x9 1x10",
    }
    shown = [{"labels": '{pod="serving"}', "value": 0.6}, {"labels": '{pod="booted"}', "value": 0.2}]
    check_queries(query_case("15s", series, query, "3m", shown))


def test_every_alert_is_evaluated_and_none_fires(prometheus: Prometheus) -> None:
    until(lambda: {rule["health"] for rule in prometheus.rules()} == {"ok"}, 20, what="every rule evaluated")
    assert [rule["name"] for rule in prometheus.rules() if rule["state"] == "firing"] == []


def test_every_panel_has_something_to_show(prometheus: Prometheus) -> None:
    def empty() -> set[str]:
        return {title for title, query in panels() if not prometheus.query(query)}

    # How busy a loop is becomes known after some seconds. On a busy machine one may be blocked: that is shown, too.
    until(
        lambda: empty() <= EMPTY_IN_A_SOUND_SERVICE,
        30,
        what="something in every panel",
        explain=lambda: f"nothing in {empty()}",
    )
