"""Each promise names tests that exist."""

from __future__ import annotations

import re

from outrider_testing.documented import REPOSITORY

TEXT = (REPOSITORY / "docs" / "explanation" / "promises.md").read_text()
NAME = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def is_there(path: str, name: str) -> bool:
    file = REPOSITORY / path
    return file.exists() and f"def {name}(" in file.read_text()


def test_every_promise_names_its_tests() -> None:
    promised = TEXT.split("## Promised")[1].split("## Not promised")[0]
    rows = [line for line in promised.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    assert [row for row in rows if not NAME.search(row.rsplit("|", 2)[1])] == []


def test_every_test_that_is_named_exists() -> None:
    assert [f"{path}::{name}" for path, name in NAME.findall(TEXT) if not is_there(path, name)] == []
