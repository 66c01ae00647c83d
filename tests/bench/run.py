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
from loads import LOADS
from measure import Failure, Sample, Setup, measure
from servers import SERVERS
from summary import Results

_EPILOG = f"loads: {', '.join(LOADS)}; servers: {', '.join(SERVERS)}"
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
    parser.add_argument("--loads", type=_names(LOADS), default=tuple(LOADS), help="comma-separated (default: all)")
    parser.add_argument("--servers", type=_names(SERVERS), default=tuple(SERVERS), help="comma-separated")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="directory of benchmarks.md and .png")
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


def missing_requirement() -> str:
    """Return what this machine lacks to run the benchmark, and how to get it, or the empty string."""
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            return f"The benchmark needs {tool}; on Debian or Ubuntu install it with: apt-get install {package}"
    if len(os.sched_getaffinity(0)) < 2:
        return "The benchmark needs two CPU cores, for the server and for the load; this process may use one."
    return ""


def reproduce(options: argparse.Namespace) -> str:
    """Return the command that makes the same measurements anywhere: without this machine's paths."""
    usual = parse_arguments([])
    words = []
    for name in ("rounds", "seconds", "loads", "servers"):
        chosen = getattr(options, name)
        if chosen != getattr(usual, name):
            words += [f"--{name}", ",".join(chosen) if isinstance(chosen, tuple) else str(chosen)]
    return f'make bench ARGS="{" ".join(words)}"' if words else "make bench"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status is 0, or 2 where it cannot run, or 130 when interrupted."""
    options = parse_arguments(sys.argv[1:] if argv is None else argv)
    lacking = missing_requirement()
    if lacking:
        sys.stderr.write(lacking + "\n")
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    server_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {load_core})  # this process too keeps off the server's core
    most_held = max(LOADS[load].held for load in options.loads)
    setup = Setup(options.seconds, server_core, load_core, held.raise_descriptor_limit(most_held))
    results: dict[tuple[str, str], list[Sample | Failure]] = {}
    command = reproduce(options)
    is_complete = False
    try:
        _say(f"about {_minutes(options):.0f} minutes")
        for load in options.loads:
            _measure_load(load, options, setup, results)
            is_complete = load == options.loads[-1]
            _write(results, options, command, is_complete=is_complete)
    except KeyboardInterrupt:
        _write(results, options, command, is_complete=False)
        return 130
    _say(f"wrote {options.output / 'benchmarks.md'}")
    return 0


def _minutes(options: argparse.Namespace) -> float:
    count: int = len(options.loads) * len(options.servers) * options.rounds
    seconds: int = options.seconds + _OVERHEAD_SECONDS
    return count * seconds / 60


def _measure_load(
    load: str,
    options: argparse.Namespace,
    setup: Setup,
    results: dict[tuple[str, str], list[Sample | Failure]],
) -> None:
    servers = [name for name in options.servers if LOADS[load].has_floor or not SERVERS[name].is_floor]
    for server in servers:
        results[load, server] = []
    for number in range(options.rounds):
        shift = number % len(servers)  # so that no server always follows the same one, or comes first
        for server in servers[shift:] + servers[:shift]:
            seen = measure(SERVERS[server], LOADS[load], setup)
            results[load, server].append(seen)
            _say(f"{load:11} {number + 1}/{options.rounds} {server:15} {_brief(seen)}")


def _brief(seen: Sample | Failure) -> str:
    if isinstance(seen, Failure):
        return seen.reason
    faults = ", ".join(f"{kind} {count}" for kind, count in seen.faults.items())
    if not seen.requests_per_second:
        return f"{seen.kib_per_connection:6.1f} KiB each, {seen.core_use:.2%} CPU  {faults}"
    figures = f"{seen.requests_per_second:9.0f}/s {seen.cpu_us:8.2f} µs CPU"
    return f"{figures}, p99 {seen.p99_us / 1000:.2f} ms  {faults}"


def _write(
    results: dict[tuple[str, str], list[Sample | Failure]],
    options: argparse.Namespace,
    command: str,
    *,
    is_complete: bool,
) -> None:
    run = report.Run(command, options.rounds, options.seconds, options.servers, options.loads, is_complete)
    chart_path: Path = options.output / "benchmarks.png"
    drawn = _draw(results, chart_path)
    report.write(results, run, options.output / "benchmarks.md", chart_path.name if drawn else None)


def _draw(results: Results, path: Path) -> bool:
    try:
        import chart  # noqa: PLC0415 -- matplotlib is heavy, and the figures are worth having without it
    except ModuleNotFoundError as error:
        _say(f"no chart: {error}; install it with: pip install matplotlib")
        return False
    return chart.write(results, path)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
