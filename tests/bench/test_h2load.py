from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import h2load
import wrk
from address import Address
from loads import LOADS

LOAD = LOADS["h2c-plaintext"]
OUTPUT = """\
starting benchmark...
Application protocol: h2c
finished in 4.00s, 50000.25 req/s, 2.05MB/s
requests: 200001 total, 0 started, 9 done, {succeeded} succeeded, {failed} failed, {errored} errored, {timeout} timeout
status codes: 200001 2xx, 0 3xx, 2 4xx, 1 5xx
traffic: 8.20MB (8600043) total, 1.91MB (2000010) headers (space savings 93.00%), 2.48MB (2600013) data
"""


def test_parse_reads_result_and_errors() -> None:
    output = OUTPUT.format(succeeded=200_001, failed=7, errored=7, timeout=2)
    expected = wrk.Result(200_001, 4.0, 0.0, 0.0, {"read": 5, "status": 3, "timeout": 2})
    assert h2load.parse(output) == expected


def test_parse_reads_times_in_milliseconds() -> None:
    output = OUTPUT.format(succeeded=1, failed=0, errored=0, timeout=0).replace("4.00s", "950.00ms")
    assert h2load.parse(output).seconds == pytest.approx(0.95)


@pytest.mark.parametrize("output, said", [("", "no output"), ("starting\nCould not connect\n", "Could not connect")])
def test_parse_quotes_last_line_when_there_is_no_result(output: str, said: str) -> None:
    with pytest.raises(wrk.LoadError, match=said):
        h2load.parse(output)


def pretend(directory: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = directory / name
    tool.write_text(f'#!/bin/sh\necho "$@" > {directory}/arguments\n{script}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


def test_run_pins_h2load_and_passes_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "output").write_text(OUTPUT.format(succeeded=5, failed=0, errored=0, timeout=0))
    pretend(tmp_path, "taskset", f"cat {tmp_path}/output", monkeypatch)
    assert h2load.run(LOADS["h2-plaintext"], Address(8443, uses_tls=True), seconds=4, core=1).requests == 5
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments == ["-c", "1", "h2load", "-c16", "-m16", "-D4", "-t1", "https://127.0.0.1:8443/"]


def test_check_compares_the_bodies_of_all_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, "nghttp", "printf 'Hello, World!Hello, World!'", monkeypatch)
    assert h2load.check(LOAD, Address(8000), 2) == ""
    assert "--multiply=2" in (tmp_path / "arguments").read_text()
    assert h2load.check(LOAD, Address(8000), 100) == "wrong answer: 26 bytes that are not the 208 expected"
    assert h2load.check(LOAD, Address(8000), 1) == "wrong answer: 26 bytes that are not the 13 expected"


def test_check_without_an_answer_says_what_nghttp_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, "nghttp", "echo '[ERROR] Could not connect to the host' >&2", monkeypatch)
    with pytest.raises(ConnectionError, match="Could not connect to the host"):
        h2load.check(LOAD, Address(8000), 1)


def test_check_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_options: object) -> None:
        raise subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(TimeoutError, match="no answer over HTTP/2"):
        h2load.check(LOAD, Address(8000), 1)
