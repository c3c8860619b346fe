"""The memory of a process that works on one hostile text, template or grammar: how much it has, and a limit that the
kernel enforces.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def limit_growth(size: int, *, final: bool = True) -> None:
    """Have this process get ``size`` more bytes of addresses than it has now. Without effect on other systems than
    Linux, whose kernels don't enforce this limit.

    ``final`` False: a later call may raise the limit.
    """
    if sys.platform != "linux":
        return
    limit = _pages(0) * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit if final else resource.RLIM_INFINITY))


def resident_memory() -> int:
    """Bytes of this process that are in memory; 0 on other systems than Linux."""
    return _pages(1) * resource.getpagesize() if sys.platform == "linux" else 0


def _pages(field: int) -> int:
    """A field of ``/proc/self/statm`` (proc(5)): 0 is all addresses, 1 is what is resident."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[field])
