"""What other virtual machines take of this one's CPUs is read from the kernel's counters."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.harness.machine import stolen_seconds


def test_stolen_time_is_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "proc/stat").write_text(
        f"cpu  1 1 1 1 1 1 1 {3 * ticks} 0 0\ncpu0 1 1 1 1 1 1 1 {ticks} 0 0\ncpu1 1 1 1 1 1 1 1 {2 * ticks} 0 0\n",
        encoding="ascii",
    )
    assert stolen_seconds(tmp_path) == 3.0


def test_a_system_without_the_counters_has_none(tmp_path: Path) -> None:
    assert stolen_seconds(tmp_path) == 0.0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  10 20\ncpu0 10 20\n", encoding="ascii")
    assert stolen_seconds(tmp_path) == 0.0
