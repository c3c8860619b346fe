"""Which processes use which CPU, made of two samples; pure.

The kernel counts how long a thread ran, and remembers only the CPU on which it ran last. A thread's time counts for
that CPU. It is exact for threads that are bound to one, and about right for others. No CPU gets more than its own time.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

import msgspec

from tailrace.diagnosis.process_sample import ProcessSample, ThreadSample
from tailrace.diagnosis.sample import Interval

#: The user of a CPU's time. ``compute``: an engine's threads that compute the model; ``engine``: its other threads.
User = Literal["compute", "engine", "http", "supervisor", "other", "stolen"]
#: CPU seconds per second from which a thread is listed.
_MIN_LISTED = 0.005
#: Threads that are listed for a CPU.
_MAX_LISTED = 4


class ThreadUse(msgspec.Struct, frozen=True, kw_only=True):
    """One thread of the server."""

    process: str  #: the role of its process
    name: str
    user: User
    cpu: float  #: CPU seconds per second
    wait: float  #: seconds per second in which it was ready to run and had no CPU


class CoreUse(msgspec.Struct, frozen=True, kw_only=True):
    """One CPU. Parts are of its time, from 0 to 1."""

    cpu: int  #: its number, as the kernel has it
    core: int  #: the number of its physical core; those of SMT siblings are equal
    node: int  #: NUMA node
    usable: bool  #: whether the server may use it
    use: dict[User, float]  #: the parts; the rest is idle
    threads: list[ThreadUse]  #: the server's busiest threads that ran there last


class CpuPlace(msgspec.Struct, frozen=True):
    """Where a CPU is in the machine."""

    cpu: int
    core: int
    node: int
    usable: bool


def core_use(interval: Interval, places: list[CpuPlace]) -> list[CoreUse]:
    """The use of each CPU of ``places``, in their order."""
    threads: defaultdict[int, list[ThreadUse]] = defaultdict(list)
    for before, after in interval.processes:
        compute = after.compute
        for tid, thread in after.threads.items():
            if (earlier := before.threads.get(tid)) is not None:
                use = _thread(after, thread, earlier, interval.seconds, computes=tid in compute)
                threads[thread.cpu].append(use)
    return [_core(place, threads[place.cpu], interval) for place in places]


def _thread(
    process: ProcessSample, thread: ThreadSample, earlier: ThreadSample, seconds: float, *, computes: bool
) -> ThreadUse:
    user: User = "engine"
    if process.role in ("http", "supervisor"):
        user = "http" if process.role == "http" else "supervisor"
    elif computes:
        user = "compute"
    return ThreadUse(
        process=process.role,
        name=thread.name,
        user=user,
        cpu=max(0.0, thread.run - earlier.run) / seconds,
        wait=max(0.0, thread.wait - earlier.wait) / seconds,
    )


def _core(place: CpuPlace, threads: list[ThreadUse], interval: Interval) -> CoreUse:
    use: dict[User, float] = {}
    for thread in threads:
        use[thread.user] = use.get(thread.user, 0.0) + thread.cpu
    earlier, now = interval.before.machine.cpus.get(place.cpu), interval.after.machine.cpus.get(place.cpu)
    own = sum(use.values())
    if earlier is not None and now is not None:
        busy = min(1.0, max(0.0, now.busy - earlier.busy) / interval.seconds)
        # Threads that have moved are counted for one CPU alone, and the kernel counts a CPU's time in steps of 10 ms.
        if own > busy:
            use = {user: part * busy / own for user, part in use.items()}
        use["other"] = max(0.0, busy - own)
        use["stolen"] = min(1.0 - busy, max(0.0, now.stolen - earlier.stolen) / interval.seconds)
    listed = sorted((each for each in threads if each.cpu >= _MIN_LISTED), key=lambda each: -each.cpu)
    return CoreUse(
        cpu=place.cpu,
        core=place.core,
        node=place.node,
        usable=place.usable,
        use={user: round(part, 4) for user, part in use.items() if part >= _MIN_LISTED},
        threads=listed[:_MAX_LISTED],
    )
