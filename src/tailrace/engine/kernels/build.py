"""The library of kernels for this CPU, or why there is none."""

from __future__ import annotations

from pathlib import Path

from tailrace.engine.kernels import KernelsUnavailable
from tailrace.engine.kernels.compile import compiled
from tailrace.engine.kernels.proof import wrong_results
from tailrace.machine.isa import read_isa

FOLDER = Path(__file__).parent
#: What the code is written for; -march=native brings these and what else the CPU has.
NEEDED = frozenset({"AVX-512", "AVX-512 VNNI", "F16C"})


def built(folder: Path | None = None) -> Path:
    """The proved library, made if need be and kept in ``folder`` (see ``compiled``). Raises KernelsUnavailable."""
    if missing := sorted(NEEDED - set(read_isa().sets)):
        raise KernelsUnavailable(f"this CPU has no {' and no '.join(missing)}")
    return compiled(FOLDER, wrong_results, folder)
