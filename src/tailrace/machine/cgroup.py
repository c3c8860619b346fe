"""The limits of this process's control groups (containers, systemd slices, batch systems), in versions 1 and 2.

A group's limit also holds for the groups below it. So all groups from the process's own up to the visible root are
read. Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/, and proc(5) for mountinfo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tailrace.machine import cpulist

#: Version 1 writes "no limit" as a number above this.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Limits:
    """The limits; None where there is none."""

    cpus: frozenset[int] | None = None  #: the kernel's CPU numbers
    nodes: frozenset[int] | None = None  #: NUMA nodes that memory may come from
    quota: float | None = None  #: CPU time per time: 1.5 is one and a half CPUs
    memory: int | None = None  #: bytes
    memory_left: int | None = None  #: bytes of ``memory`` that the group doesn't use; page cache counts as unused


@dataclass(frozen=True)
class Throttling:
    """How often a group with a quota had to stand still, since it was made."""

    group: str  #: its folder
    quota: float | None  #: CPU time per time; None where it has been lifted
    periods: int  #: in which the group ran
    throttled: int  #: of them, those in which the quota was used up
    seconds: float  #: that CPUs stood still for it, added up


def read_throttling(root: Path = Path("/"), process: str = "self") -> tuple[Throttling, ...]:
    """The throttling of the process's own group and of those above it, where one has or had a quota.

    Source: ``cpu.stat``. Version 2 counts microseconds in ``throttled_usec``, version 1 nanoseconds in
    ``throttled_time``.
    """
    try:
        groups = _groups(root, process)
    except OSError:
        return ()  # The process has ended meanwhile.
    found = []
    for folder in _upwards(groups.get("cpu")):
        words = (line.split() for line in _lines(folder / "cpu.stat"))
        fields = {pair[0]: int(pair[1]) for pair in words if len(pair) == 2}
        if fields.get("nr_periods"):
            seconds = fields.get("throttled_usec", 0) / 1e6 + fields.get("throttled_time", 0) / 1e9
            throttled = fields.get("nr_throttled", 0)
            found.append(Throttling(str(folder), _quota(folder), fields["nr_periods"], throttled, seconds))
    return tuple(found)


def read_limits(root: Path = Path("/")) -> Limits:
    """The limits of the process itself (``/proc/self`` under ``root``)."""
    groups = _groups(root)
    cpus, nodes = _cpuset(groups)
    quotas = [quota for folder in _upwards(groups.get("cpu")) if (quota := _quota(folder)) is not None]
    memories = [pair for folder in _upwards(groups.get("memory")) if (pair := _memory(folder)) is not None]
    return Limits(
        cpus=cpus,
        nodes=nodes,
        quota=min(quotas, default=None),
        memory=min((limit for limit, _ in memories), default=None),
        memory_left=min((left for _, left in memories), default=None),
    )


@dataclass(frozen=True)
class _Group:
    """The process's folder of one controller, and its mount point: groups above that can't be seen."""

    folder: Path
    mount: Path


def _groups(root: Path, process: str = "self") -> dict[str, _Group]:
    """The group of each controller. Where both versions are mounted, version 1's win: they have the controller then."""
    own: dict[str, str] = {}
    for line in _lines(root / f"proc/{process}/cgroup"):
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(",") if controllers else [""], path))
    groups: dict[str, _Group] = {}
    for line in sorted(_lines(root / "proc/self/mountinfo"), key=lambda line: " - cgroup " in line):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in {"cgroup", "cgroup2"}:
            continue
        mounted, point = before.split(" ")[3:5]
        mount = root / point.lstrip("/")
        names = ["cpu", "cpuset", "memory"]
        if kind == "cgroup":
            names = [name for name in names if name in options.split(",")]
        for name in names:
            if (group := own.get("" if kind == "cgroup2" else name)) is not None:
                groups[name] = _Group(_below(mount, mounted, group), mount)
    return groups


def _below(mount: Path, mounted: str, path: str) -> Path:
    """The folder of the group ``path`` in a mount whose root is the group ``mounted``."""
    inside = path.removeprefix(mounted.rstrip("/")) if path.startswith(mounted) else path
    folder = mount / inside.lstrip("/")
    # A container without a cgroup namespace sees the host's path, but its own group is at the mount point.
    return folder if folder.is_dir() else mount


def _upwards(group: _Group | None) -> Iterator[Path]:
    if group is None:
        return
    folder = group.folder
    yield folder
    while folder != group.mount:
        folder = folder.parent
        yield folder


def _cpuset(groups: dict[str, _Group]) -> tuple[frozenset[int] | None, frozenset[int] | None]:
    """CPUs and memory nodes of the nearest group that has them: its values include the limits of the groups above."""
    found: list[frozenset[int] | None] = []
    for names in (
        ("cpuset.cpus.effective", "cpuset.effective_cpus"),
        ("cpuset.mems.effective", "cpuset.effective_mems"),
    ):
        texts = (_text(folder / name) for folder in _upwards(groups.get("cpuset")) for name in names)
        found.append(next((frozenset(cpulist.parse(text)) for text in texts if text), None))
    return found[0], found[1]


def _quota(folder: Path) -> float | None:
    """Quota divided by period. ``cpu.max`` has both in a line; version 1 has a file for each, and -1 for no limit."""
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota not in {"", "max", "-1"} and period else None


def _memory(folder: Path) -> tuple[int, int] | None:
    """The limit and the unused part of it, in bytes."""
    for limit_name, used_name, cache_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _text(folder / limit_name), _text(folder / used_name)
        if limit and used and limit != "max" and int(limit) < _NO_LIMIT:
            cache = next(
                (int(line.split()[1]) for line in _lines(folder / "memory.stat") if _names(line, cache_name)), 0
            )
            return int(limit), max(0, int(limit) - int(used) + cache)
    return None


def _names(line: str, name: str) -> bool:
    return line.split(" ", 1)[0] == name


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()
