"""``python -m benchmarks`` as a whole, with the cheapest of its parts on the real model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from benchmarks.harness.results import Result

ROOT = Path(__file__).parents[2]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_a_part_is_measured_saved_and_reported(tmp_path: Path) -> None:
    done = _run("--only", "max_tokens", "--quick", "--turns", "1", "--threads", "1", "--report", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = msgspec.json.decode((tmp_path / "max_tokens.json").read_bytes(), type=Result)
    (ratio,) = result.figures
    assert ratio.turns == 6
    assert 0 < ratio.low <= ratio.median <= ratio.high
    assert result.machine["engine threads"] == "1"
    assert any("these figures mean nothing" in note for note in result.notes)
    assert "Does a large max_tokens cost anything?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_part_that_does_not_exist_is_one_line_with_those_that_do() -> None:
    done = _run("--only", "speed")
    assert done.returncode == 2
    assert "there is no benchmark speed; there are api_vs_engine" in done.stderr
