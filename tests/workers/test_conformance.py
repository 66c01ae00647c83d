"""The conformance table names tests that exist, for each of its lines."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TABLE = (REPOSITORY / "docs" / "reference" / "conformance.md").read_text()
NAME = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def names_of_tests(path: Path) -> set[str]:
    """The names of a file's tests."""
    if not path.exists():
        return set()
    return set(re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE))


def test_every_test_that_is_named_exists() -> None:
    named = NAME.findall(TABLE)
    existing = {path: names_of_tests(REPOSITORY / path) for path, _ in named}
    assert len(named) > 100
    assert [f"{path}::{name}" for path, name in named if name not in existing[path]] == []


def test_every_line_names_a_test() -> None:
    rows: list[str] = []
    is_about_tests = False
    for line in TABLE.splitlines():
        if not line.startswith("|"):
            is_about_tests = False
        elif line.endswith("| test |"):
            is_about_tests = True
        elif is_about_tests and not line.startswith("|---"):
            rows.append(line)
    assert len(rows) > 80
    assert [row for row in rows if not NAME.search(row.rsplit(" | ", 1)[1])] == []
