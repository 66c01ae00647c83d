"""Writes the metrics in the text formats of Prometheus and OpenMetrics, with `prometheus_client`.

That is an extra, and imported with the first scrape only: a supervisor that nobody scrapes does without its memory.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from outrider.meters import DURATION_BOUNDS
from outrider_supervisor.metric_declaration import Bucketed, Metric, Sample, Snapshot, Summed
from outrider_supervisor.metrics import METRICS
from outrider_supervisor.resources import MetricsMissing

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

BOUNDS = (*(str(bound) for bound in DURATION_BOUNDS), "+Inf")
OPENMETRICS = "application/openmetrics-text"
OPENMETRICS_TYPE = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MISSING = "metrics need prometheus_client, which is not installed: `pip install 'outrider[metrics]'`"


def is_available() -> bool:
    """Whether metrics can be written."""
    return importlib.util.find_spec("prometheus_client") is not None


def write(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Write the metrics.

    Args:
        snapshot: the values.
        accept: the Accept header of the request; who does not name OpenMetrics gets the text format 0.0.4.

    Returns:
        The text, and its media type.

    Raises:
        MetricsMissing: prometheus_client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415  # an extra
        from prometheus_client.exposition import generate_latest  # noqa: PLC0415  # as above
        from prometheus_client.openmetrics.exposition import (  # noqa: PLC0415  # as above
            generate_latest as generate_openmetrics,
        )
    except ImportError as error:
        raise MetricsMissing(MISSING) from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    if OPENMETRICS in accept:
        return generate_openmetrics(registry), OPENMETRICS_TYPE
    return generate_latest(registry), TEXT_TYPE


class _Collector:
    """What prometheus_client calls a collector: gives the families of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Any]:
        """prometheus_client: nothing needs to be asked when the collector is registered."""
        return []

    def collect(self) -> Iterator[Family]:
        """prometheus_client: the families that have a value."""
        for metric in METRICS:
            family = _family(metric, metric.collect(self._snapshot))
            if family.samples:
                yield family


def _family(metric: Metric, samples: Iterator[Sample]) -> Family:
    from prometheus_client import metrics_core  # noqa: PLC0415  # as above

    if metric.kind == "info":
        info = metrics_core.InfoMetricFamily(metric.name, metric.help)
        for labels, _ in samples:
            info.add_metric((), dict(zip(metric.labels, labels, strict=True)))
        return info
    kinds: dict[str, type[Any]] = {
        "counter": metrics_core.CounterMetricFamily,
        "gauge": metrics_core.GaugeMetricFamily,
        "histogram": metrics_core.HistogramMetricFamily,
        "summary": metrics_core.SummaryMetricFamily,
    }
    family = kinds[metric.kind](metric.name, metric.help, labels=metric.labels, unit=metric.unit)
    for values, value in samples:
        labels = tuple(_encodable(each) for each in values)
        match value:
            case Bucketed(cumulative, total):
                family.add_metric(labels, list(zip(BOUNDS, cumulative, strict=True)), total)
            case Summed(count, total):
                family.add_metric(labels, count, total)
            case _:
                family.add_metric(labels, value)
    return cast("Family", family)


def _encodable(text: str) -> str:
    """The text of a label; of a file whose name is not UTF-8, escaped, or there would be no metrics at all."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
