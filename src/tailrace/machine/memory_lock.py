"""Keeps this process's memory out of swap, and the pages of its mapped files in memory."""

from __future__ import annotations

import ctypes
import os
import resource

from tailrace.machine.plan_wording import memory_size

#: ``MCL_CURRENT`` of <sys/mman.h>: what is mapped now. Later mappings would fail at the limit.
_CURRENT = 1


def lock_memory() -> str | None:
    """Lock all memory that is mapped now; None when that worked, or why not, with what to do."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mlockall"):
        return "this system can't lock memory"
    if libc.mlockall(_CURRENT) == 0:
        return None
    reason = os.strerror(ctypes.get_errno())
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY:
        return reason
    return f"{reason}; the limit is {memory_size(limit)}. Raise it: ulimit -l unlimited, or LimitMEMLOCK in systemd"
