"""The compiled library for this CPU, or the reason why there is none."""

from __future__ import annotations

from pathlib import Path

from tailrace.engine.kernels import KernelsUnavailable
from tailrace.engine.kernels.compile import compiled
from tailrace.engine.sampling.logits_ops.native.proof import wrong_results
from tailrace.machine.isa import read_isa

FOLDER = Path(__file__).parent
#: The instruction set that the C code is written for.
NEEDED = "AVX-512"


def built(folder: Path | None = None) -> Path:
    """The proved library, made if need be and kept in ``folder`` (see ``compiled``). Raises KernelsUnavailable."""
    if NEEDED not in read_isa().sets:
        raise KernelsUnavailable(f"this CPU has no {NEEDED}")
    return compiled(FOLDER, wrong_results, folder)
