"""Run h2load, and read what it prints at the end; check a server over HTTP/2 with nghttp, which comes with it."""

from __future__ import annotations

import re
import subprocess

from address import Address
from loads import Load
from wrk import LoadError, Result, run_pinned

_TIMEOUT = 10.0
_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s)\b", re.MULTILINE)
_REQUESTS = re.compile(r"^requests: .*?(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", re.MULTILINE)
_STATUS = re.compile(r"^status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", re.MULTILINE)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def parse(output: str) -> Result:
    """Return the result in h2load's output; it has no percentiles, so that the latencies are 0.

    Raises:
        LoadError: there is none.

    """
    finished, requests, status = (pattern.search(output) for pattern in (_FINISHED, _REQUESTS, _STATUS))
    if finished is None or requests is None or status is None:
        last = output.strip().splitlines()[-1:] or ["no output"]
        raise LoadError(f"h2load printed no result: {last[0]}")
    succeeded, failed, errored, timeouts = map(int, requests.groups())
    kinds = {"read": max(failed, errored) - timeouts, "status": sum(map(int, status.groups())), "timeout": timeouts}
    errors = {kind: count for kind, count in kinds.items() if count}
    return Result(succeeded, float(finished[1]) * _UNITS[finished[2]], 0.0, 0.0, errors)


def run(load: Load, address: Address, seconds: int, core: int) -> Result:
    """Run h2load with ``load`` against ``address``, pinned to ``core``, for ``seconds``.

    Raises:
        LoadError: it failed, hung or printed no result.

    """
    options = [f"-c{load.connections}", f"-m{load.streams}", f"-D{seconds}", "-t1"]
    return parse(run_pinned(["h2load", *options, f"{address.url}{load.path}"], core, seconds))


def check(load: Load, address: Address, times: int) -> str:
    """Make ``times`` requests and return what is wrong with an answer, or the empty string.

    nghttp makes all at once: no more than the load does.

    Raises:
        OSError: no answer.

    """
    times = min(times, load.streams)
    command = ["nghttp", "--no-verify-peer", f"--multiply={times}", f"{address.url}{load.path}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError("no answer over HTTP/2") from None
    if done.returncode or not done.stdout:
        words = done.stderr.decode(errors="replace").split() or ["nothing"]
        raise ConnectionError(f"no answer over HTTP/2: {' '.join(words)}")
    if done.stdout != load.expected * times:
        return f"wrong answer: {len(done.stdout)} bytes that are not the {len(load.expected) * times} expected"
    return ""
