from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing import walkthrough
from outrider_testing.walkthrough import Machine, PageError, Walkthrough, lonely_machine

pytestmark = pytest.mark.external

APP = """\
```python title="app.py"
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here\\n"})
```
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    with lonely_machine() as machine:
        yield machine


def follow(machine: Machine, directory: Path, page: str) -> list[str]:
    path = directory / "page.md"
    path.write_text(page)
    return [command.text for command in Walkthrough(str(path), machine, directory).walk()]


def test_terminal_keeps_directory_variables_and_status(machine: Machine, tmp_path: Path) -> None:
    page = "```console\n$ mkdir a && cd a\n$ export B=c\n$ pwd\n/srv/shop/a\n$ false\n$ echo $? $B\n1 c\n```\n"
    assert len(follow(machine, tmp_path, page)) == 5


def test_terminal_is_in_no_time_zone(machine: Machine, tmp_path: Path) -> None:
    assert len(follow(machine, tmp_path, "```console\n$ echo $TZ\nUTC\n```\n")) == 1


def test_files_are_written_when_the_page_comes_to_them(machine: Machine, tmp_path: Path) -> None:
    versions = [f'```text title="a"\n{text}\n```\n```console\n$ cat a\n{text}\n```\n' for text in ("one", "two")]
    assert len(follow(machine, tmp_path, "".join(versions))) == 2


@pytest.mark.parametrize(
    "untrue",
    ["$ echo here\nthere", "$ false", "$ echo here", "$ echo 'Error: x'\nError: x", "$ outrider run nothing:app"],
    ids=["other output", "failure", "output that is not shown", "success of what should fail", "no server"],
)
def test_untrue_page_is_told(machine: Machine, tmp_path: Path, untrue: str) -> None:
    with pytest.raises(PageError, match=r"page\.md:2: "):
        follow(machine, tmp_path, f"```console\n{untrue}\n```\n")


def test_server_that_never_says_what_is_shown_is_told(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walkthrough, "START_DEADLINE", 8.0)
    page = f"{APP}\n```console\n$ outrider run app:app --name shop\n[1234] supervisor of nothing\n```\n"
    with pytest.raises(PageError, match=r"not within 8\.0 s what is shown"):
        follow(machine, tmp_path, page)


@pytest.mark.parametrize(
    "server",
    ["outrider run app:app --name shop", "gunicorn app:app -k outrider.UvicornWorker"],
    ids=["run", "gunicorn"],
)
def test_server_serves_until_the_page_ends_it(machine: Machine, tmp_path: Path, server: str) -> None:
    after = "Press Ctrl-C.\n\n```console\n$ curl -s localhost:8000\n$ echo $?\n7\n```\n"
    page = f"{APP}\n```console\n$ {server}\n…\n$ curl -s localhost:8000\nhere\n```\n\n{after}"
    assert len(follow(machine, tmp_path, page)) == 4


def test_next_server_takes_the_place_of_the_one_before(machine: Machine, tmp_path: Path) -> None:
    servers = "$ outrider run app:app --name a\n$ outrider run app:app --name b\n"
    page = f"{APP}\n```console\n{servers}$ outrider status\nb: serving, 1 of 1 worker ready\n…\n```\n"
    assert len(follow(machine, tmp_path, page)) == 3


def test_process_id_of_a_page_is_that_of_this_run(machine: Machine, tmp_path: Path) -> None:
    run = "$ outrider run app:app --name shop\n[2026-11-21 22:00:00 +0000] [4711] [INFO] supervisor of shop (4711), …\n"
    page = f"{APP}\n```console\n{run}$ kill -HUP 4711\n```\n"
    assert len(follow(machine, tmp_path, page)) == 2


def test_process_id_that_a_command_prints_is_that_of_this_run(machine: Machine, tmp_path: Path) -> None:
    page = "```console\n$ echo pid 12345\npid 4711\n$ [ 4711 = 12345 ]\n```\n"
    assert len(follow(machine, tmp_path, page)) == 2
