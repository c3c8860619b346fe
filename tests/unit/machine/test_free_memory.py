"""How much memory there is for use, on recorded machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from recorded_machines import expand
from tailrace.machine.free_memory import node_memory


def test_a_node_has_its_own(tmp_path: Path) -> None:
    expand("server-2x16x2", tmp_path)
    assert node_memory(1, tmp_path) == (100_000_000 + 20_000_000 + 400_000) * 1024
    with pytest.raises(KeyError):
        node_memory(2, tmp_path)
