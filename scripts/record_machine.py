"""Records what tailrace reads of this machine in /sys and /proc, as text for ``tests/data/machines``.

``python scripts/record_machine.py > tests/data/machines/NAME.txt``; recorded_machines.py in tests/support expands it.
It holds no addresses or serial numbers, but the names of the process's control groups. Python alone is enough, so that
it runs on any machine.
"""

from __future__ import annotations

import platform
import re
import sys
from collections import defaultdict
from pathlib import Path

#: Files, and for files with several facts the lines to record.
FILES: dict[str, tuple[str, ...]] = {
    "sys/devices/cpu_core/cpus": (),
    "sys/devices/cpu_atom/cpus": (),
    "sys/devices/system/cpu/online": (),
    **{
        f"sys/devices/system/cpu/cpu[0-9]*/{name}": ()
        for name in (
            "topology/physical_package_id",
            "topology/core_id",
            "topology/core_cpus_list",
            "topology/thread_siblings_list",
            "cpu_capacity",
            "cpufreq/cpuinfo_max_freq",
            "cpufreq/scaling_driver",
            "cpufreq/scaling_governor",
            "cache/index[0-9]*/level",
            "cache/index[0-9]*/type",
            "cache/index[0-9]*/size",
            "cache/index[0-9]*/shared_cpu_list",
        )
    },
    "sys/devices/system/node/online": (),
    "sys/devices/system/node/node[0-9]*/cpulist": (),
    "sys/devices/system/node/node[0-9]*/distance": (),
    "sys/devices/system/node/node[0-9]*/meminfo": ("MemTotal", "MemFree", "FilePages", "Shmem", "SReclaimable"),
    "sys/kernel/mm/transparent_hugepage/enabled": (),
    "proc/sys/kernel/numa_balancing": (),
    "proc/meminfo": ("MemTotal", "MemFree", "MemAvailable", "SwapTotal", "SwapFree"),
    "proc/self/cgroup": (),
}
#: Files of a control group, of both versions.
LIMITS = (
    *("cpu.max", "cpuset.cpus.effective", "cpuset.mems.effective", "memory.max", "memory.current"),
    *("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuset.effective_cpus", "cpuset.effective_mems"),
    *("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
#: A CPU's or a node's number in a path.
_NUMBERED = re.compile(r"/(cpu|node)(\d+)/")


def main(root: Path = Path("/")) -> None:
    """Print the record."""
    print(f"# Recorded on {platform.system()} {platform.release()}.")
    for pattern, kept in FILES.items():
        alike: dict[tuple[str, str], list[int]] = defaultdict(list)
        for path in sorted(root.glob(pattern), key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))]):
            try:
                text = path.read_text().strip()
            except OSError:
                continue  # Some files exist and can't be read, as a switched off CPU's.
            if kept:
                text = "\n".join(line for line in text.splitlines() if _name(line) in kept)
            name, number = str(path.relative_to(root)), 0
            if found := _NUMBERED.search(f"/{name}"):
                number = int(found[2])
                name = _NUMBERED.sub(lambda found: f"/{found[1]}{{n=#}}/", f"/{name}").lstrip("/")
                text = re.sub(rf"\bNode {number}\b", "Node {n}", text)
                if name.endswith(("_list", "core_id")) and text == str(number):
                    text = "{n}"
            alike[name, text].append(number)
        for (name, text), numbers in alike.items():
            shown = text.replace("\t", "\\t").replace("\n", "\\n")
            print(f"{name.replace('#', _spelled(numbers))} = {shown}")
    _cpuinfo(root / "proc/cpuinfo")
    _cgroups(root)


def _spelled(numbers: list[int]) -> str:
    """``0-3,8``; the numbers rise."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _name(line: str) -> str:
    return re.sub(r"^Node \d+ ", "", line).split(":", 1)[0]


def _cpuinfo(path: Path) -> None:
    """The first CPU's name and flags."""
    lines: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name = line.split(":", 1)[0].strip()
        if name in {"model name", "Model", "flags", "Features"}:
            lines.setdefault(name, line)
    shown = "\\n".join(line.replace("\t", "\\t") for line in lines.values())
    print(f"proc/cpuinfo = processor\\t: 0\\n{shown}")


def _cgroups(root: Path) -> None:
    """The mounts of control groups, and the limits from each mount down to the process's own group."""
    mounts = [line for line in (root / "proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    joined = "\\n".join(mounts)
    print(f"proc/self/mountinfo = {joined}")
    own = {line.split(":", 2)[2] for line in (root / "proc/self/cgroup").read_text().splitlines()}
    for mount in mounts:
        point = root / mount.split()[4].lstrip("/")
        folders = {point / part for path in own for part in _parts(path)}
        for folder in sorted(folders):
            for name in LIMITS:
                if (file := folder / name).is_file():
                    print(f"{file.relative_to(root)} = {file.read_text().strip()}")
            if (file := folder / "memory.stat").is_file():
                kept = [line for line in file.read_text().splitlines() if line.split()[0].endswith("inactive_file")]
                lines = "\\n".join(kept)
                print(f"{file.relative_to(root)} = {lines}")


def _parts(path: str) -> list[str]:
    """``/a/b`` as ``["", "a", "a/b"]``."""
    names = [name for name in path.split("/") if name]
    return ["/".join(names[:count]) for count in range(len(names) + 1)]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("/"))
