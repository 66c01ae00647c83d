"""The options that the pages for migrants name exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from outrider_testing.documented import REPOSITORY

OPTION = re.compile(r"(?<![\w-])--[a-z0-9][-a-z0-9_]*")


def rows(page: str) -> Iterator[list[str]]:
    """The cells of each row that begins with an option of theirs."""
    for line in (REPOSITORY / page).read_text().splitlines():
        if line.startswith("| `--"):
            yield line.strip("|").split("|")


@pytest.fixture(scope="module")
def ours() -> set[str]:
    command = [sys.executable, "-m", "outrider_supervisor.cli", "run", "--help"]
    return set(OPTION.findall(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


@pytest.mark.parametrize("page", ["docs/how-to/migrate-from-uvicorn.md", "docs/how-to/migrate-from-granian.md"])
def test_options_to_use_instead_exist(page: str, ours: set[str]) -> None:
    named = {option for row in rows(page) if len(row) == 3 for option in OPTION.findall(row[1])}
    assert len(named) > 20
    assert named - ours == set()
