from __future__ import annotations

from pathlib import Path

import pytest

import wrk
from address import Address
from loads import LOADS

LINE = (
    'RESULT {"requests":400000,"duration_us":4000000,"p50_us":812,"p99_us":2100,'
    '"connect":0,"read":3,"write":0,"status":10,"timeout":0}'
)


def test_parse_reads_result_among_other_output() -> None:
    result = wrk.parse(f"Running 4s test\n  1 threads and 64 connections\n{LINE}\n")
    assert result == wrk.Result(400_000, 4.0, 812, 2100, {"read": 3, "status": 10})


def test_parse_quotes_last_line_when_there_is_no_result() -> None:
    with pytest.raises(wrk.LoadError, match="unable to connect"):
        wrk.parse("Running\nunable to connect to 127.0.0.1:1 Connection refused\n")


def test_parse_refuses_empty_output() -> None:
    with pytest.raises(wrk.LoadError, match="no output"):
        wrk.parse("")


def test_script_of_get_leaves_request_constant() -> None:
    script = wrk.script(LOADS["plaintext"])
    assert 'wrk.method = "GET"' in script
    assert "request = function" not in script
    assert 'RESULT {"requests":%d' in script


def test_script_of_post_carries_body() -> None:
    script = wrk.script(LOADS["echo"])
    assert 'wrk.method = "POST"' in script
    assert '"' + "0123456789abcdef" * 1024 + '"' in script


def test_script_of_pipeline_sends_the_whole_batch() -> None:
    script = wrk.script(LOADS["pipelined"])
    assert "for i = 1, 64 do" in script
    assert "request = function() return batch end" in script


def test_run_pins_wrk_and_passes_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taskset = tmp_path / "taskset"
    taskset.write_text(f"#!/bin/sh\necho '{LINE}'\necho \"$@\" > {tmp_path}/arguments\n")
    taskset.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    result = wrk.run(LOADS["json"], Address(8000), seconds=4, core=1, workdir=tmp_path)
    assert result.requests == 400_000
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:3] == ["-c", "1", "wrk"]
    assert {"-t1", "-c64", "-d4s"} <= set(arguments)
    assert arguments[-1] == "http://127.0.0.1:8000/json"
