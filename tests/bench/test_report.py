from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

import report
from loads import LOADS, Page
from measure import Failure, Sample
from summary import Results

SERVERS = ("outrider", "uvicorn", "hypercorn")
RUN = report.Run(Page.HTTP1, "python tests/bench", 5, 4, SERVERS, ("plaintext",), is_complete=True)


@pytest.fixture
def results() -> Results:
    outrider = Sample(88_000.0, 11.0, 700, 1500, rss_kib=30 * 1024, pss_kib=20 * 1024, core_use=0.99)
    uvicorn = Sample(40_000.0, 22.0, 1500, 3000, 31 * 1024, 21 * 1024, 1.0, faults={"read": 1, "timeout": 2})
    return {
        ("plaintext", "outrider"): [outrider] * 5,
        ("plaintext", "uvicorn"): [uvicorn] * 5,
        ("plaintext", "hypercorn"): [Failure("failed to start: a | b")] * 5,
    }


def test_table_is_markdown() -> None:
    assert report.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --: |\n| 1 | 2 |"


def test_load_table_has_a_row_for_each_server(results: Results) -> None:
    lines = report.load_table(results, LOADS["plaintext"]).splitlines()[2:]
    assert lines[0].startswith("| Outrider (gunicorn) | 88 000 | 11.0 (11.0 to 11.0) | 1.00 | 0.70 | 1.50 |")
    assert lines[1].startswith("| uvicorn (httptools) ⚠ | 40 000 | 22.0")
    assert lines[2].startswith("| Hypercorn (uvloop): failed to start: a \\| b | - |")


def test_load_table_shows_memory_of_held_connections() -> None:
    lines = report.load_table({("held", "outrider"): [Sample(cpu_us=1, kib_per_connection=5.25)]}, LOADS["held"])
    assert lines.splitlines()[0].endswith("KiB per idle connection |")
    assert lines.splitlines()[2].endswith("| 5.2 |")


def test_load_table_of_idle_has_its_own_columns() -> None:
    sample = Sample(kib_per_connection=5.0, pss_kib=81_920, idle_use=0.001, core_use=0.002)
    lines = report.load_table({("idle", "outrider"): [sample]}, LOADS["idle"]).splitlines()
    assert lines[2] == "| Outrider (gunicorn) | 5.0 | 80.0 | 0.10% | 0.20% |"


def test_load_table_hides_latencies_that_were_not_measured() -> None:
    lines = report.load_table({("pipelined", "outrider"): [Sample(cpu_us=1)]}, LOADS["pipelined"])
    assert "| 1.00 | - | - |" in lines


def test_must_show_says_pass_and_miss(results: Results) -> None:
    text = "\n".join(report.must_show(results, Page.HTTP1))
    assert "| Plaintext | 0.50 ≤ 0.50 pass ⚠ | not measured |" in text
    assert "| 0.93 " not in text
    passing = report.must_show({key: rounds for key, rounds in results.items() if key[1] != "uvicorn"}, Page.HTTP1)
    assert "pass" not in "\n".join(passing)


def test_must_show_marks_a_miss() -> None:
    results: Results = {("echo", "outrider"): [Sample(cpu_us=30)], ("echo", "h2corn"): [Sample(cpu_us=20)]}
    assert "1.50 > 1.00 **miss**" in "\n".join(report.must_show(results, Page.HTTP1))


def test_must_show_of_a_page_without_other_targets_has_one_table() -> None:
    lines = report.must_show({}, Page.HTTP2)
    assert lines[0].startswith("| CPU per request | vs uvicorn (httptools) | vs Granian | vs h2corn |")
    assert len(lines) == 2


def test_page_of_websockets_counts_messages_and_leaves_out_other_loads(results: Results, tmp_path: Path) -> None:
    load = "websocket-64b-32"
    measured: Results = {
        **results,
        (load, "outrider"): [Sample(90_000.0, 10.0)] * 5,
        (load, "uvicorn"): [Sample(1.0, 15.0)] * 5,
    }
    run = report.Run(Page.WEBSOCKET, "x", 5, 4, SERVERS, (load,), is_complete=True)
    report.write(measured, run, tmp_path / "page.md", "page.png")
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("# Benchmarks: WebSocket\n")
    assert "| server | messages/s | CPU µs/message | ratio |" in text
    assert "| 64 B echo, 32 connections | 0.67 ≤ 0.70 pass |" in text
    assert "| load | uvicorn (httptools) |\n" in text
    assert "![CPU per message by server and load](page.png)" in text
    assert "Plaintext" not in text


def test_ratio_table_leaves_out_outrider_itself(results: Results) -> None:
    header, _, line = report.ratio_table(results, RUN).splitlines()
    assert header == "| load | uvicorn (httptools) | Hypercorn (uvloop) |"
    assert line == "| Plaintext | 0.50 | - |"


def test_versions_tell_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "zttp":
            raise importlib.metadata.PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert report.versions(["uvicorn-zttp"]) == "- uvicorn 1.0, uvloop 1.0, zttp (missing), fastapi 1.0"


def test_page_of_idle_connections_alone_has_no_ratios(tmp_path: Path) -> None:
    run = report.Run(Page.HTTP1, "x", 5, 4, SERVERS, ("idle",), is_complete=True)
    report.write({("idle", "outrider"): [Sample(kib_per_connection=5.0)] * 5}, run, tmp_path / "page.md", None)
    text = (tmp_path / "page.md").read_text()
    assert "over each server's" not in text
    assert "| Outrider (gunicorn) | 5.0 |" in text


def test_write_lists_errors_below_their_table(results: Results, tmp_path: Path) -> None:
    report.write(results, RUN, tmp_path / "benchmarks.md", "benchmarks.png")
    text = (tmp_path / "benchmarks.md").read_text()
    assert "- ⚠ uvicorn (httptools), in 5 rounds: 5 read errors, 10 timeouts" in text
    assert "![CPU per request by server and load](benchmarks.png)" in text
    assert "try-out" not in text
    assert "not finished" not in text


def test_write_says_when_it_is_no_result(results: Results, tmp_path: Path) -> None:
    run = report.Run(Page.HTTP1, "x", 1, 1, RUN.servers, RUN.loads, is_complete=False)
    report.write(results, run, tmp_path / "benchmarks.md", None)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "Fewer than 5 rounds" in text
    assert "The run was not finished" in text
    assert "![" not in text


def test_write_counts_disturbed_measurements(results: Results, tmp_path: Path) -> None:
    disturbed = Sample(1.0, 1.0, foreign_use=0.3)
    report.write({**results, ("json", "outrider"): [disturbed]}, RUN, tmp_path / "benchmarks.md", None)
    assert "30.0% of it at most; above 5 % in 1 of 11" in (tmp_path / "benchmarks.md").read_text()
