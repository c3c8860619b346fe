"""What processes burn, as the kernel counts it (Linux's /proc)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path


def available() -> bool:
    """Whether this system tells."""
    return Path("/proc/self/schedstat").exists()


def seconds(pids: Sequence[int]) -> float:
    """CPU time of the processes since their start, all threads that live, to the nanosecond."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # A thread that has just ended.
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def descendants(module: str) -> list[int]:
    """The processes below this one that run the Python module."""
    parents: dict[int, int] = {}
    commands: dict[int, bytes] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # A process that has just ended.
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_bytes()

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid, command in commands.items() if module.encode() in command.split(b"\0") and is_ours(pid)]
