"""How long the control group of this process was kept from its CPUs because its quota was used up.

Sources: the kernel's documents ``admin-guide/cgroup-v2.rst`` (cpu.stat) and ``scheduler/sched-bwc.rst`` (version 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Throttling:
    """Totals since the group was made; all 0 where there is no quota."""

    periods: int = 0  #: periods in which the quota was used up
    seconds: float = 0.0  #: time for which the group's threads stood still, summed over CPUs


def read_throttling(root: Path = Path("/")) -> Throttling:
    """The totals of this process's group. Groups above it may have quotas of their own: the largest total counts."""
    found = [_read(file) for file in _files(root)]
    return max(found, key=lambda each: each.seconds, default=Throttling())


def _files(root: Path) -> list[Path]:
    """The ``cpu.stat`` of this process's group and of those above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        # In a container the path is the host's, and the group is mounted at the top.
        folders = [mount.joinpath(*parts[:count]) for count in range(len(parts) + 1)]
        found += [file for folder in folders if (file := folder / "cpu.stat").is_file()]
    return found


def _read(file: Path) -> Throttling:
    try:
        pairs = dict(line.split(None, 1) for line in file.read_text(encoding="ascii").splitlines() if " " in line)
    except OSError:
        return Throttling()
    seconds = (
        int(pairs["throttled_usec"]) / 1e6 if "throttled_usec" in pairs else int(pairs.get("throttled_time", 0)) / 1e9
    )
    return Throttling(periods=int(pairs.get("nr_throttled", 0)), seconds=seconds)
