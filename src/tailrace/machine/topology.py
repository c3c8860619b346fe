"""What this computer is made of, and what of it this process may use. Reads, and decides nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Topology:
    """The machine as one process sees it."""

    usable: frozenset[int]  #: the kernel's numbers of the CPUs that this process may run on

    @property
    def usable_count(self) -> int:
        """How many CPUs' time this process may use."""
        return len(self.usable)


def read_topology() -> Topology:
    """This machine."""
    if hasattr(os, "sched_getaffinity"):
        return Topology(frozenset(os.sched_getaffinity(0)))
    return Topology(frozenset(range(os.cpu_count() or 1)))
