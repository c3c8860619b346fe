"""Available memory of recorded machines and of their nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from recorded_machines import expand
from tailrace.machine.free_memory import available_memory, node_memory


def test_a_node_has_its_own_available_memory(tmp_path: Path) -> None:
    expand("server-2x16x2", tmp_path)
    assert node_memory(1, tmp_path) == (100_000_000 + 20_000_000 + 400_000) * 1024
    with pytest.raises(KeyError):
        node_memory(2, tmp_path)


def test_the_strictest_control_group_limits_available_memory(tmp_path: Path) -> None:
    assert available_memory(expand("desktop-8", tmp_path / "1")) == 24_000_000 * 1024
    assert available_memory(expand("pod-nested", tmp_path / "2")) == 4 << 30
    assert available_memory(expand("container-3-cpus", tmp_path / "3")) == 6 << 30
