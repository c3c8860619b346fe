"""Products of repacked weights, by any number of tokens, against gguf's own dequantisation."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as GgmlType
from gguf.quants import dequantize

from tailrace.engine.kernels.formats import formats_of
from tailrace.engine.kernels.proofs.bf16 import round_to_bf16
from tailrace.engine.kernels.proofs.random_weights import FLOATS, Bytes, block_bytes, block_weights, random_weights
from tailrace.engine.kernels.proofs.row_maxima import row_maxima_of, take_row_maxima
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import WEIGHTS, compute, set_sources, tensor_of, weight_tensor

Numbers = npt.NDArray[np.float32]
Exact = npt.NDArray[np.float64]

#: Formats of blocks of 32 with a minimum besides the scale, whose activations have their sums, rounded to 16 bits.
WITH_MINIMA = frozenset({GgmlType.Q4_1, GgmlType.Q5_1})
#: Rows, blocks of a row and numbers of tokens: few groups of 16 rows with every remainder of tokens; (None) so many
#: rows that threads take work chunks; and a last group of fewer rows. With more tokens a product may go through tiles
#: (``prompt_products``).
_SHAPES = ((80, 7, (39, 16, 9, 8, 7, 6, 5, 4, 3, 2, 1)), (16, 1, (1,)), (None, 17, (3,)), (75, 3, (17, 9, 8, 4, 1)))
#: Of the largest sum. Both sides use single precision, and add in different orders.
_TOLERANCE = 2e-5
#: Bytes of weights from which two threads take work chunks. Only then there are row maxima.
_CHUNKED_BYTES = 1 << 20
#: The model that the proof's weights belong to.
_MODEL_ID = 1


def repacked_types(library: ctypes.CDLL) -> list[GgmlType]:
    """The formats that ``library`` repacks."""
    return [GgmlType(each.ggml_type) for each in formats_of(library) if each.repacked]


def wrong_repacked_products(library: ctypes.CDLL) -> list[str]:
    """The formats whose repacked products ``library`` computes wrongly or not at all."""
    random = np.random.default_rng(13)
    with stand_in_pool(library):
        return [
            f"repacked {ggml_type.name}"
            for ggml_type in repacked_types(library)
            if not all(_agrees(library, ggml_type, random, *shape) for shape in _SHAPES)
        ]


def _agrees(
    library: ctypes.CDLL,
    ggml_type: GgmlType,
    random: np.random.Generator,
    rows: int | None,
    blocks: int,
    token_counts: tuple[int, ...],
) -> bool:
    block = block_weights(ggml_type)
    rows = rows or (_CHUNKED_BYTES // (16 * blocks * block_bytes(ggml_type)) + 1) * 16
    weights = random_weights(ggml_type, random, rows, blocks * block)
    activations = random.standard_normal((max(token_counts), blocks * block)).astype(np.float32)
    activations[-1, :block] = 0
    expected = exact_product(ggml_type, weights, activations)
    all_tokens: Numbers | None = None
    with repacking(library, 2 * weights.nbytes):
        for tokens, sequences in _batches(token_counts):
            found = multiply(library, ggml_type, weights, activations[:tokens], sequences=sequences)
            if not np.abs(found - expected[:tokens]).max() <= _TOLERANCE * np.abs(expected).max():
                return False
            if weights.nbytes > _CHUNKED_BYTES and not _has_maxima(library, found):
                return False
            # To the last bit: a token's numbers are independent of how many others are computed with it.
            all_tokens = found if all_tokens is None else all_tokens
            if not np.array_equal(found, all_tokens[:tokens]):
                return False
    return True


def _batches(token_counts: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Numbers of tokens, and of the sequences that share them."""
    for tokens in token_counts:
        yield tokens, 1
        if tokens > 1 and tokens % 2 == 0:
            yield tokens, 2


@contextmanager
def repacking(library: ctypes.CDLL, budget: int) -> Iterator[None]:
    """Inside the block weights are repacked, up to ``budget`` bytes; after it the repacked weights are freed."""
    library.tailrace_kernels_set_repack_budget(_MODEL_ID, ctypes.c_int64(budget))
    try:
        yield
    finally:
        library.tailrace_kernels_set_repack_budget(_MODEL_ID, ctypes.c_int64(0))
        library.tailrace_kernels_free_repacked(_MODEL_ID)


def _has_maxima(library: ctypes.CDLL, logits: Numbers) -> bool:
    maxima = take_row_maxima(library)
    return maxima is not None and np.array_equal(maxima, row_maxima_of(logits))


def multiply(
    library: ctypes.CDLL,
    ggml_type: GgmlType,
    weights: Bytes,
    activations: Numbers,
    *,
    threads: int = 2,
    usage: int = WEIGHTS,
    name: bytes = b"result_output",
    sequences: int = 1,
) -> Numbers:
    """The product as llama.cpp asks for it, shape (tokens, rows), by as many threads as the stand-in pool has. NaN
    stays where the library computes nothing. It repacks the weights where it may. The default name is that of logits.
    ``sequences``: the tensors have a dimension for so many, as recurrent layers have it.
    """
    own, inputs = weight_tensor(ggml_type, weights, usage), tensor_of(_with_sequences(activations, sequences))
    found = np.full((len(activations), len(weights)), np.nan, np.float32)
    result = tensor_of(_with_sequences(found, sequences))
    set_sources(result, own, inputs)
    result.set("name", name)
    compute(library.ggml_compute_forward_mul_mat_tiled, result, threads)
    return found


def _with_sequences(tokens: Numbers, sequences: int) -> Numbers:
    """A view of the rows ``tokens``, shape (1, sequences, tokens of each, numbers)."""
    return tokens.reshape(1, sequences, len(tokens) // sequences, tokens.shape[1])


def exact_product(ggml_type: GgmlType, weights: Bytes, activations: Numbers) -> Exact:
    """The exact product with activations that are quantised as llama.cpp does it."""
    values: Exact = dequantize(weights, ggml_type).astype(np.float64)
    if ggml_type in FLOATS:
        same = activations.astype(np.float16) if ggml_type == GgmlType.F16 else round_to_bf16(activations)
        exact: Exact = same.astype(np.float64) @ values.T
        return exact
    size = block_weights(ggml_type)
    blocks = activations.reshape(len(activations), -1, size)
    largest = np.abs(blocks).max(2, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest != 0)
    quants = np.rint(blocks * inverse)
    if size == 256:
        scale = np.divide(np.float32(1), inverse, out=np.zeros_like(largest), where=largest != 0)
        stored = scale.astype(np.float64)
    else:
        scale = largest / np.float32(127)
        stored = scale.astype(np.float16).astype(np.float64)
    rounded: Exact = (quants * stored).reshape(activations.shape)
    expected: Exact = rounded @ values.T
    if ggml_type not in WITH_MINIMA:
        return expected
    minima = (
        weights.reshape(len(weights), -1, block_bytes(ggml_type))[:, :, 2:4]
        .copy()
        .view(np.float16)[..., 0]
        .astype(np.float64)
    )
    sums = (scale * quants.sum(2, keepdims=True, dtype=np.float32)).astype(np.float16)[..., 0].astype(np.float64)
    # The minima are multiplied with the stored sums, which are rounded once more.
    expected += (sums - rounded.reshape(len(rounded), -1, 32).sum(2)) @ minima.T
    return expected
