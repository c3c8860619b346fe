"""Products of repacked weights by the many tokens of a prompt, which AMX tiles compute in bf16."""

from __future__ import annotations

import ctypes

import numpy as np
from gguf import GGMLQuantizationType as GgmlType
from gguf.quants import dequantize, quantize

from tailrace.engine.kernels.proofs.bf16 import round_to_bf16
from tailrace.engine.kernels.proofs.random_weights import block_weights, random_weights
from tailrace.engine.kernels.proofs.repacked_products import WITH_MINIMA, multiply, repacked_types, repacking
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool

#: Threads, rows, blocks of 32 weights in a row at least, and numbers of tokens: remainders of rows, of tokens and of
#: work chunks; few rows, where tokens are split among threads; long rows, which are computed in parts.
_SHAPES = (
    (1, 80, 7, (64, 41, 40)),
    (2, 80, 7, (130, 57)),
    (2, 16, 1, (40,)),
    (2, 1072, 45, (70,)),
)
#: Of the largest sum. Both sides round the same numbers to bf16. The kernels add the minima of super-blocks in another
#: way, so some of their weights are rounded to the other side. Without any rounding to bf16 the difference would be
#: 4e-3.
_TOLERANCE = dict.fromkeys((GgmlType.Q2_K, GgmlType.Q4_K, GgmlType.Q5_K), 1e-3)
_OTHERS_TOLERANCE = 2e-5


def wrong_prompt_products(library: ctypes.CDLL) -> list[str]:
    """The formats whose products with many tokens ``library`` computes wrongly; none where it has no tiles."""
    library.tailrace_kernels_amx_usable.restype = ctypes.c_bool
    if not library.tailrace_kernels_amx_usable():
        return []
    random = np.random.default_rng(17)
    return [
        f"prompt {ggml_type.name}"
        for ggml_type in repacked_types(library)
        if not all(_agrees(library, ggml_type, random, *shape) for shape in _SHAPES)
    ]


def _agrees(
    library: ctypes.CDLL,
    ggml_type: GgmlType,
    random: np.random.Generator,
    threads: int,
    rows: int,
    blocks: int,
    token_counts: tuple[int, ...],
) -> bool:
    size = block_weights(ggml_type)
    columns = -(-blocks * 32 // size) * size
    weights = (
        quantize(random.standard_normal((rows, columns)).astype(np.float32), ggml_type)
        if ggml_type in WITH_MINIMA
        else random_weights(ggml_type, random, rows, columns)
    )
    activations = random.standard_normal((max(token_counts), columns)).astype(np.float32)
    rounded = round_to_bf16(dequantize(weights, ggml_type)).astype(np.float64)
    expected = round_to_bf16(activations).astype(np.float64) @ rounded.T
    tolerance = _TOLERANCE.get(ggml_type, _OTHERS_TOLERANCE) * np.abs(expected).max()
    with stand_in_pool(library, threads), repacking(library, 2 * weights.nbytes):
        for tokens in token_counts:
            found = multiply(library, ggml_type, weights, activations[:tokens], threads=threads)
            if not np.abs(found - expected[:tokens]).max() <= tolerance:
                return False
    return True
