"""Run wrk, and read what its script prints at the end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from address import Address
from loads import Load

MARK = "RESULT "
ERROR_KINDS = ("connect", "read", "write", "status", "timeout")

# wrk's own summary rounds the latencies; done() has them in microseconds. summary.errors.status counts
# answers above 399. Without a request() function wrk sends one constant: then a script costs nothing.
_DONE = """
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n%s{"requests":%%d,"duration_us":%%d,"p50_us":%%d,"p99_us":%%d,' ..
    '"connect":%%d,"read":%%d,"write":%%d,"status":%%d,"timeout":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
"""
DONE = _DONE % MARK
"""What a script must have for `parse` to find a result."""

_PIPELINE = """
init = function(args)
  local one = {}
  for i = 1, %d do one[i] = wrk.format() end
  batch = table.concat(one)
end
request = function() return batch end
"""


class LoadError(Exception):
    """The load generator could not run, or printed no result."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a load generator counted."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: dict[str, int]
    """Only the kinds that happened."""


def script(load: Load) -> str:
    """Return the Lua script that makes wrk send ``load`` and print a result that `parse` reads."""
    lines = [f"wrk.method = {json.dumps(load.method)}"]
    if load.body:
        lines.append(f"wrk.body = {json.dumps(load.body.decode('ascii'))}")
    if load.pipeline > 1:
        lines.append(_PIPELINE % load.pipeline)
    return "\n".join(lines) + DONE


def parse(output: str) -> Result:
    """Return the result in a load generator's output.

    Raises:
        LoadError: there is none.

    """
    for line in output.splitlines():
        if line.startswith(MARK):
            values: dict[str, int] = json.loads(line.removeprefix(MARK))
            errors = {kind: values[kind] for kind in ERROR_KINDS if values[kind]}
            seconds = values["duration_us"] / 1e6
            return Result(values["requests"], seconds, values["p50_us"], values["p99_us"], errors)
    last = output.strip().splitlines()[-1:] or ["no output"]
    raise LoadError(f"the load generator printed no result: {last[0]}")


def run_pinned(command: list[str], core: int, seconds: int, descriptors: Sequence[int] = ()) -> str:
    """Run a load generator pinned to ``core`` for ``seconds`` and return what it prints.

    It inherits ``descriptors``.

    Raises:
        LoadError: it hung.

    """
    try:
        done = subprocess.run(
            ["taskset", "-c", str(core), *command],
            capture_output=True,
            text=True,
            timeout=seconds + 30,
            check=False,
            pass_fds=descriptors,
        )
    except subprocess.TimeoutExpired:
        raise LoadError(f"the load generator did not end within {seconds + 30} s") from None
    return done.stdout + done.stderr


def run(load: Load, address: Address, seconds: int, core: int, workdir: Path) -> Result:
    """Run wrk with ``load`` against ``address``, pinned to ``core``, for ``seconds``.

    Raises:
        LoadError: it failed, hung or printed no result.

    """
    lua = workdir / "load.lua"
    lua.write_text(script(load))
    url = f"{address.url}{load.path}"
    options = ["-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(lua)]
    return parse(run_pinned(["wrk", *options, url], core, seconds))
