"""The table in deploy/README.md: every file there, with a test that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from outrider_testing.documented import REPOSITORY

DEPLOY = REPOSITORY / "deploy"


def rows() -> list[tuple[list[str], list[str]]]:
    """What each row names: files or folders, and tests."""
    lines = [line.split("|") for line in (DEPLOY / "README.md").read_text().splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", cells[1]), re.findall(r"`([^`]+)`", cells[3])) for cells in lines]


def files_in(directory: Path) -> set[Path]:
    """All files below a directory, but those that Python makes when an example runs."""
    return {path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def files_of(names: list[str]) -> Iterator[Path]:
    """The files of a row; a name is in `deploy`, or in the folder of the first."""
    folder = DEPLOY / Path(names[0]).parts[0]
    for name in names:
        path = next(each / name for each in (DEPLOY, folder) if (each / name).exists())
        yield from [path] if path.is_file() else files_in(path)


def test_every_file_has_one_row() -> None:
    named = [path for files, _ in rows() for path in files_of(files)]
    assert sorted(named) == sorted(files_in(DEPLOY) - {DEPLOY / "README.md"})


def test_every_test_is_there() -> None:
    for _, tests in rows():
        for name in tests:
            directory = REPOSITORY if name.startswith("tests/") else REPOSITORY / "tests/deploy"
            found = [*directory.glob(name), *(REPOSITORY / "tests/integration").glob(name)]
            assert found, name
