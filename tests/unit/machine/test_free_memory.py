"""Available memory of recorded machines and of their nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from recorded_machines import expand
from tailrace.machine import free_memory
from tailrace.machine.free_memory import MemoryGauge, available_memory, node_memory, read_memory


def test_a_node_has_its_own_available_memory(tmp_path: Path) -> None:
    expand("server-2x16x2", tmp_path)
    assert node_memory(1, tmp_path) == (100_000_000 + 20_000_000 + 400_000) * 1024
    with pytest.raises(KeyError):
        node_memory(2, tmp_path)


def test_the_strictest_control_group_limits_available_memory(tmp_path: Path) -> None:
    assert available_memory(expand("desktop-8", tmp_path / "1")) == 24_000_000 * 1024
    assert available_memory(expand("pod-nested", tmp_path / "2")) == 4 << 30
    assert available_memory(expand("container-3-cpus", tmp_path / "3")) == 6 << 30


def test_the_memory_of_a_machine_and_of_a_control_group(tmp_path: Path) -> None:
    machine = read_memory(expand("desktop-8", tmp_path / "1"))
    assert machine.available <= machine.total
    assert machine.where == "this machine"
    group = read_memory(expand("pod-nested", tmp_path / "2"))
    assert group.available == 4 << 30
    assert group.total >= group.available
    assert "control group" in group.where


def test_a_gauge_counts_what_it_has_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    left, clock = [1_000_000_000], [100.0]
    monkeypatch.setattr(free_memory, "available_memory", lambda: left[0])
    monkeypatch.setattr("tailrace.machine.free_memory.time.monotonic", lambda: clock[0])
    gauge = MemoryGauge()
    assert [gauge.allows(300_000_000) for _ in range(5)] == [True, True, True, False, False]
    assert gauge.allows(1_000_000)
    clock[0] += 0.5
    assert not gauge.allows(300_000_000), "the kernel's figure isn't read again yet"
    clock[0] += 1.0
    assert gauge.allows(900_000_000)
    left[0] = 50_000_000
    clock[0] += 1.0
    assert not gauge.allows(1), "the reserve stays"
