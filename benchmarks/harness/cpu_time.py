"""The CPU time of processes, by Linux's /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path


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
    parents: dict[int, int] = {}
    commands: dict[int, bytes] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # The process has just ended.
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_bytes()

    def is_descendant(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid, command in commands.items() if module.encode() in command.split(b"\0") and is_descendant(pid)]
