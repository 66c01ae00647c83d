"""Write the results as Markdown."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loads import LOADS, Load, Page, Tool
from measure import Failure, Sample
from servers import OUTRIDER, SERVERS
from summary import CPU_TARGETS, Results, Row, Verdict, cpu_ratio, cpu_verdicts, other_verdicts, rows_of

ROUNDS_OF_A_RESULT = 5

_HOW = """\
One server at a time, with one worker process, is pinned to one core; the load generator is pinned to
another. The rounds are interleaved: within a load every server is measured once, then every server again,
each time in a fresh process. Figures are medians of the rounds.

- *CPU* is user and system time of all the server's processes, master and threads included, divided by the
  {unit}s answered; in brackets its smallest and largest round.
- *Ratio* is Outrider's CPU per {unit} over that server's: below 1, Outrider is cheaper.
- *RSS (PSS)* is the worker's memory after the load.
- *Core* is the share of its core that the server used. Where it is well below 100 %, the load generator was
  the limit, and {unit}s per second say little.

Every server's answer is checked before it is measured. Rounds with errors are marked ⚠ and listed below
their table. A server that does not speak what a load needs is not in its table.
"""

_ABOUT = {
    Page.HTTP1: "",
    Page.WEBSOCKET: """\
Each connection sends one message and waits for it to come back whole before it sends the next; handshakes are not
measured. The load generator is a loop over `epoll` that sends frames built once and looks at no more than the header
of a reply. uvicorn runs with `--ws websockets-sansio`, its default where websockets is installed. With
permessage-deflate the client offers what browsers offer; gunicorn `asgi` and Granian have none.
""",
    Page.HTTP2: """\
Outrider has the extras http2 and tls; over TLS it is also measured without the second. HTTP/1.1 over TLS is
measured with wrk, HTTP/2 with h2load: in clear text with prior knowledge, over TLS by ALPN. h2load prints no
percentiles. Certificates are ECDSA P-256, connections are kept alive, sessions are TLS 1.3.
""",
}

_NONE = "-"


@dataclass(frozen=True, slots=True)
class Run:
    """How the figures of a page came about."""

    page: Page
    command: str
    rounds: int
    seconds: int
    servers: tuple[str, ...]
    loads: tuple[str, ...]
    is_complete: bool


def write(results: Results, run: Run, path: Path, chart_name: str | None) -> None:
    """Write the page of ``run`` to ``path``; ``chart_name`` is the chart's file beside it."""
    results = {key: rounds for key, rounds in results.items() if LOADS[key[0]].page is run.page}
    parts = [f"# {run.page.title}\n", *_introduction(results, run)]
    if chart_name:
        parts.append(f"![CPU per {_unit(run.page)} by server and load]({chart_name})\n")
    parts += ["## Must show\n", *must_show(results, run.page)]
    if any(LOADS[load].tool is not Tool.IDLE for load in run.loads):
        parts += [f"## Outrider's CPU per {_unit(run.page)} over each server's\n", ratio_table(results, run), ""]
    for load in run.loads:
        if any(key == load for key, _ in results):
            parts += [
                f"## {LOADS[load].title}\n",
                f"{LOADS[load].detail[0].upper()}{LOADS[load].detail[1:]}.\n",
            ]
            parts += [load_table(results, LOADS[load]), "", *_notes(results, load)]
    path.write_text("\n".join(parts).rstrip() + "\n")


def _unit(page: Page) -> str:
    return "message" if page is Page.WEBSOCKET else "request"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; columns after the first are aligned to the right."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def _introduction(results: Results, run: Run) -> list[str]:
    rounds = "1 round" if run.rounds == 1 else f"{run.rounds} rounds"
    lines = [f"Made by `{run.command}`: {rounds} of {run.seconds} s.\n"]
    if not run.is_complete:
        lines.append("**The run was not finished.** What follows is what had been measured.\n")
    if run.rounds < ROUNDS_OF_A_RESULT:
        lines.append(f"**Fewer than {ROUNDS_OF_A_RESULT} rounds: a try-out, not a result.**\n")
    about = [_ABOUT[run.page]] if _ABOUT[run.page] else []
    how = _HOW.format(unit=_unit(run.page))
    return [*lines, how, *about, *machine(), _quietness(results), versions(run.servers), ""]


def machine() -> list[str]:
    """Return list items that describe the machine."""
    today = dt.datetime.now(tz=dt.UTC).date()
    return [
        f"- Date: {today:%Y-%m-%d}",
        f"- Machine: {_cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"- {platform.python_implementation()} {platform.python_version()}",
    ]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _quietness(results: Results) -> str:
    samples = [sample for rounds in results.values() for sample in rounds if isinstance(sample, Sample)]
    shares = [sample.foreign_use for sample in samples if sample.requests_per_second]
    if not shares:
        return "- Others on the server's core: not measured"
    disturbed = sum(share > 0.05 for share in shares)
    return (
        f"- Others on the server's core: {max(shares):.1%} of it at most; above 5 % in {disturbed} of "
        f"{len(shares)} measurements"
    )


def versions(servers: Iterable[str]) -> str:
    """Return a list item with the version of each package that ``servers`` need."""
    found = {}
    for package in [*(name for server in servers for name in SERVERS[server].packages), "fastapi"]:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "(source)" if package == OUTRIDER else "(missing)"
    return "- " + ", ".join(f"{package} {version}" for package, version in found.items())


def must_show(results: Results, page: Page) -> list[str]:
    """Return the table of a page's CPU targets and the list of its other targets, each with pass or miss."""
    loads = [load for load in CPU_TARGETS if LOADS[load].page is page]
    peers = list(dict.fromkeys(peer for load in loads for peer in CPU_TARGETS[load]))
    rows = []
    for load in loads:
        verdicts = cpu_verdicts(results, load)
        rows.append([LOADS[load].title, *(_judged(verdicts[peer]) if peer in verdicts else _NONE for peer in peers)])
    header = [f"CPU per {_unit(page)}", *(f"vs {SERVERS[peer].label}" for peer in peers)]
    others = [[verdict.name, _judged(verdict)] for verdict in other_verdicts(results, page)]
    listed = [table(["other targets", "measured"], others), ""] if others else []
    return [table(header, rows), "", *listed]


def _judged(verdict: Verdict) -> str:
    if verdict.passed is None:
        return verdict.measured
    sign, word = ("≤", "pass") if verdict.passed else (">", "**miss**")
    return f"{verdict.measured} {sign} {verdict.limit} {word}{' ⚠' if verdict.marked else ''}"


def ratio_table(results: Results, run: Run) -> str:
    """Return a table of the ratios of all loads that count requests."""
    measured = {server for _, server in results}
    peers = [server for server in run.servers if server != OUTRIDER and server in measured]
    rows = []
    for load in run.loads:
        if LOADS[load].tool is not Tool.IDLE:
            by_server = rows_of(results, load)
            rows.append([LOADS[load].title, *(_ratio(by_server, peer) for peer in peers)])
    return table(["load", *(SERVERS[peer].label for peer in peers)], rows)


def _ratio(rows: dict[str, Row], peer: str) -> str:
    ratio = cpu_ratio(rows, peer)
    return _NONE if ratio is None else f"{ratio:.2f}"


def load_table(results: Results, load: Load) -> str:
    """Return the table of one load, with a row for each server tried, the failed ones included."""
    rows = rows_of(results, load.key)
    header, cells = (_IDLE_HEADER, _idle_cells) if load.tool is Tool.IDLE else (_header(load), _cells)
    if load.held and load.tool is not Tool.IDLE:
        header = [*header, "KiB per idle connection"]
    lines = []
    for key, server in results:
        if key != load.key:
            continue
        label = SERVERS[server].label
        if server in rows:
            mark = "" if rows[server].is_clean else " ⚠"
            line = [label + mark, *cells(rows, server)]
            if load.held and load.tool is not Tool.IDLE:
                line.append(f"{rows[server].middle.kib_per_connection:.1f}")
        else:
            line = [f"{label}: {_first_reason(results[key, server])}", *[_NONE] * (len(header) - 1)]
        lines.append(line)
    return table(header, lines)


_IDLE_HEADER = ["server", "KiB per connection", "all, PSS MiB", "idle CPU, none open", "idle CPU, all open"]


def _header(load: Load) -> list[str]:
    unit = load.unit
    return ["server", f"{unit}s/s", f"CPU µs/{unit}", "ratio", "p50 ms", "p99 ms", "RSS (PSS) MiB", "core"]


def _cells(rows: dict[str, Row], server: str) -> list[str]:
    middle = rows[server].middle
    low, high = rows[server].cpu_range
    return [
        f"{middle.requests_per_second:,.0f}".replace(",", " "),
        f"{middle.cpu_us:.1f} ({low:.1f} to {high:.1f})",
        _ratio(rows, server),
        _milliseconds(middle.p50_us),
        _milliseconds(middle.p99_us),
        f"{middle.rss_kib / 1024:.1f} ({middle.pss_kib / 1024:.1f})",
        f"{middle.core_use:.0%}",
    ]


def _milliseconds(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f}" if microseconds else _NONE


def _idle_cells(rows: dict[str, Row], server: str) -> list[str]:
    middle = rows[server].middle
    return [
        f"{middle.kib_per_connection:.1f}",
        f"{middle.pss_kib / 1024:.1f}",
        f"{middle.idle_use:.2%}",
        f"{middle.core_use:.2%}",
    ]


def _first_reason(rounds: Iterable[Sample | Failure]) -> str:
    reason = next((failure.reason for failure in rounds if isinstance(failure, Failure)), "not measured")
    return reason.replace("|", "\\|")


def _notes(results: Results, load: str) -> list[str]:
    lines = []
    for server, row in rows_of(results, load).items():
        said = [f"{count} {_FAULT_NAMES.get(kind, kind)}" for kind, count in row.middle.faults.items()]
        said += [f"{len(row.failures)} rounds missing ({row.failures[0]})"] if row.failures else []
        if said:
            lines.append(f"- ⚠ {SERVERS[server].label}, in {row.rounds} rounds: {', '.join(said)}")
    return [*lines, ""] if lines else []


_FAULT_NAMES = {
    "connect": "connections refused",
    "read": "read errors",
    "write": "write errors",
    "status": "answers above 399",
    "timeout": "timeouts",
}
