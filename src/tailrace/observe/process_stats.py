"""CPU time, memory and open files of the server's processes, as /proc has them when metrics are read.

Other systems than Linux have no /proc: there all figures are missing, and no metric of a process has a value.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

#: Fields of /proc/PID/stat after the name, which is the second: proc(5) counts from 1.
_UTIME, _STIME, _CUTIME, _CSTIME, _THREADS, _START, _RESIDENT = (field - 3 for field in (*range(14, 18), 20, 22, 24))


@dataclass(frozen=True)
class ProcessStats:
    """One process's figures; None: not known."""

    resident_bytes: int
    cpu_seconds: float | None = None  #: of all its threads, and of its children that have ended
    threads: int | None = None
    start_seconds: float | None = None  #: Unix time
    open_fds: int | None = None  #: None: another user's process
    max_fds: int | None = None  #: the soft limit; None: another user's process


def read_process(pid: int, proc: Path = Path("/proc")) -> ProcessStats | None:
    """The process's figures; None where it has ended or there is no /proc."""
    folder = proc / str(pid)
    try:
        stat = (folder / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The name may have spaces and parentheses in it.
    fields = stat[stat.rindex(")") + 2 :].split()
    ticks = sum(int(fields[field]) for field in (_UTIME, _STIME, _CUTIME, _CSTIME))
    return ProcessStats(
        cpu_seconds=ticks / _TICKS,
        resident_bytes=int(fields[_RESIDENT]) * _PAGE,
        threads=int(fields[_THREADS]),
        start_seconds=_boot_seconds(proc) + int(fields[_START]) / _TICKS,
        open_fds=_open_fds(folder),
        max_fds=_max_fds(folder),
    )


def child_pids(parent: int, proc: Path = Path("/proc")) -> list[int]:
    """The children of the process, by any of its threads."""
    found: list[int] = []
    try:
        threads = list((proc / str(parent) / "task").iterdir())
    except OSError:
        return found
    for thread in threads:
        try:
            found += map(int, (thread / "children").read_text(encoding="ascii").split())
        except OSError:
            continue  # The thread has ended, or the kernel has no such file.
    return found


@lru_cache(maxsize=1)
def _boot_seconds(proc: Path) -> int:
    """The machine's start, in Unix time."""
    try:
        lines = (proc / "stat").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("btime ")), 0)


def _open_fds(folder: Path) -> int | None:
    try:
        with os.scandir(folder / "fd") as entries:
            return sum(1 for _ in entries)
    except OSError:
        return None


def _max_fds(folder: Path) -> int | None:
    try:
        lines = (folder / "limits").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    value = next((line.split()[3] for line in lines if line.startswith("Max open files")), "unlimited")
    return int(value) if value.isdigit() else None
