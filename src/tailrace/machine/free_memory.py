"""Memory that can be allocated now: of the machine, and of one NUMA node."""

from __future__ import annotations

import os
from pathlib import Path

from tailrace.machine.cgroup import read_limits
from tailrace.machine.topology import read_topology


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
