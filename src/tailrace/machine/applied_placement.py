"""The placement that a process really has: its threads' CPUs and its memory's nodes, read from /proc.

It compares them with the plan and changes nothing. Control groups, other tools and a full node can all override a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tailrace.machine import cpulist
from tailrace.machine.plan import ReplicaPlan
from tailrace.settings import Settings

_SELF = Path("/proc/self")
#: Part of a replica's memory that may be on other nodes: some pages are shared between processes or can't be moved.
_MAX_STRAY_PART = 0.02


@dataclass(frozen=True)
class AppliedPlacement:
    """The placement of one process now."""

    threads: Mapping[int, frozenset[int]]  #: the CPUs that each thread may run on, by thread id
    memory: Mapping[int, int]  #: bytes of private memory by NUMA node; empty where the kernel has no NUMA

    @property
    def cpus(self) -> frozenset[int]:
        """The CPUs that any of the threads may run on."""
        return frozenset().union(*self.threads.values())


def read_applied_placement(process: Path = _SELF) -> AppliedPlacement | None:
    """The placement of the process with this /proc folder; None on systems without /proc."""
    if not process.exists():
        return None
    return AppliedPlacement(_threads(process / "task"), read_memory_nodes(process / "numa_maps"))


def is_placement_required(settings: Settings) -> bool:
    """Whether a placement that differs from the plan is an error: the user has set it.

    A placement that tailrace has chosen by itself may fail, as it does in a container that forbids it.
    """
    return settings.replicas > 1 or settings.pin == "on" or bool(settings.cpus or settings.cpus_prefill)


def placement_differences(replica: ReplicaPlan, found: AppliedPlacement) -> list[str]:
    """The differences from the plan, in words; empty when there are none."""
    problems: list[str] = []
    cpus = replica.cpus
    if cpus and (astray := [thread for thread, may in found.threads.items() if not may <= cpus]):
        where = frozenset().union(*(found.threads[thread] for thread in astray))
        problems.append(
            f"{len(astray)} of {len(found.threads)} threads may run on CPUs {cpulist.format_cpus(where)}, "
            f"planned are {cpulist.format_cpus(cpus)}"
        )
    if replica.node is not None:
        total = sum(found.memory.values())
        astray_bytes = total - found.memory.get(replica.node, 0)
        if not total:
            problems.append(f"memory is planned on node {replica.node}, but the kernel doesn't tell where it lies")
        elif astray_bytes > _MAX_STRAY_PART * total:
            problems.append(f"memory is planned on node {replica.node}, but lies on {format_memory(found.memory)}")
    return problems


def cpus_without_own_thread(replica: ReplicaPlan, found: AppliedPlacement) -> frozenset[int]:
    """CPUs of strict pools that no thread is bound to alone. Call it after the first computation makes the pools."""
    taken = {next(iter(may)) for may in found.threads.values() if len(may) == 1}
    missing: frozenset[int] = frozenset()
    for pool in (replica.decode, replica.prefill):
        untaken = frozenset(pool.cpus) - taken if pool.strict else frozenset()
        # The main thread computes with both pools, and is on a CPU of the one that it used last.
        if len(untaken) > (0 if replica.decode == replica.prefill else 1):
            missing |= untaken
    return missing


def main_thread_problem(replica: ReplicaPlan, found: AppliedPlacement) -> str:
    """How the main thread's CPUs differ from the plan, in words; empty when they don't.

    The engine binds its main thread after the compute threads have been started, before the first request.
    """
    there = sum(may == set(replica.main) for may in found.threads.values())
    if not replica.main or there == 1:
        return ""
    return (
        f"{there or 'no'} threads are bound to CPU {cpulist.format_cpus(replica.main)}, the main thread's; 1 is planned"
    )


def format_memory(memory: Mapping[int, int]) -> str:
    """``node 0: 1234 MB, node 1: 5 MB``."""
    return ", ".join(f"node {node}: {size / 1e6:.0f} MB" for node, size in sorted(memory.items()))


def _threads(tasks: Path) -> dict[int, frozenset[int]]:
    found: dict[int, frozenset[int]] = {}
    for task in tasks.iterdir():
        try:
            lines = (task / "status").read_text(encoding="ascii", errors="replace").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # The thread has ended meanwhile.
        allowed = next(line for line in lines if line.startswith("Cpus_allowed_list:"))
        found[int(task.name)] = frozenset(cpulist.parse(allowed.split(":", 1)[1].strip()))
    return found


def read_memory_nodes(numa_maps: Path, *, files: bool = False) -> dict[int, int]:
    """Bytes by node of the process with this ``numa_maps``; empty where it can't be read.

    Mappings of files are left out, because their pages may be shared with other processes. ``files`` includes them.
    """
    try:
        lines = numa_maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[int, int] = {}
    for line in lines:
        fields = dict(field.split("=", 1) for field in line.split()[2:] if "=" in field)
        if "file" in fields and not files:
            continue
        page = 1024 * int(fields.get("kernelpagesize_kB", "4"))
        for name, value in fields.items():
            if name[0] == "N" and name[1:].isdigit():
                found[int(name[1:])] = found.get(int(name[1:]), 0) + page * int(value)
    return found
