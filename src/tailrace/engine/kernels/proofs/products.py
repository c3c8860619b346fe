"""Products of weights in the file's order, against gguf's own dequantisation."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as GgmlType
from gguf.quants import dequantize

from tailrace.engine.kernels.formats import formats_of
from tailrace.engine.kernels.proofs.random_weights import Bytes, block_bytes, random_weights
from tailrace.engine.kernels.proofs.tensors import compute_params, pointer

Numbers = npt.NDArray[np.float32]

#: Rows, tokens and columns: remainders of every kind, and more tokens than are prepared at a time.
_SHAPES = ((1, 1, 256), (7, 3, 512), (66, 5, 1024), (13, 70, 768))
#: Of the largest sum. Both sides use single precision, and add in different orders.
_TOLERANCE = 2e-5


def wrong_products(library: ctypes.CDLL) -> list[str]:
    """The formats whose products ``library`` computes wrongly or not at all."""
    random = np.random.default_rng(7)
    return [
        each.name
        for each in formats_of(library)
        if each.in_file_order
        and not all(
            _agrees(library, GgmlType(each.ggml_type), GgmlType(each.activation_type), random, *shape)
            for shape in _SHAPES
        )
    ]


def _agrees(
    library: ctypes.CDLL,
    weight_type: GgmlType,
    activation_type: GgmlType,
    random: np.random.Generator,
    rows: int,
    tokens: int,
    columns: int,
) -> bool:
    weights = random_weights(weight_type, random, rows, columns)
    activations, values = quantised_activations(activation_type, random, tokens, columns)
    expected = values @ dequantize(weights, weight_type).astype(np.float64).T
    found = multiply_in_file_order(library, weight_type, weights, activation_type, activations, tokens)
    return bool(np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max())


def multiply_in_file_order(
    library: ctypes.CDLL,
    weight_type: GgmlType,
    weights: Bytes,
    activation_type: GgmlType,
    activations: Bytes,
    tokens: int,
    out: Numbers | None = None,
) -> Numbers:
    """The product with quantised activations, shape (tokens, rows): two threads' parts one after the other. It is
    written to ``out`` where that is given; NaN stays where the library computes nothing.
    """
    rows, row_bytes = weights.shape
    blocks = row_bytes // block_bytes(weight_type)
    found = np.empty((tokens, rows), np.float32) if out is None else out
    found[:] = np.nan
    sgemm = library.llamafile_sgemm
    sgemm.restype = ctypes.c_bool
    for thread in range(2):
        params = compute_params(thread, 2)
        sgemm(
            pointer(params),
            *map(ctypes.c_int64, (rows, tokens, blocks)),
            weights.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(blocks),
            activations.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(blocks),
            found.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(rows),
            *map(ctypes.c_int, (weight_type, activation_type, GgmlType.F32)),
        )
    return found


def quantised_activations(
    activation_type: GgmlType, random: np.random.Generator, tokens: int, columns: int
) -> tuple[Bytes, npt.NDArray[np.float64]]:
    """Random activations: quantised as llama.cpp does it, and their values."""
    super_blocks = activation_type == GgmlType.Q8_K
    size = 256 if super_blocks else 32
    blocks = tokens * columns // size
    # Sums under 2,048 and powers of two: Q8_1 has their product in 16 bits, which must not round it.
    quants = random.integers(-63, 64, (blocks, size), np.int8)
    scale = np.ldexp(1.0, random.integers(-9, -3, (blocks, 1))).astype(np.float32 if super_blocks else np.float16)
    parts = [scale.view(np.uint8)]
    if activation_type == GgmlType.Q8_1:
        parts.append((quants.sum(1, dtype=np.int32, keepdims=True) * scale).astype(np.float16).view(np.uint8))
    parts.append(quants.view(np.uint8))
    if super_blocks:
        parts.append(quants.reshape(blocks, 16, 16).sum(2, dtype=np.int16).view(np.uint8))
    values = (quants * scale.astype(np.float64)).reshape(tokens, columns)
    return np.ascontiguousarray(np.concatenate(parts, 1)), values
