"""The CPU time of processes, by Linux's /proc."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.process_tree import find_descendants


def available() -> bool:
    """Whether this system has /proc."""
    return Path("/proc/self/schedstat").exists()


def seconds(pids: Sequence[int]) -> float:
    """The CPU seconds of the processes' live threads since their start, to the nanosecond."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # The thread has just ended.
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def descendants(module: str) -> list[int]:
    """The ids of this process's descendants that run the Python module."""
    return [process.pid for process in find_descendants() if module.encode() in process.words]
