"""Play every trace under every rule, and write the table and the plots."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autoscale import table
from autoscale.kubernetes import HPA
from autoscale.model import Result, Rule, simulate
from autoscale.outrider import Outrider
from autoscale.php_fpm import Dynamic
from autoscale.traces import TRACES
from autoscale.uwsgi import Busyness, Spare
from autoscale.watt import WattV1, WattV2

RULES: Mapping[str, Callable[[], Rule]] = {
    table.OUTRIDER: Outrider,
    "uWSGI spare": Spare,
    "uWSGI busyness": Busyness,
    "php-fpm dynamic": Dynamic,
    "Kubernetes HPA": HPA,
    "Watt v1": WattV1,
    "Watt v2": WattV2,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; with ``--plot`` draw the pictures as well."""
    parser = argparse.ArgumentParser(prog="tests/bench/autoscale", description=__doc__)
    parser.add_argument("traces", nargs="*", help="names of traces; all without any")
    parser.add_argument("--seed", default="", help="any word: other arrivals of the same loads")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw workers and waits into a PNG")
    parser.add_argument("--real", type=Path, metavar="FILE", help="instead, run Outrider under wrk and draw that")
    options = parser.parse_args(arguments)
    if options.real:
        from autoscale import real  # noqa: PLC0415  # needs wrk, and tests/support on the path

        measured = real.measure()
        real.draw(measured, options.real)
        print(real.render(measured))
        return 1 if measured.errors else 0
    unknown = set(options.traces) - {trace.name for trace in TRACES}
    if unknown:
        parser.error(f"no such trace: {', '.join(sorted(unknown))}; there are {', '.join(t.name for t in TRACES)}")
    results = replay(options.traces or [trace.name for trace in TRACES], options.seed)
    print(table.render(results))
    print(table.render_verdicts(results))
    if options.plot:
        from autoscale import plot  # noqa: PLC0415  # matplotlib is there for benchmarks only

        plot.draw(results, options.plot)
        print(f"\n{options.plot}")
    return 0


def replay(names: Sequence[str], seed: str = "") -> dict[str, dict[str, Result]]:
    """The results by trace and rule."""
    results = {}
    for trace in (each for each in TRACES if each.name in names):
        arrivals = trace.arrivals(seed)
        results[trace.name] = {name: simulate(trace, rule(), arrivals) for name, rule in RULES.items()}
    return results
