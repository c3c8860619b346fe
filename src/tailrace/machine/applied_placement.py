"""What is in force: where a process's threads may run and where its memory lies, as the kernel tells it.

Reads /proc, and changes nothing. A plan is a wish: control groups, other tools and a full node can all have their way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tailrace.machine import cpulist
from tailrace.machine.plan import ReplicaPlan
from tailrace.settings import Settings

_SELF = Path("/proc/self")
#: Part of a replica's memory that may lie on other nodes: pages that the kernel shares between processes or couldn't
#: move, a few hundred of them.
_STRAY_PART = 0.02


@dataclass(frozen=True)
class AppliedPlacement:
    """One process as it is now."""

    threads: Mapping[int, frozenset[int]]  #: thread id → the CPUs that it may run on
    memory: Mapping[int, int]  #: NUMA node → bytes of its own memory there; empty where the kernel has no NUMA

    @property
    def cpus(self) -> frozenset[int]:
        """Where any of the threads may run."""
        return frozenset().union(*self.threads.values())


def read_applied_placement(process: Path = _SELF) -> AppliedPlacement | None:
    """The process whose /proc folder this is; None on systems without /proc."""
    if not process.exists():
        return None
    return AppliedPlacement(_threads(process / "task"), _memory(process / "numa_maps"))


def is_placement_required(settings: Settings) -> bool:
    """Whether somebody has set where the engine belongs. What is only planned may stay a wish (a container may forbid
    it); what is set and isn't in force is an error.
    """
    return settings.replicas > 1 or settings.pin == "on" or bool(settings.cpus or settings.cpus_prefill)


def placement_differences(replica: ReplicaPlan, found: AppliedPlacement) -> list[str]:
    """What isn't as planned, in words; empty when all is."""
    wrong: list[str] = []
    cpus = replica.cpus
    if cpus and (astray := [thread for thread, may in found.threads.items() if not may <= cpus]):
        where = frozenset().union(*(found.threads[thread] for thread in astray))
        wrong.append(
            f"{len(astray)} of {len(found.threads)} threads may run on CPUs {cpulist.format_cpus(where)}, "
            f"planned are {cpulist.format_cpus(cpus)}"
        )
    if replica.node is not None:
        whole = sum(found.memory.values())
        astray_bytes = whole - found.memory.get(replica.node, 0)
        if not whole:
            wrong.append(f"memory is planned on node {replica.node}, but the kernel doesn't tell where it lies")
        elif astray_bytes > _STRAY_PART * whole:
            wrong.append(f"memory is planned on node {replica.node}, but lies on {format_memory(found.memory)}")
    return wrong


def cpus_without_own_thread(replica: ReplicaPlan, found: AppliedPlacement) -> frozenset[int]:
    """CPUs of a strict pool that no thread is bound to alone. Pools are there once the model has computed something."""
    own = {next(iter(may)) for may in found.threads.values() if len(may) == 1}
    missing: frozenset[int] = frozenset()
    for pool in (replica.decode, replica.prefill):
        without = frozenset(pool.cpus) - own if pool.strict else frozenset()
        # The thread that computes with both pools is on the CPU of the one that it used last.
        if len(without) > (0 if replica.decode == replica.prefill else 1):
            missing |= without
    return missing


def main_thread_problem(replica: ReplicaPlan, found: AppliedPlacement) -> str:
    """What is wrong with the place of the thread that steps, in words; empty when nothing is. It is bound when requests
    can come, after all threads that compute with it have been made.
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
            continue  # It has ended since its name was read.
        allowed = next(line for line in lines if line.startswith("Cpus_allowed_list:"))
        found[int(task.name)] = frozenset(cpulist.parse(allowed.split(":", 1)[1].strip()))
    return found


def _memory(numa_maps: Path) -> dict[int, int]:
    """Bytes on each node of mappings without a file: a file's pages may be other processes' as well."""
    if not numa_maps.exists():
        return {}
    found: dict[int, int] = {}
    for line in numa_maps.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = dict(field.split("=", 1) for field in line.split()[2:] if "=" in field)
        if "file" in fields:
            continue
        page = 1024 * int(fields.get("kernelpagesize_kB", "4"))
        for name, value in fields.items():
            if name[0] == "N" and name[1:].isdigit():
                found[int(name[1:])] = found.get(int(name[1:]), 0) + page * int(value)
    return found
