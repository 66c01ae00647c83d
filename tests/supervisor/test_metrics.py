"""The metrics: names by the rules of Prometheus and OpenMetrics, and values that are those of the service."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from outrider.meters import DURATION_BOUNDS
from outrider_supervisor import exposition
from outrider_supervisor.exposition import OPENMETRICS_TYPE, TEXT_TYPE, write
from outrider_supervisor.metric_declaration import Metric, Snapshot
from outrider_supervisor.metrics import METRICS
from outrider_supervisor.resources import MetricsMissing
from outrider_supervisor.status_report import Usage
from outrider_testing.snapshots import STALL, make_row, make_snapshot

SCRAPE = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(snapshot: Snapshot) -> Values:
    """The samples as a scrape finds them, by name and labels."""
    body, _ = write(snapshot, SCRAPE)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): float(sample.value)
        for family in parse_openmetrics(body.decode())
        for sample in family.samples
    }


def value(values: Values, name: str, **labels: str) -> float:
    return values[name, tuple(sorted(labels.items()))]


# -- lint, as promtool has it


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: str(metric.name))
def test_declaration_keeps_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"(outrider|http_server)_[a-z0-9_]*[a-z0-9]", metric.name)
    assert metric.kind in ("counter", "gauge", "histogram", "summary", "info")
    for suffix in ("_total", "_info", "_count", "_sum", "_bucket", "_created"):
        assert not metric.name.endswith(suffix)
    # Base units, and no type in a name.
    words = metric.name.split("_")
    assert not {"milliseconds", "ms", "minutes", "percent", "kilobytes", "megabytes", "mib"} & set(words)
    assert not {"gauge", "counter", "histogram", "summary"} & set(words)
    assert not re.search("[A-Z]", metric.name)
    for label in metric.labels:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", label)
        assert not label.startswith("__")
        assert label not in ("le", "quantile", "job", "instance")
        assert label not in words
    assert metric.help.endswith(".")
    assert metric.help[0].isupper() or metric.help.startswith(("min_workers", "max_workers", "1 for"))
    assert "|" not in metric.help
    assert "\n" not in metric.help


def test_no_name_is_used_twice() -> None:
    names = [metric.shown_name for metric in METRICS]
    names += [f"{each.name}{suffix}" for each in METRICS for suffix in ("_sum", "_count", "_bucket", "_created")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("accept, media_type", [(SCRAPE, OPENMETRICS_TYPE), ("", TEXT_TYPE), ("text/plain", TEXT_TYPE)])
def test_text_is_well_formed(accept: str, media_type: str) -> None:
    body, found_type = write(make_snapshot(), accept)
    assert found_type == media_type
    text = body.decode()
    assert text.endswith("\n")
    assert text.endswith("# EOF\n") is (media_type == OPENMETRICS_TYPE)
    families = list((parse_openmetrics if media_type == OPENMETRICS_TYPE else parse_text)(text))
    samples = [(each.name, tuple(sorted(each.labels.items()))) for family in families for each in family.samples]
    assert len(samples) == len(set(samples))
    assert len(families) == len({family.name for family in families})
    for family in families:
        assert family.documentation
        assert family.type != "unknown"
        assert family.samples
        assert len({frozenset(each.labels) - {"le"} for each in family.samples}) == 1


def test_every_declared_metric_is_written_with_its_unit() -> None:
    body, _ = write(make_snapshot(), SCRAPE)
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families.keys() == {metric.name for metric in METRICS}
    for metric in METRICS:
        assert (families[metric.name].type, families[metric.name].unit) == (metric.kind, metric.unit)
        assert metric.name.endswith(metric.unit)


def test_histogram_is_cumulative_with_the_bounds_of_opentelemetry() -> None:
    values = read(make_snapshot())
    labels = {"http_request_method": "GET", "http_response_status_class": "2xx"}
    name = "http_server_request_duration_seconds"
    bounds = [f"{bound:g}" if bound % 1 else f"{bound}" for bound in DURATION_BOUNDS]
    found = [value(values, f"{name}_bucket", **labels, le=bound) for bound in (*bounds, "+Inf")]
    assert found == sorted(found)
    assert (found[0], found[-2], found[-1]) == (2.0, 3.0, 4.0)
    assert value(values, f"{name}_count", **labels) == 4.0
    assert value(values, f"{name}_sum", **labels) == pytest.approx(99.202)
    assert value(values, "outrider_requests_total", **labels) == 4.0


# -- values


COUNTED: Values = {
    ("outrider_received_bytes_total", ()): 1000.0,
    ("outrider_sent_bytes_total", ()): 2000.0,
    ("outrider_websockets_opened_total", ()): 3.0,
    ("outrider_stalls_total", ()): 4.0,
    ("outrider_log_lines_dropped_total", ()): 5.0,
    ("outrider_blocking_calls_total", (("function", "shop.views.report shop/views.py"),)): 7.0,
    ("outrider_blocking_seconds_total", (("function", "shop.views.report shop/views.py"),)): 12.5,
    ("outrider_worker_restarts_total", (("cause", "stuck"),)): 8.0,
    ("outrider_target_changes_total", (("direction", "up"),)): 9.0,
    ("outrider_target_changes_total", (("direction", "down"),)): 6.0,
    ("outrider_reloads_total", (("outcome", "refused"),)): 2.0,
    ("outrider_reload_duration_seconds_count", (("outcome", "refused"),)): 2.0,
    ("outrider_reload_duration_seconds_sum", (("outcome", "refused"),)): 0.5,
    ("outrider_last_reload_timestamp_seconds", ()): 1_790_000_000.0,
    ("outrider_start_time_seconds", ()): 1_789_999_990.0,
    (
        "outrider_requests_total",
        (
            ("http_request_method", "_OTHER"),
            ("http_response_status_class", "5xx"),
        ),
    ): 1.0,
    ("outrider_autoscaler_workers_min", ()): 1.0,
    ("outrider_autoscaler_workers_max", ()): 8.0,
    ("outrider_autoscaler_workers_wanted", ()): 3.0,
    ("outrider_autoscaler_demand", ()): 1.5,
    ("outrider_autoscaler_utilisation_ratio", ()): 0.75,
    ("outrider_autoscaler_veto", (("reason", "memory"),)): 1.0,
    ("outrider_autoscaler_veto", (("reason", "cpu"),)): 0.0,
}


def test_metrics_have_the_values_of_the_snapshot() -> None:
    snapshot = make_snapshot()
    tally = snapshot.tally
    tally.restarts["stuck"] = 8
    tally.target_changes.update(up=9, down=6)
    tally.reloads["refused"], tally.reload_seconds["refused"] = 2, 0.5
    values = read(snapshot)
    assert {key: values.get(key) for key in COUNTED} == COUNTED


def test_loop_that_hangs_is_late_though_it_does_not_say_so() -> None:
    snapshot = make_snapshot(workers=1)
    (pid,) = snapshot.usage
    late = replace(snapshot, usage={pid: replace(snapshot.usage[pid], lag=3.5)})
    assert value(read(late), "outrider_worker_event_loop_lag_seconds", generation="1", pid=str(pid)) == 3.5


def test_pool_is_the_sum_of_its_workers() -> None:
    values = read(make_snapshot(workers=3))
    assert value(values, "outrider_requests_in_flight") == 3.0
    assert value(values, "outrider_connections", protocol="http1") == 9.0
    assert value(values, "outrider_connections", protocol="http2") == 6.0
    assert value(values, "outrider_websockets") == 3.0
    assert value(values, "outrider_workers", state="ready") == 3.0
    assert value(values, "outrider_workers_target") == 3.0
    assert value(values, "outrider_generation") == 1.0
    assert value(values, "outrider_accept_backlog") == 6.0
    assert value(values, "outrider_cpu_seconds_total") == 9.5
    assert value(values, "outrider_service_status", state="serving") == 1.0
    assert value(values, "outrider_service_status", state="degraded") == 0.0


def test_worker_is_named_by_generation_and_process() -> None:
    snapshot = make_snapshot()
    values = read(snapshot)
    for pid in snapshot.rows:
        assert value(values, "outrider_worker_requests_total", generation="1", pid=str(pid)) == 10.0
        assert value(values, "outrider_worker_event_loop_busy_ratio", generation="1", pid=str(pid)) == 0.25
        assert value(values, "outrider_worker_pss_bytes", generation="1", pid=str(pid)) == 50 << 20
        assert value(values, "outrider_worker_resident_memory_bytes", generation="1", pid=str(pid)) == 60 << 20
        assert value(values, "outrider_worker_event_loop_lag_seconds", generation="1", pid=str(pid)) == 0.125
        assert value(values, "outrider_worker_cpu_seconds_total", generation="1", pid=str(pid)) == 3.5
        assert value(values, "outrider_worker_requests_in_flight", generation="1", pid=str(pid)) == 1.0
        assert value(values, "outrider_worker_connections", generation="1", pid=str(pid)) == 5.0


def test_what_is_not_known_is_left_out() -> None:
    snapshot = make_snapshot(autoscaler=False)
    tally = snapshot.tally
    tally.last_reload = None
    (pid, other) = snapshot.rows
    snapshot = replace(
        snapshot,
        backlog=None,
        rows={other: make_row(other)},
        usage={pid: Usage(memory_bytes=1, memory_kind="rss"), other: Usage()},
        cpu_seconds={},
    )
    assert b"outrider_autoscaler" not in write(snapshot, SCRAPE)[0]
    names = {name for name, _ in read(snapshot)}
    assert not {name for name in names if name.startswith("outrider_autoscaler")}
    assert not names & {"outrider_accept_backlog", "outrider_last_reload_timestamp_seconds"}
    assert not names & {"outrider_worker_pss_bytes", "outrider_worker_cpu_seconds_total"}
    assert [key for key in read(snapshot) if key[0] == "outrider_worker_requests_total"] == [
        ("outrider_worker_requests_total", (("generation", "1"), ("pid", str(other))))
    ]


def test_last_reload_counts_as_successful_before_the_first() -> None:
    snapshot = make_snapshot()
    assert value(read(snapshot), "outrider_last_reload_successful") == 1.0
    snapshot.tally.last_reload = {"outcome": "rolled_back", "at": 1.0, "seconds": 2.0}
    assert value(read(snapshot), "outrider_last_reload_successful") == 0.0
    snapshot.tally.last_reload = None
    assert value(read(snapshot), "outrider_last_reload_successful") == 1.0


def test_causes_and_outcomes_are_there_before_they_happen() -> None:
    values = read(make_snapshot())
    assert value(values, "outrider_worker_restarts_total", cause="crash") == 0.0
    assert value(values, "outrider_reloads_total", outcome="rolled_back") == 0.0
    assert value(values, "outrider_reload_duration_seconds_count", outcome="committed") == 0.0


# -- around it


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exposition.is_available()
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MetricsMissing, match=r"pip install 'outrider\[metrics\]'"):
        write(make_snapshot(), SCRAPE)


@pytest.mark.parametrize("accept", [SCRAPE, ""])
def test_function_in_a_file_whose_name_is_no_text_costs_no_metrics(accept: str) -> None:
    snapshot = make_snapshot()
    snapshot.status["stalls"][0] = STALL | {"frame": 'shop.views.f shop/caf\udce9 "\n}\x1b.py:8'}
    text = write(snapshot, accept)[0].decode()
    families = (parse_openmetrics if accept else parse_text)(text)
    labels = [each.labels for family in families for each in family.samples if "function" in each.labels]
    assert labels == [{"function": 'shop.views.f shop/caf\\udce9 "\n}\x1b.py'}] * 2
