"""The placement that /proc reports, compared with the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailrace.machine.applied_placement import (
    AppliedPlacement,
    format_memory,
    is_placement_required,
    placement_differences,
    read_applied_placement,
)
from tailrace.machine.plan import PoolPlan, ReplicaPlan
from tailrace.settings import Settings

_MAPS = """\
55d0a0000000 default file=/usr/bin/python3.11 mapped=700 N0=700 kernelpagesize_kB=4
55d0a1000000 bind:1 heap anon=2000 dirty=2000 N0=24 N1=1976 kernelpagesize_kB=4
7f0000000000 bind:1 anon=10 dirty=10 N1=10 kernelpagesize_kB=2048
7f1000000000 default file=/usr/lib/libc.so.6 anon=4 dirty=4 mapped=12 N0=16 kernelpagesize_kB=4
7ffc00000000 default stack anon=5 dirty=5 N1=5 kernelpagesize_kB=4
7ffc10000000 default
"""


@pytest.fixture
def process(tmp_path: Path) -> Path:
    for thread, cpus in ((100, "0-1"), (101, "0"), (102, "1,3")):
        folder = tmp_path / "task" / str(thread)
        folder.mkdir(parents=True)
        (folder / "status").write_text(
            f"Name:\tpython\nCpus_allowed:\tf\nCpus_allowed_list:\t{cpus}\nMems_allowed:\t1\n"
        )
    (tmp_path / "numa_maps").write_text(_MAPS)
    return tmp_path


def replica(cpus: tuple[int, ...] = (), node: int | None = None) -> ReplicaPlan:
    pool = PoolPlan(threads=2, cpus=cpus)
    return ReplicaPlan(node=node, decode=pool, prefill=pool)


def test_threads_and_private_memory_are_read(process: Path) -> None:
    found = read_applied_placement(process)
    assert found == AppliedPlacement(
        {100: frozenset({0, 1}), 101: frozenset({0}), 102: frozenset({1, 3})},
        {0: 24 * 4096, 1: (1976 + 5) * 4096 + 10 * 2048 * 1024},
    )
    assert found.cpus == {0, 1, 3}
    assert format_memory(found.memory) == "node 0: 0 MB, node 1: 29 MB"


def test_differences_from_the_plan_are_reported(process: Path) -> None:
    found = read_applied_placement(process)
    assert found is not None
    assert placement_differences(replica(), found) == []
    assert placement_differences(replica((0, 1, 3), 1), found) == []
    (threads,) = placement_differences(replica((0, 1)), found)
    assert "1 of 3 threads may run on CPUs 1,3, planned are 0-1" in threads
    (memory,) = placement_differences(replica(node=0), found)
    assert "planned on node 0, but lies on node 0: 0 MB, node 1: 29 MB" in memory


def test_unreported_memory_does_not_count_as_bound(process: Path) -> None:
    (process / "numa_maps").unlink()
    found = read_applied_placement(process)
    assert found is not None
    (difference,) = placement_differences(replica(node=0), found)
    assert "doesn't tell" in difference


def test_a_system_without_proc(tmp_path: Path) -> None:
    assert read_applied_placement(tmp_path / "proc") is None


@pytest.mark.parametrize(
    ("settings", "required"),
    [({}, False), ({"threads": 3}, False), ({"replicas": 2}, True), ({"cpus": "0-1"}, True), ({"pin": "on"}, True)],
)
def test_a_placement_that_the_user_has_set_is_required(settings: dict[str, Any], required: bool) -> None:
    assert is_placement_required(Settings(**settings)) is required
