from __future__ import annotations

from pathlib import Path

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor.start_directory import VARIABLE, check, entered, find


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A link to a release, in which this process is."""
    (tmp_path / "r1").mkdir()
    (tmp_path / "r2").mkdir()
    link = tmp_path / "current"
    link.symlink_to("r1")
    monkeypatch.chdir(link)
    return link


def test_name_is_that_of_the_shell(link: Path) -> None:
    assert find({"PWD": str(link)}) == str(link)


@pytest.mark.parametrize("pwd", ["", "/", "/nowhere"])
def test_name_that_means_another_directory_is_not_taken(link: Path, pwd: str) -> None:
    assert find({"PWD": pwd}) == find({}) == str(link.resolve())


def test_removed_directory_is_a_configuration_error(link: Path) -> None:
    link.resolve().rmdir()
    with pytest.raises(ConfigurationError, match="the working directory does not exist any more"):
        find({"PWD": str(link)})


def test_entering_follows_the_link_and_comes_back(link: Path) -> None:
    before = Path.cwd()
    link.unlink()
    link.symlink_to("r2")
    with entered({VARIABLE: str(link)}):
        assert Path.cwd().name == "r2"
    assert Path.cwd() == before


@pytest.mark.parametrize("environ", [{}, {VARIABLE: "/nowhere"}])
def test_directory_is_kept_where_there_is_none_to_enter(link: Path, environ: dict[str, str]) -> None:
    with entered(environ):
        assert Path.cwd() == link.resolve()


def test_directory_that_is_gone_is_told(link: Path) -> None:
    check({})
    check({VARIABLE: str(link)})
    link.unlink()
    with pytest.raises(ConfigurationError, match="in which the supervisor was started, is gone"):
        check({VARIABLE: str(link)})
