"""The tests run in two lanes: each folder is in one of them, a failure in any is a failure, and all are counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import run_tests

TESTS = Path(__file__).parents[2]


def test_each_folder_of_tests_is_in_one_lane() -> None:
    listed = [folder for folders in run_tests.LANES.values() for folder in folders]
    assert len(listed) == len(set(listed))
    there = {f"tests/{path.parts[len(TESTS.parts)]}" for path in TESTS.rglob("test_*.py")}
    assert there == set(listed)


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1)])
def test_a_failed_lane_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, expected: int
) -> None:
    program = "import sys; print('one line'); print('2 passed, 1 skipped in 3s'); sys.exit(int(sys.argv[1]))"
    monkeypatch.setattr(run_tests, "_PYTEST", (sys.executable, "-c", program))
    monkeypatch.setattr(run_tests, "LANES", {"first": ("0",), "second": (str(status),)})
    assert run_tests.main([]) == expected
    printed = capsys.readouterr().out
    assert "[first] one line\n" in printed
    assert "[second] one line\n" in printed
    assert "both lanes: 4 passed, 2 skipped in 0s" in printed


def test_arguments_go_to_one_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.exit(len(sys.argv) - 1)"
    monkeypatch.setattr(run_tests, "_PYTEST", (sys.executable, "-c", program))
    assert run_tests.main(["tests/unit", "-x", "-q"]) == 3
