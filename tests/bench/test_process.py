from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import procstat
from loads import LOADS
from process import RunningServer, ServerError, summarise_output
from servers import SERVERS, Server


def test_summarise_output_prefers_the_last_error() -> None:
    text = "Starting\nTraceback (most recent call last):\nImportError: no such name\n[INFO] Shutting down\n"
    assert summarise_output(text) == "ImportError: no such name"


def test_summarise_output_falls_back_to_the_last_line() -> None:
    assert summarise_output("one\ntwo\n\n") == "two"
    assert summarise_output("") == "no output"


def test_summarise_output_drops_directories() -> None:
    assert summarise_output(f"{sys.executable}: No module named granian") == "python: No module named granian"
    assert summarise_output("error in /home/someone/app/main.py line 3") == "error in …/main.py line 3"
    assert summarise_output("error at http://host/path/x") == "error at http://host/path/x"


def running(server: Server, workdir: Path) -> RunningServer:
    return RunningServer(server, LOADS["plaintext"], min(os.sched_getaffinity(0)), workdir)


def test_server_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('Error: no such worker class')"]
    broken = Server("broken", "Broken", (), lambda _launch: command)
    with (
        pytest.raises(ServerError, match=r"^failed to start: Error: no such worker class$"),
        running(broken, tmp_path),
    ):
        pass


def test_server_with_wrong_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("process.START_DEADLINE", 0.1)
    server = RunningServer(SERVERS["floor"], LOADS["echo"], min(os.sched_getaffinity(0)), tmp_path)
    with pytest.raises(ServerError, match=r"^failed to start: "), server:
        pass


def test_server_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    with running(SERVERS["floor"], tmp_path) as server:
        tree = server.tree()
        server.check_alive()
    assert procstat.session(tree[0]) == []
    with pytest.raises(ServerError, match="died under load"):
        server.check_alive()


def test_logged_lines_are_of_the_output_where_there_is_no_log(tmp_path: Path) -> None:
    server = running(SERVERS["floor"], tmp_path)
    server.output.write_bytes(b"a\nb\n")
    assert server.logged_lines() == 2
    server.access_log.write_bytes(b"a\nb\nc\n")
    assert server.logged_lines() == 3
