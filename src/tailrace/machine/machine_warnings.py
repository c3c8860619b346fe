"""Warnings about this machine's state that cost speed, with the remedy. It changes nothing itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from tailrace.machine import cpulist
from tailrace.machine.gpu import Gpu, offloads
from tailrace.machine.plan import ModelNeeds
from tailrace.machine.topology import Topology

#: Drivers whose "powersave" governor is the normal one and reaches the full clock under load.
_DYNAMIC_POWERSAVE = {"intel_pstate", "amd-pstate-epp", "amd_pstate_epp"}
#: Swap use, in bytes, from which memory has been too short.
_MIN_SWAP_BYTES = 256 << 20


def warnings(
    topology: Topology,
    available: int,
    *,
    gpus: Sequence[Gpu] = (),
    backends: Collection[str] = (),
    model: ModelNeeds | None = None,
    root: Path = Path("/"),
) -> list[str]:
    """The warnings, one or two sentences each. ``available``: bytes of available memory."""
    found = [_governor(topology, root), _huge_pages(root), _balancing(topology, root), _swap(root), _quota(topology)]
    if gpus and not offloads(gpus, backends):
        found.append(
            f"{gpus[0].vendor} GPU at {gpus[0].address}, but llama.cpp was built without a backend for it: it won't be "
            "used. docs/install.md says how to build one"
        )
    if model is not None and model.weights > available:
        found.append(
            f"the model's weights take {model.weights / 1e9:.1f} GB and {available / 1e9:.1f} GB of memory are "
            "available: they will be read from disk again and again. A smaller quantisation fits"
        )
    elif model is not None and model.total > available:
        found.append(
            f"weights and a whole context take {model.total / 1e9:.1f} GB and {available / 1e9:.1f} GB of memory are "
            "available: lower --ctx"
        )
    return [sentence for sentence in found if sentence]


def _governor(topology: Topology, root: Path) -> str:
    slow = []
    for cpu in sorted(topology.usable):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        if (
            _text(folder / "scaling_governor") == "powersave"
            and _text(folder / "scaling_driver") not in _DYNAMIC_POWERSAVE
        ):
            slow.append(cpu)
    if not slow:
        return ""
    return (
        f"the governor powersave keeps CPUs {cpulist.format_cpus(slow)} at their lowest clock: "
        "cpupower frequency-set -g performance"
    )


def _huge_pages(root: Path) -> str:
    if "[never]" not in _text(root / "sys/kernel/mm/transparent_hugepage/enabled"):
        return ""
    return "transparent huge pages are off (never): large models lose some speed to page tables; madvise allows them"


def _balancing(topology: Topology, root: Path) -> str:
    if len(topology.nodes) == 1 or _text(root / "proc/sys/kernel/numa_balancing") in {"", "0"}:
        return ""
    return "automatic NUMA balancing is on: it moves pages while they are read. sysctl kernel.numa_balancing=0 stops it"


def _swap(root: Path) -> str:
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    fields = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    used = fields.get("SwapTotal", 0) - fields.get("SwapFree", 0)
    if used < _MIN_SWAP_BYTES:
        return ""
    return f"{used / 1e9:.1f} GB are in swap: memory was short, and these pages are slow to read back"


def _quota(topology: Topology) -> str:
    if topology.quota is None:
        return ""
    return (
        f"a quota of {topology.quota:g} CPUs is below the {len(topology.usable)} CPUs that may be used: processes "
        "that use it up stand still for the rest of each period. A cpuset (--cpuset-cpus) is better for an engine"
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
