"""Cores that are there for use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may run on, as its affinity says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
