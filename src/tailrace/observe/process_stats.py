"""CPU time, memory and open files of processes, read from /proc (proc(5)) when metrics or findings are wanted.

Other systems than Linux have no /proc: there all figures are missing, and no metric of a process has a value.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tailrace.observe.kernel_file import TICKS, first_number, read_fields, read_text

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Stat:
    """The fields of a ``stat`` file that are used."""

    name: str
    state: str  #: the kernel's letter: R runs, S sleeps, D waits for a disk, T is stopped
    parent: int
    major_faults: int  #: pages that had to be read from a disk
    cpu: float  #: seconds
    ended_cpu: float  #: seconds of its children that have ended
    threads: int
    started: float  #: seconds after the machine's start
    resident: int  #: bytes
    last_cpu: int  #: the CPU that it ran on last


def split_stat(text: str) -> Stat | None:
    """The fields of ``/proc/PID/stat`` or ``/proc/PID/task/TID/stat``; None where the text isn't one.

    The name is in brackets and may have spaces and brackets itself.
    """
    begin, end = text.find("("), text.rfind(")")
    words = text[end + 1 :].split()
    if begin < 0 or len(words) < 37:
        return None
    return Stat(
        name=text[begin + 1 : end],
        state=words[0],
        parent=int(words[1]),
        major_faults=int(words[9]),
        cpu=(int(words[11]) + int(words[12])) / TICKS,
        ended_cpu=(int(words[13]) + int(words[14])) / TICKS,
        threads=int(words[17]),
        started=int(words[19]) / TICKS,
        resident=int(words[21]) * _PAGE,
        last_cpu=int(words[36]),
    )


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
    stat = split_stat(read_text(folder / "stat"))
    if stat is None:
        return None
    return ProcessStats(
        cpu_seconds=stat.cpu + stat.ended_cpu,
        resident_bytes=stat.resident,
        threads=stat.threads,
        start_seconds=_boot_seconds(proc) + stat.started,
        open_fds=count_open_files(folder),
        max_fds=max_open_files(folder),
    )


def child_pids(parent: int, proc: Path = Path("/proc")) -> list[int]:
    """The children of the process, by any of its threads."""
    found: list[int] = []
    try:
        threads = list((proc / str(parent) / "task").iterdir())
    except OSError:
        return found
    for thread in threads:
        # Empty where the thread has ended, or the kernel has no such file.
        found += map(int, read_text(thread / "children").split())
    return found


@lru_cache(maxsize=1)
def _boot_seconds(proc: Path) -> int:
    """The machine's start, in Unix time."""
    return first_number(read_fields(proc / "stat").get("btime", ""))


def count_open_files(folder: Path) -> int | None:
    """How many files the process of this /proc folder has open; None: another user's process."""
    try:
        with os.scandir(folder / "fd") as entries:
            return sum(1 for _ in entries)
    except OSError:
        return None


def max_open_files(folder: Path) -> int | None:
    """How many files it may have open (the soft limit); None: not known."""
    lines = read_text(folder / "limits").splitlines()
    value = next((line.split()[3] for line in lines if line.startswith("Max open files")), "")
    return int(value) if value.isdigit() else None
