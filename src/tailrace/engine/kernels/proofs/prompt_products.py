"""Products of repacked weights by the many tokens of a prompt, dense and by expert, which AMX tiles compute in bf16."""

from __future__ import annotations

import ctypes

import numpy as np
from gguf import GGMLQuantizationType as GgmlType
from gguf.quants import dequantize, quantize

from tailrace.engine.kernels.proofs.bf16 import round_to_bf16
from tailrace.engine.kernels.proofs.expert_products import Ids, multiply_by_expert
from tailrace.engine.kernels.proofs.random_weights import Bytes, block_weights, random_weights
from tailrace.engine.kernels.proofs.repacked_products import (
    WITH_MINIMA,
    Exact,
    Numbers,
    exact_product,
    multiply,
    repacked_types,
    repacking,
)
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool

#: Threads, rows, blocks of 32 weights in a row at least, and numbers of tokens: remainders of rows, of tokens and of
#: work chunks; few rows, where tokens are split among threads; long rows, which are computed in parts; a last group of
#: fewer than 16 rows.
_SHAPES = (
    (1, 80, 7, (64, 41, 40)),
    (2, 80, 7, (130, 57)),
    (2, 16, 1, (40,)),
    (2, 1072, 45, (70,)),
    (2, 75, 25, (48, 70)),
    (1, 91, 3, (64,)),
)
#: Rows of an expert, and blocks of 32 weights in a row at least: an odd number of groups of 16 rows, in parts.
_EXPERT_ROWS, _EXPERT_BLOCKS = 48, 25
#: Numbers of tokens, and how many of them each expert computes: more than a panel is multiplied with at once; a few,
#: which are not worth a tile; none.
_EXPERT_TOKENS = ((530, (530, 300, 160, 50, 20, 0)), (40, (40, 36, 3, 1, 0, 0)))
_USED = 2
#: Of the largest sum. Both sides round the same numbers to bf16. The kernels add minima of super-blocks in another way,
#: so some of these weights are rounded to the other side: 1.5e-3 in the worst of 288 matrices of Q4_K. Without any
#: rounding to bf16 the difference would be 4e-3.
_TOLERANCE = dict.fromkeys((GgmlType.Q2_K, GgmlType.Q4_K, GgmlType.Q5_K), 2.5e-3)
_OTHERS_TOLERANCE = 2e-5


def wrong_prompt_products(library: ctypes.CDLL) -> list[str]:
    """The formats whose products with many tokens ``library`` computes wrongly; none where it has no tiles."""
    library.tailrace_kernels_amx_usable.restype = ctypes.c_bool
    if not library.tailrace_kernels_amx_usable():
        return []
    return [f"prompt {ggml_type.name}" for ggml_type in repacked_types(library) if not _is_right(library, ggml_type)]


def _is_right(library: ctypes.CDLL, ggml_type: GgmlType) -> bool:
    # Of each format's own, so that its numbers don't depend on where the proof of another one ended.
    random = np.random.default_rng((17, ggml_type))
    return all(_agrees(library, ggml_type, random, *shape) for shape in _SHAPES) and all(
        _experts_agree(library, ggml_type, random, inputs) for inputs in (1, _USED)
    )


def _agrees(
    library: ctypes.CDLL,
    ggml_type: GgmlType,
    random: np.random.Generator,
    threads: int,
    rows: int,
    blocks: int,
    token_counts: tuple[int, ...],
) -> bool:
    weights = _weights(ggml_type, random, rows, blocks)
    columns = dequantize(weights[:1], ggml_type).shape[1]
    activations = random.standard_normal((max(token_counts), columns)).astype(np.float32)
    expected = _rounded_product(ggml_type, weights, activations)
    tolerance = _TOLERANCE.get(ggml_type, _OTHERS_TOLERANCE) * np.abs(expected).max()
    with stand_in_pool(library, threads), repacking(library, 2 * weights.nbytes):
        for tokens in token_counts:
            found = multiply(library, ggml_type, weights, activations[:tokens], threads=threads)
            if not np.abs(found - expected[:tokens]).max() <= tolerance:
                return False
    return True


def _weights(ggml_type: GgmlType, random: np.random.Generator, rows: int, blocks: int) -> Bytes:
    """Random weights with at least so many blocks of 32 in a row."""
    size = block_weights(ggml_type)
    columns = -(-blocks * 32 // size) * size
    if ggml_type in WITH_MINIMA:
        weights: Bytes = quantize(random.standard_normal((rows, columns)).astype(np.float32), ggml_type)
        return weights
    return random_weights(ggml_type, random, rows, columns)


def _rounded_product(ggml_type: GgmlType, weights: Bytes, activations: Numbers) -> Exact:
    """The product of weights and activations that are rounded to bf16."""
    rounded = round_to_bf16(dequantize(weights, ggml_type)).astype(np.float64)
    product: Exact = round_to_bf16(activations).astype(np.float64) @ rounded.T
    return product


def _experts_agree(library: ctypes.CDLL, ggml_type: GgmlType, random: np.random.Generator, inputs: int) -> bool:
    """``inputs``: each token has so many rows of activations, one for all of its experts or one for each. Experts with
    many tokens are computed in tiles, the others with activations of 8 bits.
    """
    for tokens, counts in _EXPERT_TOKENS:
        experts = [_weights(ggml_type, random, _EXPERT_ROWS, _EXPERT_BLOCKS) for _ in counts]
        columns = dequantize(experts[0][:1], ggml_type).shape[1]
        activations = random.standard_normal((tokens, inputs, columns)).astype(np.float32)
        ids = _ids_with(random, tokens, counts)
        weights = np.stack(experts)
        with stand_in_pool(library, 2), repacking(library, 2 * weights.nbytes):
            found = multiply_by_expert(library, ggml_type, weights, activations, ids)
        for expert, matrix in enumerate(experts):
            chosen, used = np.nonzero(ids == expert)
            if not len(chosen):
                continue
            own = activations[chosen, used % inputs]
            expected = [_rounded_product(ggml_type, matrix, own)]
            if expert:  # The first one is every token's.
                expected.append(exact_product(ggml_type, matrix, own))
            errors = [np.abs(found[chosen, used] - each).max() / np.abs(each).max() for each in expected]
            if not min(errors) <= _TOLERANCE.get(ggml_type, _OTHERS_TOLERANCE):
                return False
    return True


def _ids_with(random: np.random.Generator, tokens: int, counts: tuple[int, ...]) -> Ids:
    """The first expert is every token's, and each other one has so many tokens."""
    others = np.repeat(np.arange(1, len(counts), dtype=np.int32), counts[1:])
    assert len(others) == (_USED - 1) * tokens
    ids = np.stack([np.zeros(tokens, np.int32), random.permutation(others)], axis=1)
    return np.ascontiguousarray(ids, dtype=np.int32)
