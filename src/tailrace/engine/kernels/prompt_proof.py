"""Whether a built library's products with many columns, in tiles of bf16, are what the formats mean."""

from __future__ import annotations

import ctypes

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from tailrace.engine.kernels.interleaved_proof import KINDS, Exact, Numbers, copying, multiply
from tailrace.engine.kernels.layouts import LAYOUTS, random_weights
from tailrace.engine.kernels.standin import linked

#: Threads, rows of weights and blocks of 32 in them at least, and numbers of columns: rests of rows, of columns and of
#: units of work, columns that are cut because rows are few, rows that are cut into parts.
_SHAPES = (
    (1, 80, 7, (64, 41, 40)),
    (2, 80, 7, (130, 57)),
    (2, 16, 1, (40,)),
    (2, 1072, 45, (70,)),
)
#: Of the largest sum. Both sides round the same numbers to bf16, of which none here lies so near to the middle of two
#: that Q4_1's m, which is added in another way, brings it to the other side; of Q4_K's some do. Without rounding it
#: would be 4e-3.
_TOLERANCE = {Kind.Q4_K: 1e-3}
_OTHERS_TOLERANCE = 2e-5


def wrong_wide(library: ctypes.CDLL) -> list[str]:
    """Formats whose products with many columns ``library`` computes wrongly; none where there are no tiles. The
    library's links to llama.cpp are made anew after this.
    """
    library.tailrace_kernels_amx_usable.restype = ctypes.c_bool
    if not library.tailrace_kernels_amx_usable():
        return []
    random = np.random.default_rng(17)
    return [f"wide {kind.name}" for kind in KINDS if not all(_agrees(library, kind, random, *s) for s in _SHAPES)]


def _agrees(
    library: ctypes.CDLL,
    kind: Kind,
    random: np.random.Generator,
    threads: int,
    rows: int,
    blocks: int,
    counts: tuple[int, ...],
) -> bool:
    size = LAYOUTS[kind].numbers
    numbers = -(-blocks * 32 // size) * size
    weights = (
        random_weights(kind, random, rows, numbers)
        if size > 32
        else quantize(random.standard_normal((rows, numbers)).astype(np.float32), kind)
    )
    activations = random.standard_normal((max(counts), numbers)).astype(np.float32)
    expected = _rounded(activations) @ _rounded(dequantize(weights, kind)).T
    with linked(library, threads), copying(library, 2 * weights.nbytes):
        for columns in counts:
            found = multiply(library, kind, weights, activations[:columns], threads=threads)
            if (
                not np.abs(found - expected[:columns]).max()
                <= _TOLERANCE.get(kind, _OTHERS_TOLERANCE) * np.abs(expected).max()
            ):
                return False
    return True


def _rounded(numbers: Numbers) -> Exact:
    """The nearest numbers of bf16, even ones where two are as near."""
    bits = numbers.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)).astype(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)
