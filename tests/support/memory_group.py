"""A control group with a memory limit, version 1 or 2, and what its processes have taken."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from control_group import control_group

_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class MemoryGroup:
    """See the module. Page cache counts as memory of the group; the kernel drops it at the limit."""

    folder: Path

    @property
    def prefix(self) -> tuple[str, ...]:
        """A command that runs the rest of its line in the group."""
        return "sh", "-c", f'echo $$ > {self.folder}/cgroup.procs; exec "$@"', "sh"

    @property
    def peak(self) -> int:
        """The most bytes that the group has had."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            if (self.folder / name).exists():
                return int((self.folder / name).read_text())
        pytest.skip("this kernel doesn't tell a control group's peak")

    @property
    def oom_kills(self) -> int:
        """How many processes the kernel has killed because memory ran out."""
        for name in ("memory.events", "memory.oom_control"):
            if (self.folder / name).exists():
                found = _OOM_KILLS.search((self.folder / name).read_text())
                return int(found[1]) if found is not None else 0
        return 0


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """A new group whose processes may have ``limit`` bytes. Without the right to make one, the test is skipped."""
    limits = {"memory.max": str(limit), "memory.limit_in_bytes": str(limit)}
    with control_group("memory", limits) as folder:
        yield MemoryGroup(folder)
