"""The file that says which process the supervisor is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor.pidfile import PidFile
from outrider_testing.processes import is_running
from outrider_testing.waiting import until

OURS = f"{os.getpid()}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "web.pid"


@pytest.fixture
def gone() -> int:
    """The id of a process that has ended."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    until(lambda: not is_running(pid), what="the end of a process")
    os.waitpid(pid, 0)
    return pid


def placed(path: Path) -> PidFile:
    pidfile = PidFile()
    pidfile.place(str(path))
    return pidfile


def test_file_names_the_process_and_all_may_read_it(path: Path) -> None:
    before = os.umask(0o077)
    try:
        pidfile = placed(path)
    finally:
        os.umask(before)
    assert path.read_text() == OURS
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert pidfile.path == str(path)
    assert list(path.parent.iterdir()) == [path]


def test_no_path_means_no_file(path: Path) -> None:
    pidfile = PidFile()
    pidfile.place(None)
    assert pidfile.path is None
    pidfile.remove()
    assert list(path.parent.iterdir()) == []


def test_file_moves_with_its_path_and_goes_without_one(path: Path) -> None:
    pidfile = placed(path)
    other = path.with_name("other.pid")
    pidfile.place(str(other))
    assert not path.exists()
    assert other.read_text() == OURS
    pidfile.place(None)
    assert not other.exists()


def test_same_path_is_not_written_again(path: Path) -> None:
    pidfile = placed(path)
    inode = path.stat().st_ino
    pidfile.place(str(path))
    assert path.stat().st_ino == inode


def test_file_that_somebody_has_removed_is_written_again(path: Path) -> None:
    pidfile = placed(path)
    path.unlink()
    pidfile.place(str(path))
    assert path.read_text() == OURS


def test_file_of_a_process_that_lives_is_refused(path: Path) -> None:
    path.write_text(f"{os.getppid()}\n")
    with pytest.raises(ConfigurationError, match=f"belongs to process {os.getppid()}, which runs; stop it"):
        placed(path)
    assert path.read_text() == f"{os.getppid()}\n"


def test_file_of_a_process_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    path.write_text("1")
    with pytest.raises(ConfigurationError, match="belongs to process 1"):
        placed(path)


def test_file_of_a_process_that_has_ended_is_replaced(path: Path, gone: int) -> None:
    path.write_text(f"{gone}\n")
    placed(path)
    assert path.read_text() == OURS


@pytest.mark.parametrize("text", ["", "not a number", "0", "-1", f"{10**30}", "\udcff"])
def test_file_that_names_no_process_is_replaced(path: Path, text: str) -> None:
    path.write_text(text, errors="surrogateescape")
    placed(path)
    assert path.read_text() == OURS


def test_file_that_names_this_process_already_is_taken_over(path: Path) -> None:
    path.write_text(OURS)
    assert placed(path).path == str(path)


def test_directory_that_is_missing_is_an_error(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing/web\.pid cannot be written: No such file or directory"):
        placed(path.parent / "missing" / "web.pid")


def test_failed_write_leaves_nothing_behind_and_the_old_file_in_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int, _mode: int) -> None:
        raise OSError(28, "No space left on device")

    pidfile = placed(path)
    monkeypatch.setattr(os, "fchmod", fail)
    with pytest.raises(ConfigurationError, match="cannot be written: No space left on device"):
        pidfile.place(str(path.with_name("other")))
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == OURS
    assert pidfile.path == str(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_neither_waited_for_nor_replaced(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    mode = path.stat().st_mode
    with pytest.raises(ConfigurationError, match="is no regular file; remove it, or choose another pidfile"):
        PidFile().place(str(path))
    assert path.stat().st_mode == mode


def test_fifo_in_the_place_of_the_file_is_left_alone(path: Path) -> None:
    pidfile = placed(path)
    path.unlink()
    os.mkfifo(path)
    pidfile.remove()
    assert path.is_fifo()


def test_link_that_somebody_has_laid_is_not_followed(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("precious")
    path.symlink_to(victim)
    path.with_name(f".{path.name}.{os.getpid()}").symlink_to(victim)
    placed(path)
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


def test_file_that_is_somebody_elses_by_the_end_stays(path: Path) -> None:
    pidfile = placed(path)
    path.write_text(f"{os.getppid()}\n")
    pidfile.remove()
    assert path.exists()
    assert pidfile.path is None


def test_file_that_is_gone_by_the_end_is_no_error(path: Path) -> None:
    pidfile = placed(path)
    path.unlink()
    pidfile.remove()


def test_path_is_taken_over_with_the_file(path: Path) -> None:
    path.write_text(OURS)
    pidfile = PidFile()
    pidfile.path = str(path)
    pidfile.remove()
    assert not path.exists()
    pidfile.path = None
    assert pidfile.path is None
