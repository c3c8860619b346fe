"""Figures of processes, of this one and of recorded files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tailrace.observe.process_stats import child_pids, read_process


def test_this_process() -> None:
    begun = read_process(os.getpid())
    assert begun is not None
    sum(range(10_000_000))
    with open(os.devnull), open(os.devnull):
        stats = read_process(os.getpid())
    assert stats is not None
    assert stats.cpu_seconds is not None
    assert begun.cpu_seconds is not None
    assert stats.cpu_seconds > begun.cpu_seconds
    assert stats.open_fds == (begun.open_fds or 0) + 2
    assert stats.resident_bytes > 1_000_000
    assert stats.start_seconds == begun.start_seconds


def test_a_process_that_has_ended_has_no_figures() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process.pid in child_pids(os.getpid())
    process.communicate(b"\n")
    assert read_process(process.pid) is None
    assert process.pid not in child_pids(os.getpid())


def test_a_name_with_spaces_and_parentheses(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    fields = ["S", "1", *["0"] * 48]
    fields[11], fields[17], fields[21] = "250", "3", "10"
    (folder / "stat").write_text(f"7 (a) R (b) {' '.join(fields)}\n")
    stats = read_process(7, tmp_path)
    assert stats is not None
    assert (stats.cpu_seconds, stats.threads) == (250 / os.sysconf("SC_CLK_TCK"), 3)
    assert stats.open_fds is None
