"""Memory that can be allocated now: of the machine, and of one NUMA node; and whether an allocation may be made.

The kernel promises more memory than there is, and ends a process that uses what isn't there. So a large allocation is
asked for here before it is made.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tailrace.machine.cgroup import read_limits
from tailrace.machine.memory_fit import Memory
from tailrace.machine.topology import read_topology

#: Seconds for which a reading of the kernel's figures counts.
_GAUGE_SECONDS = 1.0
#: Bytes that no large allocation may take.
_RESERVE = 64_000_000


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be allocated without swapping: the kernel's estimate, or less if a control group allows less.

    Without /proc under ``root`` it is half of the physical memory.
    """
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    left = read_limits(root).memory_left
    return available if left is None else min(available, left)


def node_memory(node: int, root: Path = Path("/")) -> int:
    """Bytes that can be allocated on one NUMA node, approximately. Raises KeyError when there is no such node."""
    return {found.number: found.available for found in read_topology(root).nodes}[node]


def read_memory(root: Path = Path("/")) -> Memory:
    """The memory of this process's control group or of the machine, whichever is less."""
    machine = sum(node.memory for node in read_topology(root).nodes)
    limit = read_limits(root).memory
    available = available_memory(root)
    if limit is not None and limit < machine:
        return Memory(total=limit, available=available, where="this control group (container or service)")
    return Memory(total=machine, available=available)


class MemoryGauge:
    """Says whether memory may be allocated. It reads the kernel's figures once a second at most; what it has granted
    since then counts as used.
    """

    def __init__(self) -> None:
        self._left = 0
        self._read_at = -_GAUGE_SECONDS

    def allows(self, size: int) -> bool:
        """Whether ``size`` bytes may be allocated, so that a reserve is left for small allocations."""
        now = time.monotonic()
        if now - self._read_at >= _GAUGE_SECONDS:
            self._left, self._read_at = available_memory(), now
        if size + _RESERVE > self._left:
            return False
        self._left -= size
        return True
