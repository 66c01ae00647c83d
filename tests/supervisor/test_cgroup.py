"""What a container may use."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from outrider_supervisor.cgroup import ControlGroup, Memory, usable_cores

MIB = 1 << 20


def write(root: Path, **files: str) -> None:
    """Files by name; `__` is a dot."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(text + "\n")


def version2(root: Path, membership: str = "0::/app/web\n") -> ControlGroup:
    write(root, cgroup__controllers="cpu memory")
    (root / "self").write_text(membership)
    return ControlGroup(root, root / "self")


def version1(root: Path, path: str = "/docker/abc") -> ControlGroup:
    (root / "self").write_text(f"5:memory:{path}\n3:cpu,cpuacct:{path}\n1:name=systemd:/init.scope\n0::/\n")
    return ControlGroup(root, root / "self")


# -- version 2


@pytest.mark.parametrize(
    "own,above,cores",
    [
        ("50000 100000", "max 100000", 0.5),
        ("max 100000", "max 100000", math.inf),
        ("400000 100000", "150000 100000", 1.5),
        ("nonsense", "200000 100000", 2.0),
        ("200000", "max", math.inf),
        ("100000 0", "max", math.inf),
    ],
)
def test_quota_of_version_2_is_the_lowest_on_the_way_up(own: str, above: str, cores: float, tmp_path: Path) -> None:
    write(tmp_path / "app" / "web", cpu__max=own)
    write(tmp_path / "app", cpu__max=above)
    assert version2(tmp_path).cores() == cores


def test_memory_of_version_2_is_without_the_page_cache(tmp_path: Path) -> None:
    stat = f"anon {60 * MIB}\ninactive_file {30 * MIB}\nactive_file {5 * MIB}"
    write(tmp_path / "app" / "web", memory__max=str(256 * MIB), memory__current=str(100 * MIB), memory__stat=stat)
    memory = version2(tmp_path).memory()
    assert memory == Memory(limit=256 * MIB, used=70 * MIB)
    assert memory.room == 186 * MIB


def test_memory_limit_that_is_closest_counts(tmp_path: Path) -> None:
    write(tmp_path / "app" / "web", memory__max=str(256 * MIB), memory__current=str(10 * MIB))
    write(tmp_path / "app", memory__max=str(512 * MIB), memory__current=str(500 * MIB))
    assert version2(tmp_path).memory() == Memory(512 * MIB, 500 * MIB)


def test_memory_without_a_limit_is_none(tmp_path: Path) -> None:
    write(tmp_path / "app" / "web", memory__max="max", memory__current="1")
    assert version2(tmp_path).memory() is None


def test_limit_that_changes_is_seen(tmp_path: Path) -> None:
    group = version2(tmp_path, "0::/\n")
    assert group.cores() == math.inf
    write(tmp_path, cpu__max="100000 100000")
    assert group.cores() == 1.0


@pytest.mark.parametrize("path", ["/kubepods/pod1/on-the-host", "/../sibling", "/"])
def test_path_of_the_host_is_the_root_of_what_is_mounted(path: str, tmp_path: Path) -> None:
    write(tmp_path, cpu__max="70000 100000")
    assert version2(tmp_path, f"0::{path}\n").cores() == 0.7


# -- version 1


def test_quota_of_version_1(tmp_path: Path) -> None:
    write(tmp_path / "cpu" / "docker" / "abc", cpu__cfs_quota_us="250000", cpu__cfs_period_us="100000")
    assert version1(tmp_path).cores() == 2.5


def test_quota_of_version_1_without_a_limit_is_infinite(tmp_path: Path) -> None:
    write(tmp_path / "cpu" / "docker" / "abc", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert version1(tmp_path).cores() == math.inf


def test_memory_of_version_1(tmp_path: Path) -> None:
    write(
        tmp_path / "memory" / "docker" / "abc",
        memory__limit_in_bytes=str(128 * MIB),
        memory__usage_in_bytes=str(96 * MIB),
        memory__stat=f"inactive_file 1\ntotal_inactive_file {16 * MIB}",
    )
    assert version1(tmp_path).memory() == Memory(128 * MIB, 80 * MIB)


def test_memory_of_version_1_without_a_limit_is_none(tmp_path: Path) -> None:
    write(tmp_path / "memory", memory__limit_in_bytes=str((1 << 63) - 4096), memory__usage_in_bytes="1")
    assert version1(tmp_path).memory() is None


def test_page_cache_that_is_not_a_number_is_none(tmp_path: Path) -> None:
    write(tmp_path, memory__max=str(MIB), memory__current="5", memory__stat="inactive_file many")
    assert version2(tmp_path, "0::/\n").memory() == Memory(MIB, 5)


# -- without


def test_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    group = ControlGroup(tmp_path / "none", tmp_path / "nothing")
    assert group.cores() == math.inf
    assert group.memory() is None


def test_this_process_may_use_a_core_at_least() -> None:
    assert 0 < usable_cores(ControlGroup()) < math.inf


def test_memory_that_is_overdrawn_has_no_room() -> None:
    assert Memory(limit=1, used=2).room == 0
