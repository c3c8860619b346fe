"""The CPUs, NUMA nodes and caches of this machine, and the part that this process may use. It makes no decisions.

On Linux it reads /sys and /proc under ``root``, so tests can read a recorded tree of another machine. On other systems
it asks Python and sysctl.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tailrace.machine import cpulist
from tailrace.machine.cgroup import Limits, read_limits

#: A core with less than this part of the largest core's capacity (or clock) is an efficiency core. Small cores have up
#: to 0.55, middle ones 0.8 and more.
_MAX_EFFICIENCY_PART = 0.75


@dataclass(frozen=True)
class Core:
    """One physical core."""

    package: int  #: socket
    node: int  #: NUMA node
    cpus: tuple[int, ...]  #: its SMT siblings as the kernel numbers them, rising
    efficiency: bool = False  #: a small core beside larger ones


@dataclass(frozen=True)
class Node:
    """One NUMA node."""

    number: int
    memory: int  #: bytes
    available: int  #: bytes that are free or page cache, approximately
    distances: tuple[int, ...] = ()  #: to each node, in order; 10 is the node itself


@dataclass(frozen=True)
class Cache:
    """One last-level cache."""

    bytes: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """The machine as one process sees it. Unknown facts are empty or None."""

    cores: tuple[Core, ...]  #: all cores that are online, sorted by first CPU
    nodes: tuple[Node, ...]
    caches: tuple[Cache, ...] = ()
    affinity: frozenset[int] | None = None  #: CPUs that the process is bound to
    limits: Limits = field(default_factory=Limits)
    model: str | None = None  #: the CPU's name

    @cached_property
    def online(self) -> frozenset[int]:
        """All CPUs that are online."""
        return frozenset(cpu for core in self.cores for cpu in core.cpus)

    @cached_property
    def usable(self) -> frozenset[int]:
        """CPUs that this process may run on."""
        usable = self.online
        for bound in (self.affinity, self.limits.cpus):
            if bound is not None:
                usable &= bound
        return usable

    @cached_property
    def usable_cores(self) -> tuple[Core, ...]:
        """Cores with at least one usable CPU; only their usable CPUs are listed."""
        reduced = (
            Core(core.package, core.node, tuple(cpu for cpu in core.cpus if cpu in self.usable), core.efficiency)
            for core in self.cores
        )
        return tuple(core for core in reduced if core.cpus)

    @cached_property
    def usable_nodes(self) -> tuple[Node, ...]:
        """Nodes with usable cores whose memory may be used."""
        nodes = {core.node for core in self.usable_cores}
        if self.limits.nodes is not None:
            nodes &= self.limits.nodes
        return tuple(node for node in self.nodes if node.number in nodes)

    @property
    def quota(self) -> float | None:
        """The limit of CPU time, in CPUs, where it is less than the usable CPUs."""
        quota = self.limits.quota
        return quota if quota is not None and quota < len(self.usable) else None

    @property
    def packages(self) -> int:
        """Sockets."""
        return len({core.package for core in self.cores})

    @property
    def smt(self) -> int:
        """The largest number of SMT siblings of a core."""
        return max(len(core.cpus) for core in self.cores)


def read_topology(root: Path = Path("/"), affinity: frozenset[int] | None = None) -> Topology:
    """This machine, or the one whose /sys and /proc are under ``root``, for a process with this CPU affinity."""
    if affinity is None and hasattr(os, "sched_getaffinity"):
        affinity = frozenset(os.sched_getaffinity(0))
    system = root / "sys/devices/system"
    if not (system / "cpu").is_dir():
        return _without_sysfs()
    online = _list(system / "cpu/online") or tuple(
        sorted(int(path.name[3:]) for path in (system / "cpu").glob("cpu[0-9]*"))
    )
    folders = {cpu: system / f"cpu/cpu{cpu}" for cpu in online}
    nodes = {number: _list(system / f"node/node{number}/cpulist") for number in _list(system / "node/online")}
    return Topology(
        cores=_cores(folders, nodes, _efficient(root, folders)),
        nodes=tuple(_node(system / f"node/node{number}", number) for number in nodes)
        if len(nodes) > 1
        else (_whole(root, next(iter(nodes), 0)),),
        caches=_caches(folders),
        affinity=affinity,
        limits=read_limits(root),
        model=_model(root),
    )


def _cores(folders: dict[int, Path], nodes: dict[int, tuple[int, ...]], efficient: frozenset[int]) -> tuple[Core, ...]:
    node_of = {cpu: node for node, cpus in nodes.items() for cpu in cpus}
    cores: dict[int, Core] = {}
    for cpu, folder in folders.items():
        topology = folder / "topology"
        siblings = _list(topology / "core_cpus_list") or _list(topology / "thread_siblings_list") or (cpu,)
        siblings = tuple(sibling for sibling in siblings if sibling in folders)
        # Kernels of some boards write a negative number for an unknown package.
        package = max(0, _number(topology / "physical_package_id") or 0)
        cores.setdefault(siblings[0], Core(package, node_of.get(cpu, 0), siblings, cpu in efficient))
    return tuple(cores[first] for first in sorted(cores))


def _efficient(root: Path, folders: dict[int, Path]) -> frozenset[int]:
    """The CPUs of efficiency cores; empty where all cores are of one kind."""
    # Intel's hybrid CPUs have an event counter device for each kind of core.
    if large := _list(root / "sys/devices/cpu_core/cpus"):
        return frozenset(folders) - frozenset(large)
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        sizes = {cpu: size for cpu, folder in folders.items() if (size := _number(folder / name)) is not None}
        if len(sizes) == len(folders) and min(sizes.values()) < _MAX_EFFICIENCY_PART * max(sizes.values()):
            return frozenset(cpu for cpu, size in sizes.items() if size < _MAX_EFFICIENCY_PART * max(sizes.values()))
    return frozenset()


def _node(folder: Path, number: int) -> Node:
    # Each line is "Node 0 MemTotal:  8123456 kB".
    lines = (line.split() for line in _text(folder / "meminfo").splitlines())
    fields = {words[2].rstrip(":"): int(words[3]) * 1024 for words in lines}
    cache = max(0, fields.get("FilePages", 0) - fields.get("Shmem", 0))
    return Node(
        number=number,
        memory=fields.get("MemTotal", 0),
        available=fields.get("MemFree", 0) + cache + fields.get("SReclaimable", 0),
        distances=tuple(int(word) for word in _text(folder / "distance").split()),
    )


def _whole(root: Path, number: int) -> Node:
    """The machine's only node. It uses the machine's figures, which are more exact: they have the kernel's estimate of
    available memory, and memory that was added later.
    """
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    fields = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    return Node(number, fields.get("MemTotal", 0), fields.get("MemAvailable", 0))


def _caches(folders: dict[int, Path]) -> tuple[Cache, ...]:
    """The last-level caches, each once."""
    caches: dict[tuple[int, ...], tuple[int, int]] = {}
    for folder in folders.values():
        for index in sorted((folder / "cache").glob("index[0-9]*")):
            if _text(index / "type") != "Instruction" and (level := _number(index / "level")) is not None:
                cpus = _list(index / "shared_cpu_list")
                caches[cpus] = max(caches.get(cpus, (0, 0)), (level, _bytes(_text(index / "size"))))
    last = max((level for level, _ in caches.values()), default=0)
    return tuple(Cache(size, cpus) for cpus, (level, size) in sorted(caches.items()) if level == last)


def _bytes(text: str) -> int:
    """``32768K`` as bytes."""
    units = {"K": 1024, "M": 1024**2, "G": 1024**3}
    return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text or 0)


def _model(root: Path) -> str | None:
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model"}:
            return value.strip()
    return None


def _without_sysfs() -> Topology:
    """Without /sys: equal cores by Python's count, with macOS's number of efficiency cores."""
    count = os.cpu_count() or 1
    small = _sysctl("hw.perflevel1.physicalcpu") if sys.platform == "darwin" else 0
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = tuple(Core(0, 0, (cpu,), efficiency=cpu >= count - small) for cpu in range(count))
    return Topology(cores=cores, nodes=(Node(0, memory, memory // 2),))


def _sysctl(name: str) -> int:
    """A number from macOS's kernel; 0 where it doesn't know the name, as on a Mac with one kind of core."""
    done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 0


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _list(path: Path) -> tuple[int, ...]:
    return cpulist.parse(_text(path))


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text else None
