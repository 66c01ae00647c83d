from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import held
import run
from loads import LOADS, Load, Page
from measure import Failure, Sample, Setup
from servers import SERVERS, Server


def test_options_default_to_everything() -> None:
    options = run.parse_arguments([])
    assert (options.rounds, options.seconds, options.output) == (5, 4, Path("docs"))
    assert options.loads == tuple(LOADS)
    assert options.servers == tuple(SERVERS)


def test_option_loads_takes_all_of_a_page_by_its_name() -> None:
    options = run.parse_arguments(["--loads", "tls-plaintext,http2,json"])
    assert options.loads[0] == "tls-plaintext"
    assert options.loads[-1] == "json"
    assert set(options.loads) == {load.key for load in LOADS.values() if load.page is Page.HTTP2} | {"json"}
    assert len(options.loads) == len(set(options.loads))


def test_option_quick_is_one_short_round() -> None:
    options = run.parse_arguments(["--quick", "--rounds", "9"])
    assert (options.rounds, options.seconds) == (1, 1)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--loads", "plaintext,nope"], "nope is not among http1, websocket, http2, plaintext, json"),
        (["--servers", ""], "nothing is not among outrider"),
        (["--rounds", "0"], "0 is not at least 1"),
    ],
)
def test_bad_option_is_refused_by_name(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.parse_arguments(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_reproduce_names_only_what_was_chosen() -> None:
    options = run.parse_arguments(["--loads", "json,echo", "--rounds", "7", "--output", "elsewhere"])
    assert run.reproduce(options, Page.HTTP1) == 'make bench ARGS="--rounds 7 --loads json,echo"'


@pytest.mark.parametrize("page", Page)
def test_reproduce_names_the_page_when_all_its_loads_were_chosen(page: Page) -> None:
    command = run.reproduce(run.parse_arguments(["--output", "elsewhere"]), page)
    assert command == f'make bench ARGS="--loads {page.key}"'


def test_main_says_how_to_install_wrk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "wrk" else tool)
    assert run.main([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "apt-get install wrk" in said


def test_main_says_how_to_install_taskset(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "taskset" else tool)
    assert run.main([]) == 2
    assert "apt-get install util-linux" in capsys.readouterr().err


def test_tool_is_required_for_its_loads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: tool if tool in {"taskset", "wrk"} else None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 2})
    assert run.missing_requirement(["plaintext", "websocket-idle"]) == ""
    assert "apt-get install nghttp2-client" in run.missing_requirement(["plaintext", "h2-plaintext"])


def test_main_needs_two_cores(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    assert run.main([]) == 2
    assert "two CPU cores" in capsys.readouterr().err


class Bench:
    """Stands in for real measurements and records their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.setups: set[Setup] = set()
        monkeypatch.setattr(shutil, "which", lambda tool: tool)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {4, 2, 9})
        monkeypatch.setattr(os, "sched_setaffinity", lambda _pid, cores: self.order.append(f"pin {cores}"))
        monkeypatch.setattr(held, "raise_descriptor_limit", lambda wanted: wanted)
        monkeypatch.setattr(run, "measure", self._measure)
        monkeypatch.setattr(run, "_draw", lambda _results, _page, _path: False)

    def _measure(self, server: Server, load: Load, setup: Setup) -> Sample | Failure:
        self.order.append(server.key)
        self.setups.add(setup)
        return Failure("failed to start: no") if server.key == "hypercorn" else Sample(1000.0, 10.0)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_main_interleaves_rounds_and_turns_their_order(bench: Bench, tmp_path: Path) -> None:
    chosen = ["--rounds", "2", "--loads", "json", "--servers", "outrider,uvicorn,hypercorn"]
    assert run.main([*chosen, "--output", str(tmp_path)]) == 0
    assert bench.order == ["pin {4}", "outrider", "uvicorn", "hypercorn", "uvicorn", "hypercorn", "outrider"]
    assert bench.setups == {Setup(4, 2, 4, 64)}


def test_main_keeps_the_floor_out_of_loads_it_cannot_answer(bench: Bench, tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--loads", "echo,plaintext", "--servers", "outrider,floor"]
    run.main([*arguments, "--output", str(tmp_path)])
    assert bench.order[1:] == ["outrider", "outrider", "floor"]


def test_main_asks_a_server_only_for_what_it_speaks(bench: Bench, tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--loads", "websocket-64b-32-deflate", "--servers", "outrider,granian,floor"]
    run.main([*arguments, "--output", str(tmp_path)])
    assert bench.order[1:] == ["outrider"]


@pytest.mark.usefixtures("bench")
def test_main_writes_the_pages_of_the_chosen_loads(tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--loads", "tls-plaintext,websocket-idle", "--servers", "outrider"]
    run.main([*arguments, "--output", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmarks-http2.md", "benchmarks-websocket.md"]
    text = (tmp_path / "benchmarks-http2.md").read_text()
    assert 'Made by `make bench ARGS="--rounds 1 --loads tls-plaintext --servers outrider"`' in text
    assert "not finished" not in text


@pytest.mark.usefixtures("bench")
def test_main_reports_servers_that_fail(tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--loads", "json", "--servers", "outrider,hypercorn"]
    run.main([*arguments, "--output", str(tmp_path)])
    assert "| Hypercorn (uvloop): failed to start: no |" in (tmp_path / "benchmarks.md").read_text()


@pytest.mark.usefixtures("bench")
def test_main_keeps_what_it_has_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_server: Server, load: Load, _setup: Setup) -> Sample:
        if load.key == "echo":
            raise KeyboardInterrupt
        return Sample(1000.0, 10.0)

    monkeypatch.setattr(run, "measure", measure)
    arguments = ["--rounds", "1", "--loads", "json,echo", "--servers", "outrider"]
    assert run.main([*arguments, "--output", str(tmp_path)]) == 130
    text = (tmp_path / "benchmarks.md").read_text()
    assert "The run was not finished" in text
    assert "## FastAPI JSON" in text
