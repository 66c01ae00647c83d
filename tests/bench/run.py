"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import held
import report
from loads import LOADS, Page, Tool
from measure import Failure, Sample, Setup, measure
from servers import SERVERS
from summary import Results

_PAGES = {page.key: tuple(load.key for load in LOADS.values() if load.page is page) for page in Page}
_EPILOG = (
    f"loads: {', '.join(_PAGES)} (all of a page), or {', '.join(LOADS)}; servers: {', '.join(SERVERS)}. "
    "Only the pages of the loads that were chosen are written."
)
_OVERHEAD_SECONDS = 2  # to start, check and stop a server


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options; a bad one ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="python tests/bench",
        description="Measure ASGI servers side by side: CPU per request, requests/s, latency, memory.",
        epilog=_EPILOG,
    )
    parser.add_argument("--rounds", type=_positive, default=5, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=_positive, default=4, help="length of a measurement (default: %(default)s)")
    parser.add_argument("--loads", type=_loads, default=tuple(LOADS), help="comma-separated (default: all)")
    parser.add_argument("--servers", type=_names(SERVERS), default=tuple(SERVERS), help="comma-separated")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="where to write (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round of one second: to try the benchmark itself")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds = options.seconds = 1
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _names(catalogue: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    known = tuple(catalogue)

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'} is not among {', '.join(known)}")
        return names

    return parse


def _loads(text: str) -> tuple[str, ...]:
    chosen = _names([*_PAGES, *LOADS])(text)
    return tuple(dict.fromkeys(load for name in chosen for load in _PAGES.get(name, (name,))))


_PACKAGES = {
    Tool.WRK: {"wrk": "wrk"},
    Tool.H2LOAD: {"h2load": "nghttp2-client", "nghttp": "nghttp2-client"},
}


def missing_requirement(loads: Sequence[str]) -> str:
    """Return what this machine lacks to make ``loads``, and how to get it, or the empty string."""
    tools = {"taskset": "util-linux"}
    for load in loads:
        tools |= _PACKAGES.get(LOADS[load].tool, {})
    for tool, package in tools.items():
        if shutil.which(tool) is None:
            return f"The benchmark needs {tool}; on Debian or Ubuntu install it with: apt-get install {package}"
    if len(os.sched_getaffinity(0)) < 2:
        return "The benchmark needs two CPU cores, for the server and for the load; this process may use one."
    return ""


def reproduce(options: argparse.Namespace, page: Page) -> str:
    """Return the command that makes the measurements of ``page`` anywhere: without this machine's paths."""
    usual = parse_arguments([])
    loads = _loads_of(options, page)
    chosen = {
        "rounds": str(options.rounds) if options.rounds != usual.rounds else "",
        "seconds": str(options.seconds) if options.seconds != usual.seconds else "",
        "loads": page.key if loads == _PAGES[page.key] else ",".join(loads),
        "servers": ",".join(options.servers) if options.servers != usual.servers else "",
    }
    words = [f"--{name} {value}" for name, value in chosen.items() if value]
    return f'make bench ARGS="{" ".join(words)}"'


def _loads_of(options: argparse.Namespace, page: Page) -> tuple[str, ...]:
    return tuple(load for load in options.loads if LOADS[load].page is page)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status is 0, or 2 where it cannot run, or 130 when interrupted."""
    options = parse_arguments(sys.argv[1:] if argv is None else argv)
    lacking = missing_requirement(options.loads)
    if lacking:
        sys.stderr.write(lacking + "\n")
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    server_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {load_core})  # this process too keeps off the server's core
    most_held = max(LOADS[load].held + LOADS[load].connections for load in options.loads)
    setup = Setup(options.seconds, server_core, load_core, held.raise_descriptor_limit(most_held))
    results: dict[tuple[str, str], list[Sample | Failure]] = {}
    try:
        _say(f"about {_minutes(options):.0f} minutes")
        for load in options.loads:
            _measure_load(load, options, setup, results)
            _write(results, options, LOADS[load].page)
    except KeyboardInterrupt:
        for load, _ in [*results][-1:]:
            _write(results, options, LOADS[load].page, is_interrupted=True)
        return 130
    return 0


def _minutes(options: argparse.Namespace) -> float:
    pairs = sum(len(_servers(load, options)) for load in options.loads)
    seconds: int = pairs * options.rounds * (options.seconds + _OVERHEAD_SECONDS)
    return seconds / 60


def _servers(load: str, options: argparse.Namespace) -> list[str]:
    return [name for name in options.servers if SERVERS[name].can_take(LOADS[load])]


def _measure_load(
    load: str,
    options: argparse.Namespace,
    setup: Setup,
    results: dict[tuple[str, str], list[Sample | Failure]],
) -> None:
    servers = _servers(load, options)
    for server in servers:
        results[load, server] = []
    for number in range(options.rounds):
        shift = number % len(servers)  # so that no server always follows the same one, or comes first
        for server in servers[shift:] + servers[:shift]:
            seen = measure(SERVERS[server], LOADS[load], setup)
            results[load, server].append(seen)
            _say(f"{load:25} {number + 1}/{options.rounds} {server:15} {_brief(seen)}")


def _brief(seen: Sample | Failure) -> str:
    if isinstance(seen, Failure):
        return seen.reason
    faults = ", ".join(f"{kind} {count}" for kind, count in seen.faults.items())
    if not seen.requests_per_second:
        return f"{seen.kib_per_connection:6.1f} KiB each, {seen.core_use:.2%} CPU  {faults}"
    figures = f"{seen.requests_per_second:9.0f}/s {seen.cpu_us:8.2f} µs CPU"
    latency = f", p99 {seen.p99_us / 1000:.2f} ms" if seen.p99_us else ""
    return f"{figures}{latency}  {faults}"


def _write(
    results: dict[tuple[str, str], list[Sample | Failure]],
    options: argparse.Namespace,
    page: Page,
    *,
    is_interrupted: bool = False,
) -> None:
    loads = _loads_of(options, page)
    is_complete = not is_interrupted and all(any(load == key for key, _ in results) for load in loads)
    command = reproduce(options, page)
    run = report.Run(page, command, options.rounds, options.seconds, options.servers, loads, is_complete)
    chart_path: Path = options.output / f"{page.stem}.png"
    drawn = _draw(results, page, chart_path)
    path: Path = options.output / f"{page.stem}.md"
    report.write(results, run, path, chart_path.name if drawn else None)
    if is_complete:
        _say(f"wrote {path}")


def _draw(results: Results, page: Page, path: Path) -> bool:
    try:
        import chart  # noqa: PLC0415 -- matplotlib is heavy, and the figures are worth having without it
    except ModuleNotFoundError as error:
        _say(f"no chart: {error}; install it with: pip install matplotlib")
        return False
    return chart.write(results, page, path)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
