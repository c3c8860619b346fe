"""Benchmarks that compare kernels choose them before llama.cpp is loaded: later, both sides have the same ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = (ROOT / "benchmarks").glob("*.py")
CHOOSING = sorted(path.stem for path in SOURCES if "loader.choose(" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CHOOSING)
def test_nothing_loads_llama_cpp_before_the_choice(name: str) -> None:
    code = f"import sys, benchmarks.{name}; sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_there_are_such_benchmarks() -> None:
    assert "kernel_steps" in CHOOSING
