"""One process at one moment: its threads' CPU time and waits, its memory and its page faults, read from /proc.

Sources: proc(5); the kernel's Documentation/scheduler/sched-stats.rst for schedstat.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

import msgspec

from tailrace.machine import cpulist
from tailrace.observe.kernel_file import first_number, read_fields, read_text
from tailrace.observe.process_stats import count_open_files, max_open_files, split_stat

#: Threads of one process that are read. Engines have one for each core, so more are threads of a library.
_MAX_THREADS = 600
#: The role of an engine that has not connected yet.
LOADING = "loading engine"


class ThreadSample(msgspec.Struct, frozen=True, kw_only=True):
    """One thread. Times are totals since its start, in seconds."""

    name: str
    run: float  #: on a CPU
    wait: float  #: ready to run, without a CPU
    involuntary: int  #: times that the kernel took its CPU away
    allowed: frozenset[int]  #: CPUs that it may run on
    cpu: int = -1  #: the CPU on which it ran last; -1: not known


class ProcessSample(msgspec.Struct, frozen=True, kw_only=True):
    """One process. Times are totals since its start, in seconds."""

    pid: int
    role: str  #: ``http``, ``supervisor``, ``engine``, ``engine 1`` of several, or ``LOADING``
    state: str  #: the kernel's letter: R runs, S sleeps, D waits for a disk, T is stopped
    cpu: float  #: of all threads
    memory: int  #: resident bytes
    swapped: int  #: bytes in swap
    major_faults: int  #: pages that had to be read from a disk
    threads: dict[int, ThreadSample]  #: by thread id
    files: int = 0  #: open file descriptors; 0 where they weren't counted
    max_files: int = 0  #: the limit of open files; 0 where it isn't known
    nodes: dict[int, int] = {}  #: bytes by NUMA node; empty where they weren't read

    @property
    def allowed(self) -> frozenset[int]:
        """CPUs that any of its threads may run on."""
        return frozenset().union(*(thread.allowed for thread in self.threads.values()))

    @property
    def compute(self) -> dict[int, ThreadSample]:
        """An engine's main thread and its compute threads: those that have no name of their own.

        A thread that native code makes has the name of the thread that has made it.
        """
        names = {self.threads[self.pid].name} if self.pid in self.threads else set()
        return {tid: thread for tid, thread in self.threads.items() if thread.name in names}


def read_process(pid: int, role: str, root: Path = Path("/"), *, files: bool = False) -> ProcessSample | None:
    """The process now; None where it has ended or /proc is missing. ``files``: count its open files."""
    folder = root / f"proc/{pid}"
    stat = split_stat(read_text(folder / "stat"))
    status = read_fields(folder / "status")
    if stat is None or not status:
        return None
    return ProcessSample(
        pid=pid,
        role=role,
        state=stat.state,
        cpu=stat.cpu,
        memory=first_number(status.get("VmRSS", "")) * 1024,
        swapped=first_number(status.get("VmSwap", "")) * 1024,
        major_faults=stat.major_faults,
        threads=_threads(f"{folder}/task"),
        files=(count_open_files(folder) or 0) if files else 0,
        max_files=(max_open_files(folder) or 0) if files else 0,
    )


#: The fields of a thread's ``status`` that are used, in the kernel's order. One search costs less than a split of all
#: its lines, and an engine may have a hundred threads.
_STATUS = re.compile(
    r"Name:\s*(?P<name>[^\n]*)\n(?:.*\n)*?Cpus_allowed_list:\s*(?P<cpus>\S*)"
    r"(?:\n(?:.*\n)*?nonvoluntary_ctxt_switches:\s*(?P<involuntary>\d+))?"
)


def _threads(tasks: str) -> dict[int, ThreadSample]:
    found = {}
    try:
        names = sorted(os.listdir(tasks))[:_MAX_THREADS]  # noqa: PTH208  # paths as texts: this is most of a sample
    except OSError:
        return {}
    for name in names:
        # Run time and wait in ns, and the number of times that it ran. Kernels without schedstat have no such file.
        run, wait, *_ = [*read_text(f"{tasks}/{name}/schedstat").split(), "", ""]
        status = _STATUS.match(read_text(f"{tasks}/{name}/status"))
        if status is None:
            continue  # It has ended meanwhile.
        found[int(name)] = ThreadSample(
            name=status["name"],
            run=int(run or 0) / 1e9,
            wait=int(wait or 0) / 1e9,
            involuntary=int(status["involuntary"] or 0),
            allowed=_cpus(status["cpus"]),
            cpu=-1 if (stat := split_stat(read_text(f"{tasks}/{name}/stat"))) is None else stat.last_cpu,
        )
    return found


@lru_cache(maxsize=64)
def _cpus(text: str) -> frozenset[int]:
    return frozenset(cpulist.parse(text))
