from __future__ import annotations

import os
import subprocess

import pytest

import procstat
from procstat import Memory, Usage


def test_parse_stat_survives_spaces_and_parentheses_in_command() -> None:
    fields = procstat.parse_stat("42 (a) name (b) S 7 8 9 0 -1")
    assert fields[:4] == ["S", "7", "8", "9"]


def test_process_tree_starts_with_its_root_and_holds_its_children() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        tree = procstat.process_tree(os.getpid())
    assert tree[0] == os.getpid()
    assert child.pid in tree


def test_session_holds_this_process() -> None:
    assert os.getpid() in procstat.session(os.getsid(0))


def test_usage_leaves_out_processes_that_are_gone() -> None:
    assert procstat.usage([2**22 + 1]) == Usage({}, {})


def test_usage_of_this_process_is_more_than_none() -> None:
    assert procstat.usage([os.getpid()]).threads.keys() >= {(os.getpid(), os.getpid())}


def test_cpu_seconds_sums_threads_to_the_nanosecond() -> None:
    before = Usage({(1, 1): 500}, {1: 0.0})
    after = Usage({(1, 1): 1_000_000_500, (1, 2): 250_000_000, (3, 3): 250_000_000}, {1: 9.0, 3: 9.0})
    assert procstat.cpu_seconds(before, after) == 1.5


def test_cpu_seconds_falls_back_to_processes_when_a_thread_ended() -> None:
    before = Usage({(1, 1): 0, (1, 2): 700}, {1: 1.0})
    after = Usage({(1, 1): 400}, {1: 3.25})
    assert procstat.cpu_seconds(before, after) == 2.25


def test_cpu_seconds_falls_back_to_processes_without_schedstat() -> None:
    assert procstat.cpu_seconds(Usage({}, {1: 1.0}), Usage({}, {1: 1.5, 2: 0.5})) == 1.0


def test_busiest_is_the_worker_not_the_master() -> None:
    before = Usage({(1, 1): 9_000, (2, 2): 0}, {1: 5.0, 2: 0.0})
    after = Usage({(1, 1): 9_500, (2, 2): 8_000_000}, {1: 5.0, 2: 0.01})
    assert procstat.busiest(before, after) == 2


def test_parse_smaps_rollup_reads_rss_and_pss() -> None:
    text = "5596215af000-7ffc13607000 ---p 00000000 00:00 0    [rollup]\nRss:   1708 kB\nPss:    410 kB\n"
    assert procstat.parse_smaps_rollup(text) == Memory(1708, 410)


def test_memory_sums_processes_that_exist() -> None:
    alone = procstat.memory([os.getpid()])
    assert alone.rss >= alone.pss > 0
    assert procstat.memory([2**22 + 1]) == Memory(0, 0)


def test_parse_core_busy_counts_all_but_idle() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    text = f"cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 {ticks} 0 {ticks} 900 50 0 {ticks} 0 0 0\n"
    assert procstat.parse_core_busy(text, 1) == pytest.approx(3.0)


def test_parse_core_busy_refuses_unknown_core() -> None:
    with pytest.raises(KeyError):
        procstat.parse_core_busy("cpu0 1 1 1 1\n", 7)
