"""Recorded /sys and /proc trees of machines, stored as text in ``tests/data/machines``.

A line is ``path = content``. ``{n=0-15}`` in a path stands for each of these numbers, ``{n // 2}`` in both for what it
comes to; ``\\n`` and ``\\t`` are a line's end and a tab.
"""

from __future__ import annotations

import re
from pathlib import Path

from tailrace.machine import cpulist
from tailrace.machine.topology import Topology, read_topology

FOLDER = Path(__file__).parents[1] / "data" / "machines"
_LOOP = re.compile(r"\{n=([^}]*)\}")
_SUM = re.compile(r"\{([^}=]*)\}")


def expand(name: str, root: Path) -> Path:
    """Write the machine ``name`` under ``root``."""
    return expand_text((FOLDER / f"{name}.txt").read_text(encoding="utf-8"), root)


def expand_text(text: str, root: Path) -> Path:
    """Write the machine that ``text`` records under ``root``."""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        path, _, content = line.partition(" =")
        loop = _LOOP.search(path)
        for number in cpulist.parse(loop[1]) if loop else (0,):
            file = root / _summed(_LOOP.sub(str(number), path), number)
            file.parent.mkdir(parents=True, exist_ok=True)
            shown = _summed(content.strip(), number).replace("\\n", "\n").replace("\\t", "\t")
            file.write_text(shown + "\n", encoding="utf-8")
    return root


def machine(name: str, root: Path, affinity: str | None = None) -> Topology:
    """The machine ``name`` seen by a process with ``affinity`` (every CPU that its limits leave, when None)."""
    expand(name, root)
    cpus = affinity or (root / "sys/devices/system/cpu/online").read_text()
    return read_topology(root, frozenset(cpulist.parse(cpus)))


def _summed(text: str, number: int) -> str:
    return _SUM.sub(lambda found: str(eval(found[1], {"__builtins__": {}}, {"n": number})), text)
