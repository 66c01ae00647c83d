"""Each command of each page is run by one test, or `ELSEWHERE` says why by none, and what was checked instead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from outrider_testing.documented import REPOSITORY, Command, commands, mistaken, pages
from outrider_testing.walkthrough import Walkthrough, lonely_machine

GIVEN = {
    "shop.py": """\
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"16")]})
    await send({"type": "http.response.body", "body": b"hello from shop\\n"})
""",
}
GIVEN["app.py"] = GIVEN["shop.py"]
"""What the reader of a page has, where it does not show these files itself: an application."""

FOLLOWED = (
    "docs/explanation/autoscaling.md",
    "docs/explanation/drain.md",
    "docs/guide/http2.md",
    "docs/guide/supervisor.md",
    "docs/guide/tls.md",
    "docs/how-to/autoscale.md",
    "docs/how-to/debug-a-stall.md",
    "docs/how-to/migrate-from-granian.md",
    "docs/how-to/migrate-from-gunicorn.md",
    "docs/how-to/migrate-from-uvicorn.md",
    "docs/how-to/migrate-from-uvicorn-worker.md",
    "docs/reference/control-api.md",
    "docs/reference/logging.md",
    "docs/reference/metrics.md",
    "docs/tutorial.md",
)
"""Pages whose commands are run below, in order, on a machine with Python, our package and curl."""


@dataclass(frozen=True)
class Elsewhere:
    """Commands of `page` that match `pattern` from their beginning, and are not run below.

    Attributes:
        test: the file that runs them as the page shows them, or that has checked what is said in `instead`.
        instead: why nobody can run them here, and what was checked; empty if `test` does run them.
    """

    page: str
    test: str
    pattern: str = ""
    instead: str = ""

    def has(self, command: Command) -> bool:
        return command.page == self.page and re.match(self.pattern, command.text) is not None


CI = ".ci/run"

ELSEWHERE: tuple[Elsewhere, ...] = (
    Elsewhere("CONTRIBUTING.md", CI, r"make (?!format)\w+"),
    Elsewhere("CONTRIBUTING.md", CI, "make format", "it would change the tree; `make lint` checks the same, in CI"),
    Elsewhere("CONTRIBUTING.md", CI, "make +#", "it lists targets, of which CI runs most"),
    Elsewhere("README.md", "tests/deploy/test_newcomer.py"),
    Elsewhere("docs/how-to/kubernetes.md", "tests/deploy/test_kubernetes_page.py"),  # has a table of its own
    Elsewhere("docs/how-to/containers.md", "tests/deploy/test_containers.py"),  # has a table of its own
    Elsewhere("docs/how-to/proxies.md", "tests/deploy/test_proxies_page.py"),
    Elsewhere("docs/how-to/zero-downtime.md", "tests/deploy/test_newcomer.py"),
    Elsewhere("docs/how-to/many-machines.md", "tests/deploy/test_many_machines.py"),
    Elsewhere("docs/how-to/systemd.md", "tests/deploy/test_systemd_page.py"),
)


def owners(command: Command) -> list[Elsewhere]:
    return [owner for owner in ELSEWHERE if owner.has(command)]


def all_commands() -> list[Command]:
    return [command for page in pages() for command in commands(page)]


def test_each_command_belongs_to_one_test() -> None:
    belongs = {command: len(owners(command)) + (command.page in FOLLOWED) for command in all_commands()}
    assert [str(command) for command, number in belongs.items() if number != 1] == []


def test_table_has_nothing_that_no_page_has() -> None:
    assert [owner for owner in ELSEWHERE if not any(owner.has(command) for command in all_commands())] == []
    assert [page for page in FOLLOWED if page not in pages() or not commands(page)] == []


@pytest.mark.parametrize("owner", ELSEWHERE, ids=lambda owner: f"{owner.page} {owner.pattern}")
def test_named_test_reads_the_page(owner: Elsewhere) -> None:
    text = (REPOSITORY / owner.test).read_text()
    if not owner.instead and owner.test != CI:
        assert "documented" in text
        assert f'"{owner.page}"' in text


def test_ci_runs_the_targets_shown() -> None:
    shown = [
        command.text.split("#")[0].split()[1:]
        for command in all_commands()
        if [(owner.test, owner.instead) for owner in owners(command)] == [(CI, "")]
    ]
    targets = {word for words in shown for word in words if "=" not in word}
    ci = (REPOSITORY / CI).read_text()
    assert {target for target in targets if not re.search(rf"\bmake {target}\b", ci)} == set()


@pytest.mark.parametrize("page", pages())
def test_page_shows_commands_as_such(page: str) -> None:
    assert mistaken(page) == ()


@pytest.mark.external
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", FOLLOWED)
def test_page_is_true(page: str, tmp_path: Path) -> None:
    with lonely_machine() as machine:
        done = Walkthrough(page, machine, tmp_path, GIVEN).walk()
    assert tuple(done) == commands(page)
