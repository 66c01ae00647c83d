from __future__ import annotations

from time import monotonic_ns

import pytest

from outrider.meters import CELLS, DURATION_BOUNDS, METHODS, Histogram, Meter, histograms_of

SLOWEST = len(DURATION_BOUNDS)


@pytest.fixture
def cells() -> memoryview:
    return memoryview(bytearray(8 * CELLS)).cast("Q")


def test_nothing_is_counted_at_first(cells: memoryview) -> None:
    assert histograms_of(cells) == {}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("status, status_class", [(101, 1), (200, 2), (304, 3), (499, 4), (500, 5), (599, 5), (999, 5)])
def test_request_is_counted_by_method_and_class(cells: memoryview, method: str, status: int, status_class: int) -> None:
    Meter(cells).count(method, status, monotonic_ns())
    ((key, histogram),) = histograms_of(cells).items()
    assert key == (method, status_class)
    assert histogram.requests == 1


@pytest.mark.parametrize("method", ["BREW", None, "get"])
def test_unknown_method_is_other(cells: memoryview, method: str | None) -> None:
    Meter(cells).count(method, 200, monotonic_ns())
    assert [*histograms_of(cells)] == [("_OTHER", 2)]


@pytest.mark.parametrize(
    "seconds, bucket",
    [
        (0, 0),
        (0.005, 0),
        (0.006, 1),
        (0.01, 1),
        (0.011, 2),
        (9.9, SLOWEST - 1),
        (10, SLOWEST - 1),
        (10.1, SLOWEST),
        (999, SLOWEST),
    ],
)
def test_request_is_counted_by_its_duration(
    cells: memoryview, monkeypatch: pytest.MonkeyPatch, seconds: float, bucket: int
) -> None:
    monkeypatch.setattr("outrider.meters.monotonic_ns", lambda: 1_000 + round(seconds * 1e9))
    meter = Meter(cells)
    meter.count("GET", 200, 1_000)
    meter.count("GET", 200, 1_000)
    buckets = tuple(2 if each == bucket else 0 for each in range(SLOWEST + 1))
    assert histograms_of(cells) == {("GET", 2): Histogram(buckets, 2 * seconds)}


def test_cells_are_those_of_all_methods_and_classes(cells: memoryview) -> None:
    for method in METHODS:
        for status in (100, 200, 300, 400, 500):
            Meter(cells).count(method, status, monotonic_ns() - 20_000_000_000)
    assert len(histograms_of(cells)) == 50
    assert {each.buckets[-1] for each in histograms_of(cells).values()} == {1}
