"""Whether a built library computes what the formats mean: its products against gguf's own dequantisation.

A compiler that is wrong about one instruction would spoil every reply, and has been seen to be.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from tailrace.engine.kernels.attention_proof import attention_is_right
from tailrace.engine.kernels.interleaved_proof import wrong_interleaved
from tailrace.engine.kernels.layouts import LAYOUTS, Bytes, random_weights
from tailrace.engine.kernels.prompt_proof import wrong_wide
from tailrace.engine.kernels.standin import Call

Numbers = npt.NDArray[np.float32]

#: Each format that is computed, with that of the activations that llama.cpp gives it.
PARTNERS = {
    Kind.Q4_0: Kind.Q8_0,
    Kind.Q4_1: Kind.Q8_1,
    Kind.Q5_0: Kind.Q8_0,
    Kind.Q5_1: Kind.Q8_1,
    Kind.Q8_0: Kind.Q8_0,
    Kind.Q4_K: Kind.Q8_K,
    Kind.Q5_K: Kind.Q8_K,
    Kind.Q6_K: Kind.Q8_K,
}
#: Rows, columns and numbers in each: rests of every kind, and more columns than are made ready at a time.
_SHAPES = ((1, 1, 256), (7, 3, 512), (66, 5, 1024), (13, 70, 768))
#: Of the largest sum. Both sides use single precision, in another order.
_TOLERANCE = 2e-5


def wrong_results(library: ctypes.CDLL) -> list[str]:
    """Formats (``interleaved``; ``wide``, which is by many columns; or neither) and ``attention``, where ``library``
    computes them wrongly or not at all. Empty when all is well.
    """
    random = np.random.default_rng(7)
    wrong = [kind.name for kind in PARTNERS if not all(_agrees(library, kind, random, *shape) for shape in _SHAPES)]
    wrong += wrong_interleaved(library) + wrong_wide(library)
    return wrong if attention_is_right(library) else [*wrong, "attention"]


def _agrees(
    library: ctypes.CDLL, kind: Kind, random: np.random.Generator, rows: int, columns: int, numbers: int
) -> bool:
    weights = random_weights(kind, random, rows, numbers)
    activations, meant = _activations(PARTNERS[kind], random, columns, numbers)
    expected = meant @ dequantize(weights, kind).astype(np.float64).T
    found = multiply(library, kind, weights, activations, columns)
    return bool(np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max())


def multiply(
    library: ctypes.CDLL, kind: Kind, weights: Bytes, activations: Bytes, columns: int, into: Numbers | None = None
) -> Numbers:
    """The product by ``library``, by two threads' shares in turn, in ``into`` or an array of its own; NaN where it did
    nothing.
    """
    rows = len(weights)
    blocks = weights.shape[1] // LAYOUTS[kind].bytes
    found = np.empty((columns, rows), np.float32) if into is None else into
    found[:] = np.nan
    product = library.llamafile_sgemm
    product.restype = ctypes.c_bool
    for thread in range(2):
        call = Call(thread, 2, 0, None, None)
        product(
            ctypes.byref(call),
            *map(ctypes.c_int64, (rows, columns, blocks)),
            weights.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(blocks),
            activations.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(blocks),
            found.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(rows),
            *map(ctypes.c_int, (kind, PARTNERS[kind], Kind.F32)),
        )
    return found


def _activations(
    kind: Kind, random: np.random.Generator, columns: int, numbers: int
) -> tuple[Bytes, npt.NDArray[np.float64]]:
    """Blocks as llama.cpp would make them, and the numbers that they stand for."""
    size = 256 if kind == Kind.Q8_K else 32
    blocks = columns * numbers // size
    # Sums under 2,048 and powers of two: Q8_1 keeps their product in 16 bits, which must not round it.
    quants = random.integers(-63, 64, (blocks, size), np.int8)
    scale = np.ldexp(1.0, random.integers(-9, -3, (blocks, 1))).astype(np.float32 if kind == Kind.Q8_K else np.float16)
    parts = [scale.view(np.uint8)]
    if kind == Kind.Q8_1:
        parts.append((quants.sum(1, dtype=np.int32, keepdims=True) * scale).astype(np.float16).view(np.uint8))
    parts.append(quants.view(np.uint8))
    if kind == Kind.Q8_K:
        parts.append(quants.reshape(blocks, 16, 16).sum(2, dtype=np.int16).view(np.uint8))
    meant = (quants * scale.astype(np.float64)).reshape(columns, numbers)
    return np.ascontiguousarray(np.concatenate(parts, 1)), meant
