"""The library of kernels for this CPU, or why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tailrace.engine.kernels import KernelsUnavailable
from tailrace.engine.kernels.compile import compiled
from tailrace.engine.kernels.proof import wrong_results
from tailrace.machine.isa import read_isa

FOLDER = Path(__file__).parent
#: What the code is written for; -march=native brings these and what else the CPU has.
NEEDED = frozenset({"AVX-512", "AVX-512 VNNI", "F16C"})

#: What the kernels are made of: vectors alone, or tiles (AMX) as well where operations are large.
Tier = Literal["amx", "avx512"]
_TILES = "AMX BF16"
_WITHOUT_TILES = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")


def tiers() -> list[Tier]:
    """Those that this CPU can run, the fastest first; none where it lacks what all need."""
    sets = set(read_isa().sets)
    if not sets >= NEEDED:
        return []
    return ["amx", "avx512"] if _TILES in sets else ["avx512"]


def built(folder: Path | None = None, tier: Tier | None = None) -> Path:
    """The proved library of ``tier`` (None: the CPU's fastest), made if need be and kept in ``folder`` (see
    ``compiled``). What it computes is what a CPU has that has nothing above the tier. Raises KernelsUnavailable.
    """
    sets = set(read_isa().sets)
    if missing := sorted(NEEDED - sets):
        raise KernelsUnavailable(f"this CPU has no {' and no '.join(missing)}")
    if tier == "amx" and _TILES not in sets:
        raise KernelsUnavailable(f"this CPU has no {_TILES}")
    # Without tiles there is nothing to switch off, and compilers that don't know them don't know the flags.
    return compiled(FOLDER, wrong_results, folder, _WITHOUT_TILES if tier == "avx512" and _TILES in sets else ())
