"""The tests run in two lanes: each folder is in one of them, a failure in any is a failure, and all are counted."""

from __future__ import annotations

import signal
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
    program = "import sys; print('one line'); print('2 passed, 1 skipped in 3s'); sys.exit(int(sys.argv[-1]))"
    monkeypatch.setattr(run_tests, "_PYTEST", (sys.executable, "-c", program))
    monkeypatch.setattr(run_tests, "LANES", {"first": ("0",), "second": (str(status),)})
    assert run_tests.main([]) == expected
    printed = capsys.readouterr().out
    assert "[first] one line\n" in printed
    assert "[second] one line\n" in printed
    assert "both lanes: 4 passed, 2 skipped in 0s" in printed


@pytest.mark.parametrize(("failed", "alone", "expected"), [(1, 0, 0), (1, 1, 1), (9, 0, 1)])
def test_what_fails_beside_the_other_lane_runs_again_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failed: int, alone: int, expected: int
) -> None:
    program = f"""
import sys
again = "--last-failed" in sys.argv
print("1 passed in 1s" if sys.argv[-1] == "good" else "{failed} failed in 1s")
sys.exit({alone} if again else sys.argv[-1] == "bad")
"""
    monkeypatch.setattr(run_tests, "_PYTEST", (sys.executable, "-c", program))
    monkeypatch.setattr(run_tests, "LANES", {"first": ("good",), "second": ("bad",)})
    assert run_tests.main([]) == expected
    assert ("[second] what failed beside" in capsys.readouterr().out) == (failed <= run_tests.MAX_AGAIN)


def test_the_end_of_a_lane_that_a_signal_stopped_is_told_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = """
import os, sys, time
if sys.argv[-1] == "good":
    time.sleep(0.5)
    print("2 passed in 1s")
else:
    print("what it was at", flush=True)
    os.abort()
"""
    monkeypatch.setattr(run_tests, "_PYTEST", (sys.executable, "-c", program))
    monkeypatch.setattr(run_tests, "LANES", {"first": ("bad",), "second": ("good",)})
    assert run_tests.main([]) == -signal.SIGABRT
    assert capsys.readouterr().out.endswith("[first] was stopped by SIGABRT; its last lines:\n[first] what it was at\n")


def test_a_lane_has_its_own_list_of_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real pytest: only the test that failed runs again."""
    monkeypatch.chdir(tmp_path)
    for name, body in (
        ("a", "pass"),
        ("b", "import pathlib; ran = pathlib.Path('ran').exists(); pathlib.Path('ran').touch(); assert ran"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "test_it.py").write_text(f"def test_{name}():\n    {body}\n", encoding="utf-8")
    monkeypatch.setattr(run_tests, "LANES", {"first": ("a",), "second": ("b",)})
    assert run_tests.main([]) == 0
    (tmp_path / "ran").unlink()
    (tmp_path / "a" / "test_it.py").write_text("def test_a():\n    assert False\n", encoding="utf-8")
    assert run_tests.main([]) == 1


def test_arguments_go_to_one_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.exit(len(sys.argv) - 1)"
    monkeypatch.setattr(run_tests, "_PYTEST", (sys.executable, "-c", program))
    assert run_tests.main(["tests/unit", "-x", "-q"]) == 3


def test_arguments_choose_among_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.exit(0 if sys.argv[1:] == ['tests/clients', '-k', 'aider'] else 9)"
    monkeypatch.setattr(run_tests, "_PYTEST", (sys.executable, "-c", program))
    assert run_tests.main(["--clients", "-k", "aider"]) == 0


def test_each_test_of_clients_is_in_one_lane() -> None:
    listed = [place for places in run_tests.CLIENT_LANES.values() for place in places]
    there = {path.relative_to(TESTS.parent).as_posix() for path in (TESTS / "clients").glob("test_*.py")}
    assert sorted(listed) == sorted({*there, "tests/browser"})


def test_clients_and_browser_are_two_lanes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run_tests, "_PYTEST", (sys.executable, "-c", "import sys; print('ran', sys.argv[-1])"))
    assert run_tests.main(["--clients"]) == 0
    printed = capsys.readouterr().out
    assert "[clients] ran tests/clients/test_rerankers.py\n" in printed
    assert "[agents] ran tests/browser\n" in printed
