from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from outrider.process_start import process_start_time


def test_process_start_time_reads_past_hostile_command_name(tmp_path: Path) -> None:
    stat = tmp_path / "17" / "stat"
    stat.parent.mkdir()
    stat.write_text("17 (a) Z (b) S " + " ".join(str(number) for number in range(4, 53)))
    assert process_start_time(17, str(tmp_path)) == 22


@pytest.mark.parametrize("state", ["Z", "X"])
def test_process_start_time_takes_zombie_for_dead(tmp_path: Path, state: str) -> None:
    stat = tmp_path / "17" / "stat"
    stat.parent.mkdir()
    stat.write_text(f"17 (worker) {state} " + " ".join(str(number) for number in range(4, 53)))
    assert process_start_time(17, str(tmp_path)) is None


def test_process_start_time_is_that_of_the_kernel() -> None:
    started = process_start_time(os.getpid())
    assert started is not None
    assert 0 < started / os.sysconf("SC_CLK_TCK") <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_process_start_time_without_proc_tells_living_from_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        living = process_start_time(child.pid, str(tmp_path))
        child.kill()
    assert (living, process_start_time(child.pid, str(tmp_path))) == (0, None)

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(pid, number)

    monkeypatch.setattr(os, "kill", refuse)
    assert process_start_time(1, str(tmp_path)) == 0
