"""The command that selects benchmarks, and their rows in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, select_benchmarks

ROOT = Path(__file__).parents[3]


def test_benchmarks_are_selected_by_name_and_unknown_ones_refused() -> None:
    assert [part.name for part in select_benchmarks("flood, slots")] == ["flood", "slots"]
    assert select_benchmarks(None) == list(BENCHMARKS)
    with pytest.raises(ValueError, match=r"there is no benchmark floods; there are .*flood"):
        select_benchmarks("floods")


def test_every_benchmark_is_a_module_with_a_row_in_the_documentation() -> None:
    rows = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for part in BENCHMARKS:
        assert (ROOT / "benchmarks" / f"{part.name}.py").exists()
        assert f"| `{part.name}`" in rows
