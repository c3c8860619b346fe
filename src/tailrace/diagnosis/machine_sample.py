"""The machine at one moment: CPU time, memory pressure, swap, throttling, and the other processes' CPU time.

Sources: proc(5); the kernel's Documentation/accounting/psi.rst; thermal_throttle in Documentation/ABI/testing.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from tailrace.machine.cgroup import Throttling, read_throttling
from tailrace.observe.kernel_file import TICKS, first_number, read_fields, read_number, read_text
from tailrace.observe.process_stats import Stat, split_stat

#: Interpreters, whose process name says nothing about the program.
_INTERPRETERS = ("python", "node", "java", "ruby", "perl", "sh", "bash")


class CpuTime(msgspec.Struct, frozen=True):
    """One CPU's totals since the machine's start, in seconds."""

    busy: float  #: by any process, or the kernel
    stolen: float  #: ready to run, while the hypervisor ran another virtual machine


class MachineSample(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's totals. What the system doesn't tell is empty or 0."""

    cpus: dict[int, CpuTime] = {}
    swapped_in: int = 0  #: pages
    available: int = 0  #: bytes of memory that can be had without swapping
    memory: int = 0  #: bytes
    memory_stall: float = 0.0  #: seconds in which some task waited for memory
    disk_stall: float = 0.0  #: seconds in which some task waited for a disk
    throttling: tuple[Throttling, ...] = ()  #: of the control groups with a quota
    thermal: dict[int, int] = {}  #: times that each CPU was slowed down for its heat
    clock_caps: dict[int, float] = {}  #: highest clock that is allowed ÷ the hardware's, of capped CPUs


def read_machine(cpus: Collection[int], pid: int, root: Path = Path("/")) -> MachineSample:
    """The machine now. ``cpus``: those whose clocks are read; ``pid``: the process whose control groups are read."""
    meminfo = read_fields(root / "proc/meminfo")
    thermal, caps = {}, {}
    for cpu in cpus:
        folder = root / f"sys/devices/system/cpu/cpu{cpu}"
        counts = [read_number(folder / f"thermal_throttle/{part}_throttle_count") for part in ("core", "package")]
        if counts[0] is not None:
            thermal[cpu] = sum(count or 0 for count in counts)
        allowed = read_number(folder / "cpufreq/scaling_max_freq")
        hardware = read_number(folder / "cpufreq/cpuinfo_max_freq")
        if allowed and hardware and allowed < hardware:
            caps[cpu] = allowed / hardware
    return MachineSample(
        cpus=_cpu_times(root / "proc/stat"),
        swapped_in=first_number(read_fields(root / "proc/vmstat").get("pswpin", "")),
        available=first_number(meminfo.get("MemAvailable", "")) * 1024,
        memory=first_number(meminfo.get("MemTotal", "")) * 1024,
        memory_stall=_stall(root / "proc/pressure/memory"),
        disk_stall=_stall(root / "proc/pressure/io"),
        throttling=read_throttling(root, str(pid)),
        thermal=thermal,
        clock_caps=caps,
    )


def busy_seconds(before: MachineSample, after: MachineSample, cpus: Collection[int]) -> float:
    """CPU seconds of all processes on ``cpus`` between two samples."""
    return sum(
        time.busy - before.cpus[cpu].busy for cpu, time in after.cpus.items() if cpu in cpus and cpu in before.cpus
    )


class OtherProcess(msgspec.Struct, frozen=True):
    """A process that isn't the server's."""

    pid: int
    name: str
    cpu: float  #: CPU seconds of it and of its children that have ended, as a total or per second
    parent: int = 0


def read_other_processes(own: int, root: Path = Path("/")) -> dict[int, OtherProcess]:
    """Every visible process that neither is ``own`` (the supervisor) nor descends from it, by pid."""
    stats: dict[int, Stat] = {}
    for entry in _entries(root / "proc"):
        if entry.isdigit() and (stat := split_stat(read_text(root / f"proc/{entry}/stat"))) is not None:
            stats[int(entry)] = stat
    return {
        pid: OtherProcess(pid, stat.name, stat.cpu + stat.ended_cpu, stat.parent)
        for pid, stat in stats.items()
        if not _descends(pid, own, stats)
    }


def last_cpus(pid: int, root: Path = Path("/"), *, max_threads: int = 64) -> frozenset[int]:
    """The CPUs on which the first threads of a process ran last; empty where it has ended."""
    tasks = root / f"proc/{pid}/task"
    stats = [split_stat(read_text(tasks / entry / "stat")) for entry in _entries(tasks)[:max_threads]]
    return frozenset(stat.last_cpu for stat in stats if stat is not None)


def shown_name(process: OtherProcess, root: Path = Path("/")) -> str:
    """The process's name for people: of an interpreter also the program that it runs. Arguments, which may have
    secrets, are left out.
    """
    if not process.name.startswith(_INTERPRETERS):
        return process.name
    words = read_text(root / f"proc/{process.pid}/cmdline").split("\0")[1:]
    if words[:1] == ["-P"]:  # As tailrace's own processes have it.
        words = words[1:]
    if words[:1] == ["-m"] and len(words) > 1:
        return f"{process.name} -m {words[1]}"
    if words and words[0] and not words[0].startswith("-"):
        return f"{process.name} {Path(words[0]).name}"
    return process.name


def _descends(pid: int, ancestor: int, stats: dict[int, Stat]) -> bool:
    for _ in range(len(stats)):
        if pid == ancestor:
            return True
        stat = stats.get(pid)
        if stat is None:
            return False
        pid = stat.parent
    return False


def _entries(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder)]
    except OSError:
        return []


def _cpu_times(path: Path) -> dict[int, CpuTime]:
    # Columns: user nice system idle iowait irq softirq steal guest guest_nice. Guests' time is in user's and nice's.
    found = {}
    for line in read_text(path).splitlines():
        name, *words = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and len(words) >= 8:
            user, nice, system, _, _, irq, soft, stolen = map(int, words[:8])
            found[int(name[3:])] = CpuTime((user + nice + system + irq + soft) / TICKS, stolen / TICKS)
    return found


def _stall(path: Path) -> float:
    """The total of the line ``some avg10=0.00 avg60=0.00 avg300=0.00 total=12345``, which is in microseconds."""
    for line in read_text(path).splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2] or 0) / 1e6
    return 0.0
