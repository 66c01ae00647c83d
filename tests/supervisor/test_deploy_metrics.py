"""The dashboard and the alerts in deploy/: well formed, and of metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from outrider_supervisor.exposition import write
from outrider_testing.snapshots import make_snapshot

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "outrider.json"
RULES = DEPLOY / "prometheus" / "outrider.rules.yml"
EXAMPLE = DEPLOY / "prometheus" / "prometheus.yml"
_METRIC = re.compile(r"\b(?:outrider|http_server)_[a-z0-9_]+")
_SELECTOR = re.compile(r"\b((?:outrider|http_server)_[a-z0-9_]+)\{([^}]*)\}")
_GROUPING = re.compile(r"\b(?:by|without) \(([^)]*)\)")
FROM_SCRAPE = {"job", "instance"}


def exposed() -> dict[str, set[str]]:
    """The labels of each sample that a scrape finds, by its name."""
    body, _ = write(make_snapshot(), "")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def rules() -> list[Any]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def queries() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for annotation in dashboard()["annotations"]["list"]:
        yield annotation["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]
    for rule in rules():
        yield rule["expr"]


@pytest.mark.parametrize("query", list(queries()))
def test_query_is_of_metrics_and_labels_that_there_are(query: str) -> None:
    labels_of = exposed()
    names = set(_METRIC.findall(query))
    assert names <= labels_of.keys(), names - labels_of.keys()
    for name, selector in _SELECTOR.findall(query):
        asked = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", selector))
        assert asked <= labels_of[name] | FROM_SCRAPE
    for grouping in _GROUPING.findall(query):
        known = set().union(*(labels_of[name] for name in names)) | FROM_SCRAPE
        assert {label.strip() for label in grouping.split(",")} <= known
    assert query.count("(") == query.count(")")
    assert query.count("{") == query.count("}")


@pytest.mark.parametrize("query", list(queries()))
def test_counter_is_asked_for_its_rate(query: str) -> None:
    for name in re.findall(r"\b\w+_(?:total|bucket|sum|count)\b", query):
        assert re.search(rf"(?:rate|increase)\({name}", query)


def test_dashboard_shows_every_metric_of_the_pool() -> None:
    shown = {name for query in queries() for name in _METRIC.findall(query)}
    kept_back = {
        "outrider_start_time_seconds",
        "outrider_last_reload_timestamp_seconds",
        "outrider_target_changes_total",
        "outrider_autoscaler_workers_min",
        "outrider_worker_requests_in_flight",
        "outrider_worker_connections",
        "outrider_worker_resident_memory_bytes",
        "http_server_request_duration_seconds_sum",
        "http_server_request_duration_seconds_count",
    }
    assert exposed().keys() - shown == kept_back


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_alert_has_what_prometheus_and_people_need(rule: Any) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Outrider[A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))


def test_alerts_are_named_once_and_loaded_by_the_example() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    example = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    assert example["rule_files"] == [RULES.name]
    assert example["scrape_configs"][0]["job_name"] == "outrider"
